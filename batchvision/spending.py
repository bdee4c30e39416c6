"""What attempts cost, added up: by state, by model, by day, and what of it bought nothing. Pure; integers only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

from batchvision.records import Attempt, AttemptState

#: Stands where no answer came that could name its model.
NO_MODEL = "(no answer)"


class Sum(NamedTuple):
    """Attempts added up. ``bound_ticks``: what those of unknown cost may have cost at most."""

    attempts: int = 0
    cost_ticks: int = 0
    bound_ticks: int = 0

    def plus(self, other: Sum) -> Sum:
        return Sum(
            self.attempts + other.attempts, self.cost_ticks + other.cost_ticks, self.bound_ticks + other.bound_ticks
        )


class Kind(NamedTuple):
    """What attempts are added up by. ``day``: of the job's timezone, as 2026-11-20."""

    state: str
    error_kind: str | None
    model: str | None
    day: str


class Spending:
    """Grows attempt by attempt, or sum by sum. Its size is that of the kinds there are."""

    def __init__(self, zone: tzinfo = UTC) -> None:
        self._zone = zone
        self._sums: dict[Kind, Sum] = {}

    def take(self, attempt: Attempt) -> None:
        usage = attempt.answer.usage
        day = attempt.sent_at.astimezone(self._zone).date().isoformat()
        kind = Kind(attempt.state, attempt.error_kind, attempt.answer.model, day)
        self.add(kind, Sum(1, usage.cost_ticks or 0, attempt.bound_ticks or 0))

    def add(self, kind: Kind, more: Sum) -> None:
        self._sums[kind] = self._sums.get(kind, Sum()).plus(more)

    # ---------------------------------------------------------------------------- looked at

    @property
    def total(self) -> Sum:
        return sum_of(self._sums.values())

    def by_state(self) -> dict[str, Sum]:
        return self._by(lambda kind: kind.state)

    def by_model(self) -> dict[str, Sum]:
        return self._by(lambda kind: kind.model or NO_MODEL)

    def by_day(self) -> dict[str, Sum]:
        return self._by(lambda kind: kind.day)

    def wasted(self) -> dict[str, Sum]:
        """What bought no answer, and why: tried again, failed (by its kind: truncated, invalid_answer ...), or of
        unknown end (ambiguous, lost_after_read), where only bounds are known."""
        found = self._by(_waste)
        found.pop("", None)
        return {name: each for name, each in found.items() if each.cost_ticks or each.bound_ticks}

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
        return {part: {name: each._asdict() for name, each in sums.items()} for part, sums in parts.items()}


def sum_of(sums: Iterable[Sum]) -> Sum:
    total = Sum()
    for each in sums:
        total = total.plus(each)
    return total


def _waste(kind: Kind) -> str:
    match kind.state:
        case AttemptState.OK:
            return ""
        case AttemptState.FAILED:
            return kind.error_kind or "failed"
        case state:
            return str(state)


def wasted_ticks(wasted: Mapping[str, Sum]) -> int:
    """What is known to be wasted; bounds are not counted."""
    return sum(each.cost_ticks for each in wasted.values())
