"""The figures of a run at one moment, for progress lines and for ``status``. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from batchvision.records.summaries import Counters, WaitNotice

#: Fewer answers say too little about the cost and time of the remaining rows.
ROWS_BEFORE_PROJECTION = 5


@dataclass(frozen=True, slots=True)
class Progress:
    """The numbers of one moment. ``rows_settled`` and the rate cover this run only.

    ``projected_ticks`` and ``seconds_left`` are ``None`` while too few rows have ended, and at the end of the run.
    """

    at: datetime
    rows_total: int
    rows_done_before: int
    rows_completed: int
    rows_failed: int
    rows_settled: int
    rows_left: int
    in_flight: int
    tickets_open: int
    requests_sent: int
    retries: int
    cost_ticks: int
    unknown_cost: int
    rows_per_second: float
    projected_ticks: int | None
    seconds_left: float | None
    waiting: WaitNotice | None

    @property
    def rows_answered(self) -> int:
        return self.rows_done_before + self.rows_completed

    @property
    def rows_ended(self) -> int:
        return self.rows_answered + self.rows_failed

    @property
    def rows_known(self) -> int:
        return max(self.rows_total, self.rows_ended)


def progress_of(
    counters: Counters,
    before: Counters,
    elapsed_seconds: float,
    at: datetime,
    rows_wanted: int | None = None,
    *,
    is_last: bool = False,
) -> Progress:
    """Progress since the counters ``before``. ``rows_wanted``: this run's limit of rows (``--limit``, ``--sample``)."""
    settled = _rows_settled(counters) - _rows_settled(before)
    ended = counters.rows_done_before + counters.rows_completed + counters.rows_failed
    left = max(0, counters.rows_total - ended)
    if counters.rows_to_redo:
        left = max(0, counters.rows_to_redo - counters.rows_redone - counters.rows_redo_failed)
    elif rows_wanted is not None:
        left = min(left, max(0, rows_wanted - settled))
    speed = settled / elapsed_seconds if elapsed_seconds > 0 else 0.0
    is_known = settled >= ROWS_BEFORE_PROJECTION and not is_last
    ticks_a_row = (counters.cost_ticks - before.cost_ticks) / settled if is_known else 0.0
    is_waiting = counters.waiting is not None and counters.waiting.until > at
    return Progress(
        at=at,
        rows_total=counters.rows_total,
        rows_done_before=counters.rows_done_before,
        rows_completed=counters.rows_completed,
        rows_failed=counters.rows_failed,
        rows_settled=settled,
        rows_left=left,
        in_flight=counters.in_flight,
        tickets_open=counters.tickets_open,
        requests_sent=counters.requests_sent,
        retries=counters.retries,
        cost_ticks=counters.cost_ticks,
        unknown_cost=counters.unknown_cost,
        rows_per_second=speed,
        projected_ticks=counters.cost_ticks + round(ticks_a_row * left)
        if is_known and not counters.unknown_cost
        else None,
        seconds_left=left / speed if is_known and speed > 0 else None,
        waiting=counters.waiting if is_waiting else None,
    )


def _rows_settled(counters: Counters) -> int:
    """Rows that ended in this run. Failures kept from earlier runs took no time."""
    redone = counters.rows_redone + counters.rows_redo_failed
    return counters.rows_completed + counters.rows_failed - counters.rows_failed_before + redone


class FailureExample(NamedTuple):
    """A failed row of one kind."""

    row_id: str
    message: str


class SendRate(NamedTuple):
    """Requests and polls a second. ``limit_per_second``: ``None`` while no limit is known."""

    per_second: float = 0.0
    limit_per_second: float | None = None
    rate_limited: int = 0  #: answers 429 of the run


@dataclass(frozen=True, slots=True)
class RunFigures:
    """The figures of a run at work."""

    run_id: str
    shard: str
    started_at: datetime
    progress: Progress
    rate: SendRate = field(default_factory=SendRate)
    oldest_ticket_at: datetime | None = None
    failures_by_kind: Mapping[str, int] = field(default_factory=dict)
    examples: Mapping[str, FailureExample] = field(default_factory=dict)  #: by kind, of this run

    def document(self) -> dict[str, Any]:
        """JSON content, from which :meth:`of_document` makes equal figures."""
        progress: dict[str, Any] = {name: getattr(self.progress, name) for name in Progress.__slots__}
        waiting = self.progress.waiting
        progress["at"] = self.progress.at.isoformat()
        progress["waiting"] = waiting and {**waiting._asdict(), "until": waiting.until.isoformat()}
        return {
            "run_id": self.run_id,
            "shard": self.shard,
            "started_at": self.started_at.isoformat(),
            "progress": progress,
            "rate": self.rate._asdict(),
            "oldest_ticket_at": self.oldest_ticket_at and self.oldest_ticket_at.isoformat(),
            "failures_by_kind": dict(self.failures_by_kind),
            "examples": {kind: each._asdict() for kind, each in self.examples.items()},
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> RunFigures:
        """Raises KeyError, TypeError or ValueError."""
        progress, oldest = dict(document["progress"]), document["oldest_ticket_at"]
        progress["at"] = datetime.fromisoformat(progress["at"])
        if (waiting := progress["waiting"]) is not None:
            progress["waiting"] = WaitNotice(**{**waiting, "until": datetime.fromisoformat(waiting["until"])})
        return cls(
            document["run_id"],
            document["shard"],
            datetime.fromisoformat(document["started_at"]),
            Progress(**progress),
            SendRate(**document["rate"]),
            oldest and datetime.fromisoformat(oldest),
            document["failures_by_kind"],
            {kind: FailureExample(**each) for kind, each in document["examples"].items()},
        )
