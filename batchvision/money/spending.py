"""Sum the cost of attempts by state, model and day, and the part that bought no answer. Pure; integers only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, tzinfo
from functools import reduce
from typing import Any, NamedTuple

from batchvision.errors import RUN_STOPS, TRANSIENTS
from batchvision.records import Attempt, AttemptState
from batchvision.ticks import known_or_none

#: In place of a model, for attempts without an answer that names it.
NO_MODEL = "(no answer)"


#: Errors that are no answer of the model, even with a status of 200: they cost nothing.
NO_ANSWER_KINDS = frozenset({*TRANSIENTS, *RUN_STOPS})
#: States of attempts that may have been billed without an answer.
UNCLEAR = frozenset({AttemptState.AMBIGUOUS, AttemptState.LOST_AFTER_READ})


class Sum(NamedTuple):
    """Attempts added up. ``bound_ticks``: the upper bound of attempts of unknown cost."""

    attempts: int = 0
    cost_ticks: int = 0
    bound_ticks: int = 0
    unknown_cost: int = 0  #: answers without a reported cost and without a price: not in ``cost_ticks``
    unbounded: int = 0  #: attempts that may have been billed, without a bound: not in ``bound_ticks``

    def plus(self, other: Sum) -> Sum:
        return Sum(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def document(self) -> dict[str, int | None]:
        """JSON content; null where a sum is unknown."""
        return {
            **self._asdict(),
            "cost_ticks": known_or_none(self.cost_ticks, self.unknown_cost),
            "bound_ticks": known_or_none(self.bound_ticks, self.unbounded),
        }


class Kind(NamedTuple):
    """The dimensions of the sums. ``day``: in the job's timezone, as 2026-11-20."""

    state: str
    error_kind: str | None
    model: str | None
    day: str


class Spending:
    """Sums by kind, one attempt or one sum at a time. Memory grows with the number of kinds."""

    def __init__(self, zone: tzinfo = UTC) -> None:
        self._zone = zone
        self._sums: dict[Kind, Sum] = {}

    def take(self, attempt: Attempt) -> Sum:
        """Add an attempt; returns its own sum."""
        usage = attempt.answer.usage
        day = attempt.intent.sent_at.astimezone(self._zone).date().isoformat()
        kind = Kind(attempt.state, attempt.error_kind, attempt.answer.model, day)
        is_unknown = is_of_unknown_cost(attempt.state, attempt.http_status, attempt.error_kind, usage.cost_ticks)
        is_unbounded = attempt.bound_ticks is None and (is_unknown or attempt.state in UNCLEAR)
        taken = Sum(1, usage.cost_ticks or 0, attempt.bound_ticks or 0, is_unknown, is_unbounded)
        self.add(kind, taken)
        return taken

    def add(self, kind: Kind, more: Sum) -> None:
        self._sums[kind] = self._sums.get(kind, Sum()).plus(more)

    # ---------------------------------------------------------------------------- sums

    @property
    def total(self) -> Sum:
        return reduce(Sum.plus, self._sums.values(), Sum())

    def by_state(self) -> dict[str, Sum]:
        return self._by(lambda kind: kind.state)

    def by_model(self) -> dict[str, Sum]:
        return self._by(lambda kind: kind.model or NO_MODEL)

    def by_day(self) -> dict[str, Sum]:
        return self._by(lambda kind: kind.day)

    def wasted(self) -> dict[str, Sum]:
        """Sums of attempts that bought no answer, by reason: retried, the kind of the failure, ambiguous,
        lost_after_read. For the last two only bounds are known."""
        found = self._by(_waste)
        found.pop("", None)
        return {name: each for name, each in found.items() if any(each[1:])}

    def _by(self, name_of: Callable[[Kind], str]) -> dict[str, Sum]:
        sums: dict[str, Sum] = {}
        for kind, each in self._sums.items():
            name = name_of(kind)
            sums[name] = sums.get(name, Sum()).plus(each)
        return dict(sorted(sums.items()))

    def document(self) -> dict[str, Any]:
        """JSON content, for a summary and for ``status --json``."""
        parts = {
            "by_state": self.by_state(),
            "by_model": self.by_model(),
            "by_day": self.by_day(),
            "wasted": self.wasted(),
        }
        return {part: {name: each.document() for name, each in sums.items()} for part, sums in parts.items()}


def is_of_unknown_cost(state: str, http_status: int | None, error_kind: str | None, cost_ticks: int | None) -> bool:
    """Whether the model answered an attempt at an unknown cost."""
    is_answer = http_status is not None and 200 <= http_status < 300 and error_kind not in NO_ANSWER_KINDS
    return is_answer and cost_ticks is None and state not in UNCLEAR


def _waste(kind: Kind) -> str:
    match kind.state:
        case AttemptState.OK:
            return ""
        case AttemptState.FAILED:
            return kind.error_kind or "failed"
        case state:
            return str(state)
