"""A run over time: answers, failures, retries, cost and latency of equal spans."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint import OutputView
from batchvision.commands.report.values import TimeSpan
from batchvision.records import RunSummary

SPANS = 60
_COLUMNS = ("run_id", "state", "received_at", "latency_ms", "cost_ticks")
#: Latencies are kept of this many attempts, so that memory stays flat.
MOST_LATENCIES = 200_000


def spans_of(view: OutputView, run: RunSummary) -> tuple[TimeSpan, ...]:
    """The attempts of a run by the time of their end. A run without an attempt has no spans."""
    begin = datetime.fromisoformat(run.started_at)
    length = max(run.duration_seconds, 1.0) / SPANS
    counts: dict[str, NDArray[Any]] = {name: np.zeros(SPANS, np.int64) for name in ("ok", "failed", "retried")}
    ticks, latencies = np.zeros(SPANS, np.int64), [list[float]() for _ in range(SPANS)]
    kept = 0
    for batch in _of_run(view, run.run_id):
        seconds = pc.subtract(batch["received_at"], pa.scalar(begin, pa.timestamp("us", "UTC"))).cast(pa.int64())
        spans = np.clip((seconds.to_numpy(zero_copy_only=False) / 1e6 / length).astype(int), 0, SPANS - 1)
        states = np.asarray(batch["state"].to_pylist())
        for name, found in counts.items():
            np.add.at(found, spans[states == name], 1)
        np.add.at(ticks, spans, pc.fill_null(batch["cost_ticks"], 0).to_numpy(zero_copy_only=False))
        if kept < MOST_LATENCIES:
            for span, state, milliseconds in zip(spans, states, batch["latency_ms"].to_pylist(), strict=True):
                if state == "ok" and milliseconds is not None:
                    latencies[span].append(milliseconds / 1000)
            kept += batch.num_rows
    if not sum(found.sum() for found in counts.values()):
        return ()
    return tuple(
        TimeSpan(
            number * length,
            length,
            int(counts["ok"][number]),
            int(counts["failed"][number]),
            int(counts["retried"][number]),
            int(ticks[number]),
            float(np.median(latencies[number])) if latencies[number] else None,
            float(np.percentile(latencies[number], 95)) if latencies[number] else None,
        )
        for number in range(SPANS)
    )


def _of_run(view: OutputView, run_id: str) -> Iterator[pa.RecordBatch]:
    for batch in view.rows("attempts", _COLUMNS):
        found = batch.filter(pc.and_(pc.equal(batch["run_id"], run_id), pc.is_valid(batch["received_at"])))
        if found.num_rows:
            yield found
