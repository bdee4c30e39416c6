"""batchvision as a contender: a whole run, from the manifest to the sealed tables, by its public functions."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TextIO
from unittest.mock import patch

import anyio
import httpx
from anyio.lowlevel import checkpoint

from batchvision.job import Job
from batchvision.records import Counters, RawAnswer, RunSummary
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.feed import Selection
from batchvision.runner.session import run_async
from benches.loops import MODEL, QUESTION, SYSTEM, Spec
from benches.process import cpu_seconds, memory_mib
from benches.server import PROMPT_TOKENS, chat

Watch = Callable[[Counters], Coroutine[Any, Any, None]]

ENVIRON = {"XAI_API_KEY": "bench-key-0000"}


def settings_of(spec: Spec) -> dict[str, Any]:
    """The settings of the job file."""
    limits = {"concurrency": spec.get("in_flight", 256), **spec.get("limits", {})}
    if "seconds" in spec:
        limits["max_runtime_seconds"] = spec["seconds"]
    return {
        "name": "bench",
        "manifest": {"path": spec["manifest"], "id": "sku", "keep": ["title"]},
        "prompt": {"system": SYSTEM, "user": spec.get("question", QUESTION)},
        "provider": {"name": "xai", "model": MODEL, "base_url": f"{spec['url']}/v1"},
        "limits": limits,
        "output": {"path": spec["output"]},
        "delivery": {"lane": spec.get("lane", "online")},
    }


def job_of(spec: Spec) -> Job:
    return Job.from_mapping(settings_of(spec), Path(spec["folder"]), {})


def job_file(spec: Spec) -> Path:
    """The same job as a file, for the command."""
    path = Path(spec["folder"]) / f"{spec['output']}.toml"
    lines: list[str] = []
    for section, values in settings_of(spec).items():
        if not isinstance(values, dict):
            lines.insert(0, f"{section} = {json.dumps(values)}")
            continue
        lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def session(spec: Spec, watch: Watch | None = None, dependencies: RunDependencies | None = None) -> RunSummary:
    selection = Selection(limit=spec.get("limit"))
    start = partial(
        run_async, job_of(spec), selection=selection, environ=ENVIRON, watch=watch, dependencies=dependencies
    )
    return anyio.run(start)


def with_batchvision(spec: Spec) -> int:
    """The rows that have an answer."""
    if not spec.get("progress"):
        return _checked(session(spec), spec)
    with Path("/dev/null").open("w") as nowhere:
        return _checked(session(spec, _bar(nowhere)), spec)


def _checked(summary: RunSummary, spec: Spec) -> int:
    if summary.exit_code and "seconds" not in spec:
        raise RuntimeError(f"the run did not end well: {summary.stop_reason} {summary.message}")
    if summary.requests_sent < summary.rows_completed:
        raise RuntimeError("rows shared answers: this would measure fewer requests than rows")
    return summary.rows_completed


def _bar(stream: TextIO) -> Watch:
    from batchvision.cli.progress import Style, watcher

    watch = watcher(Style.BAR, stream)
    assert watch is not None
    return watch


# ---------------------------------------------------------------------------------- without a network


def stubbed() -> RunDependencies:
    """The dependencies of a run with a provider that answers at once."""
    body = chat(PROMPT_TOKENS)

    async def answer(request: httpx.Request) -> httpx.Response:
        await checkpoint()
        return httpx.Response(200, headers={"content-type": "application/json"}, content=body)

    return RunDependencies(rng=random.Random(0), transport=httpx.MockTransport(answer))


def memory_of_a_run(spec: Spec) -> Mapping[str, Any]:
    """Memory of a run after its first ``early`` rows and at its end."""
    seen: dict[str, float] = {}

    async def watch(counters: Counters) -> None:
        while True:
            if counters.rows_completed >= spec["early"]:
                seen.setdefault("early_mib", memory_mib("VmRSS"))
                seen["late_mib"] = memory_mib("VmRSS")
            await anyio.sleep(0.02)

    rows = _checked(session(spec, watch, stubbed()), spec)
    return {"rows": rows, **seen}


def resumed(spec: Spec) -> Mapping[str, Any]:
    """A run that finds nearly all of its manifest done; ``limit`` rows are asked."""
    summary = session(spec, dependencies=stubbed())
    return {"rows": summary.rows_total, "left": summary.rows_pending}


def planned(spec: Spec) -> Mapping[str, Any]:
    from batchvision.commands.plan import plan

    drawn = anyio.run(plan, job_of(spec))
    return {"rows": drawn.rows.total, "left": drawn.rows.total - drawn.rows.done}


# ---------------------------------------------------------------------------------- tickets


class Enough(Exception):
    """The measurement is complete."""


def with_tickets(spec: Spec) -> Mapping[str, Any]:
    """Run the deferred lane until ``rows`` tickets have been open for ``seconds``.

    Measure the CPU of that time and the delay of each poll against the timetable of the lane.
    """
    from batchvision.http import ProviderClient
    from batchvision.runner.exchange import Exchanges, OpenTicket
    from batchvision.runner.lanes.ticket_queue import QueuedTicket, TicketQueue

    due: dict[str, float] = {}
    late: list[float] = []
    seen: dict[str, Any] = {}
    pop_due, collect, send = TicketQueue.pop_due, Exchanges.collect, ProviderClient.send

    def popped(self: TicketQueue) -> QueuedTicket | None:
        waiting = pop_due(self)
        if waiting is not None:
            due[waiting.ticket.exchange_id] = waiting.due_at
        return waiting

    async def polled(self: Exchanges, ticket: OpenTicket, **options: Any) -> Any:
        due[str(self._store.exchange(ticket.exchange_id).ticket)] = due.pop(ticket.exchange_id)
        return await collect(self, ticket, **options)

    async def sent(self: ProviderClient, method: str, path: str, *arguments: Any, **more: Any) -> RawAnswer:
        if method == "GET":
            late.append(anyio.current_time() - due.pop(path.rpartition("/")[2]))
        return await send(self, method, path, *arguments, **more)

    async def watch(counters: Counters) -> None:
        while True:
            await anyio.sleep(0.1)
            if counters.tickets_open >= spec["rows"]:
                break
        late.clear()
        cpu, began, first = cpu_seconds(), time.perf_counter(), time.monotonic()
        await anyio.sleep(spec["seconds"])
        span = time.perf_counter() - began
        seen.update(core_share=(cpu_seconds() - cpu) / span, late=sorted(late), since=first, span=span)
        raise Enough

    patched = ((TicketQueue, "pop_due", popped), (Exchanges, "collect", polled), (ProviderClient, "send", sent))
    with ExitStack() as patches:
        for owner, name, replacement in patched:
            patches.enter_context(patch.object(owner, name, replacement))
        try:
            session({**spec, "seconds": 3600}, watch)
        except* Enough:
            pass
    return {"rows": spec["rows"], **seen}
