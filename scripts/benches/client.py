"""The process that is measured: ``python -m benches.client NAME SPEC`` does one thing and prints one line of JSON.

Imports come before the clock starts; CPU is of this process with its threads, and of children it waited for.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from benches import loops
from benches.process import at_home, cpu_seconds, many_files, memory_mib

Work = Callable[[loops.Spec], Mapping[str, Any]]


def _loop(send_all: Callable[[loops.Spec], Coroutine[Any, Any, int]], *modules: str) -> Callable[[], Work]:
    def ready() -> Work:
        for module in modules:
            __import__(module)

        def work(spec: loops.Spec) -> Mapping[str, Any]:
            return {"rows": asyncio.run(send_all(spec))}

        return work

    return ready


def _batchvision(name: str) -> Callable[[], Work]:
    def ready() -> Work:
        from batchvision.cli.entry import GC_THRESHOLDS
        from benches import batchvision_runs as runs

        gc.set_threshold(*GC_THRESHOLDS)
        return {
            "run": lambda spec: {"rows": runs.with_batchvision(spec)},
            "memory": runs.memory_of_a_run,
            "resume": runs.resumed,
            "tickets": runs.with_tickets,
            "plan": runs.planned,
        }[name]

    return ready


def _seals(name: str) -> Callable[[], Work]:
    def ready() -> Work:
        from benches import seal_runs

        work: Work = getattr(seal_runs, name)
        return work

    return ready


def _loads(name: str) -> Callable[[], Work]:
    def ready() -> Work:
        from benches import load_runs

        work: Work = getattr(load_runs, name)
        return work

    return ready


def _material() -> Work:
    from benches.material import make

    return make


CONTENDERS: dict[str, Callable[[], Work]] = {
    "aiohttp": _loop(loops.with_aiohttp, "aiohttp"),
    "httpx": _loop(loops.with_httpx, "httpx"),
    "transport": _loop(loops.with_transport, "batchvision.http"),
    "read objects": _loop(loops.read_objects, "obstore"),
    "openai": _loop(loops.with_openai, "openai"),
    "batchvision": _batchvision("run"),
    "memory": _batchvision("memory"),
    "resume": _batchvision("resume"),
    "plan": _batchvision("plan"),
    "tickets": _batchvision("tickets"),
    "seals": _seals("seal_costs"),
    "accepted": _seals("accepted"),
    "stall": _seals("stall"),
    "wide output": _loads("made_wide"),
    "load": _loads("loaded"),
    "bulk duckdb": _loads("bulk_duckdb"),
    "bulk postgres": _loads("bulk_postgres"),
    "material": lambda: _material(),
}


def main() -> None:
    name, spec = sys.argv[1], json.loads(sys.argv[2])
    at_home(spec.get("core"))
    many_files()
    if spec.get("plain_base64"):
        sys.modules["pybase64"] = None  # type: ignore[assignment]  # as if it were not installed
    work = CONTENDERS[name]()
    gc.collect()
    cpu, started = cpu_seconds(), time.perf_counter()
    found = work(spec)
    measured = {"seconds": time.perf_counter() - started, "cpu_seconds": cpu_seconds() - cpu}
    sys.stdout.write(json.dumps({**measured, "peak_mib": memory_mib(), **found}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # a thread of obstore that still drops its objects would abort the end of the interpreter


if __name__ == "__main__":
    main()
