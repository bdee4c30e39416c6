"""The counters of a run are those of its journal: a replay of the records comes to the same figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

import anyio
import pytest
from fake_provider import Asked, FakeProvider, Reply, chat, error
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from batchvision.checkpoint import Closed, Received, Record, RunState
from batchvision.checkpoint.journal import Journal
from batchvision.checkpoint.record_json import decode, encode
from batchvision.errors import ConnectionCut, Transient
from batchvision.records import Counters
from batchvision.runner.booking import RunCounts

#: Of the provider: answered, failing once, failing always, billed unseen, refused, rejected.
AT_PROVIDER = ["ok", "ok", "once", "down", "cut", "refused", "rejected"]
#: Found before anything is sent.
HERE = ["missing", "blank"]
#: ``rows_failed_at_provider`` is not in a record: only the run under way needs it, for ``max_failed``.
COUNTED = (
    "rows_completed",
    "rows_failed",
    "rows_ambiguous",
    "ambiguous_ticks",
    "unbounded",
    "cost_ticks",
    "unknown_cost",
    "tickets_open",
    "prompt_tokens",
    "completion_tokens",
    "failures_by_kind",
)


def script(asked: Asked) -> Reply | Transient | None:
    match asked.row:
        case "once" if asked.try_ == 1:
            return error(500, "boom")
        case "down":
            return error(500, "boom")
        case "cut":
            return ConnectionCut("cut")
        case "refused":
            return Reply(200, chat("no", finish="content_filter"))
        case "rejected":
            return error(400, "no")
    return None


@contextmanager
def recorded() -> Iterator[list[Record]]:
    """The records that runs append to their journals, as a reader of the files has them."""
    records: list[Record] = []
    append = Journal.append

    def noted(self: Journal, record: Record) -> Any:
        records.append(decode(from_json(encode(record, lambda text: text))))
        return append(self, record)

    with mock.patch.object(Journal, "append", noted):
        yield records


def replay(run_id: str, records: list[Record]) -> RunCounts:
    run_state, counts = RunState(), RunCounts(run_id)
    for record in records:
        exchange = run_state.open.get(record.exchange_id) if isinstance(record, Received | Closed) else None
        run_state.apply(record)
        counts.apply(record, exchange)
    return counts


@pytest.mark.parametrize("lane", ["online", "deferred"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fates=st.lists(st.sampled_from(AT_PROVIDER + HERE), min_size=1, max_size=25))
def test_a_replay_of_the_records_gives_the_counters_of_the_run(job_runs, lane: str, fates: list[str]) -> None:  # type: ignore[no-untyped-def]  # a fixture
    images = {"missing": "gone.jpg", "blank": ""}
    lines = [
        f"r{n},{images.get(fate, f'https://images.example/{n % 3}.jpg')},{n % 3} [[{fate}]]"
        for n, fate in enumerate(fates)
    ]
    (job_runs.folder / "photos.csv").write_text("\n".join(["sku,image,title", *lines]) + "\n")
    job_runs.settings["prompt"] = {"user": "Describe {title}"}
    live: list[Counters] = []

    async def watch(counters: Counters) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            live.append(replace(counters))

    output = f"out-{job_runs.runs_made}"
    with recorded() as records:
        summary = job_runs.run(
            FakeProvider(script), watch=watch, output__path=output, delivery__lane=lane, limits__max_attempts=2
        )
    [counters] = live
    replayed = replay(summary.run_id, records)
    for name in COUNTED:
        assert getattr(replayed.counters, name) == getattr(counters, name), name
    assert replayed.spending.document() == summary.spent
    assert (replayed.counters.rows_completed, replayed.counters.rows_failed) == (
        summary.rows_completed,
        summary.rows_failed,
    )
