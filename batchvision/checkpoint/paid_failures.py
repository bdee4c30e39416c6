"""Paid failures, read from the ledger. ``failures/`` shows only the rows that are failed under today's request.

A row may leave the manifest, or have another cell, for one run. Its failure under the first request stays paid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint.cells import cell_of
from batchvision.checkpoint.parts import batches_of, part_paths, schema_of
from batchvision.checkpoint.schema import ATTEMPTS
from batchvision.errors import PAID_FAILURES
from batchvision.records import AttemptState, Failed, Purpose

Key = tuple[str, str]  #: row_id and request_key

_KINDS = pa.array(sorted(PAID_FAILURES), pa.string())
_STATES = pa.array([AttemptState.FAILED.value, AttemptState.LOST_AFTER_READ.value], pa.string())
_FIXED = frozenset(column.name for column in ATTEMPTS)
_READ = (
    "row_id",
    "request_key",
    "recipe_id",
    "attempt",
    "state",
    "error_kind",
    "error_message",
    "sent_at",
    "received_at",
    "run_id",
)


@dataclass(slots=True)
class _PaidRequest:
    """The failed attempts of one request: the last one, the runs that met them, and the cost of the request."""

    last: dict[str, Any]
    runs: set[str] = field(default_factory=set)
    cost_ticks: int = 0

    def failed(self) -> Failed:
        line = self.last
        return Failed(
            row_id=line["row_id"],
            request_key=line["request_key"],
            skip_key="",  # the ledger does not have it: known again by its request_key alone
            recipe_id=line["recipe_id"],
            error_kind=line["error_kind"],
            error_message=line["error_message"] or "",
            last_error_kind=None,
            attempt_count=line["attempt"],
            row_cost_ticks=self.cost_ticks,
            runs_failed=len(self.runs),
            quarantined=False,
            last_output_text=None,
            failed_at=line["received_at"] or line["sent_at"],
            run_id=line["run_id"],
            keep={name: cell_of(value) for name, value in line.items() if name not in _FIXED},
        )


def read_paid_failures(output: Path, is_wanted: Callable[[str, str], bool]) -> dict[Key, Failed]:
    """The failed rows that money was spent on, by row_id and request_key. Raises CheckpointDamaged.

    ``is_wanted``: False for a request that has its answer.
    """
    paid: dict[Key, _PaidRequest] = {}
    for path in part_paths(output, "attempts"):
        if not _has_any(path):
            continue
        for line in _failed_lines(path):
            key = line["row_id"], line["request_key"]
            if Purpose.of_run_id(line["run_id"]) is Purpose.SWEEP or not is_wanted(*key):
                continue
            known = paid.setdefault(key, _PaidRequest(line))
            known.runs.add(line["run_id"])
            if line["attempt"] >= known.last["attempt"]:
                known.last = line
    if paid:
        _add_costs(output, paid)
    return {key: each.failed() for key, each in paid.items()}


def _has_any(path: Path) -> bool:
    """Most parts have no paid failure. One small column shows that."""
    return any(pc.any(pc.is_in(batch["error_kind"], _KINDS)).as_py() for batch in batches_of(path, ("error_kind",)))


def _failed_lines(path: Path) -> Iterator[dict[str, Any]]:
    kept = [name for name in schema_of(path).names if name not in _FIXED]
    for batch in batches_of(path, (*_READ, *kept)):
        is_failed = pc.and_(pc.is_in(batch["error_kind"], _KINDS), pc.is_in(batch["state"], _STATES))
        yield from batch.filter(is_failed).to_pylist()


def _add_costs(output: Path, paid: Mapping[Key, _PaidRequest]) -> None:
    keys = pa.array(sorted({request_key for _, request_key in paid}), pa.string())
    for path in part_paths(output, "attempts"):
        for batch in batches_of(path, ("row_id", "request_key", "cost_ticks", "run_id")):
            for line in batch.filter(pc.is_in(batch["request_key"], keys)).to_pylist():
                known = paid.get((line["row_id"], line["request_key"]))
                if known is not None and Purpose.of_run_id(line["run_id"]) is not Purpose.SWEEP:
                    known.cost_ticks += line["cost_ticks"] or 0
