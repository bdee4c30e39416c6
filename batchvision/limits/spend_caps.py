"""Caps on spending in USD: over all runs of an output, this run, the day and the month. The tightest one holds.

Days and months are those of the job's ``timezone``; a request in flight at midnight counts in the new day.
A shard has its share of each cap (:func:`share_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from batchvision.records import Shard


class LocalSpendCap:
    """One cap, kept by this process.

    A bill above its bound counts at once. Its excess is added to each bound from then on, also of requests in flight:
    estimates that were too low once will be again. An unknown bound counts as 0 before that excess.
    """

    __slots__ = ("_excess_ticks", "_open", "_reserved_ticks", "cap_ticks", "spent_ticks")

    def __init__(self, cap_ticks: int | None, spent_ticks: int = 0) -> None:
        self.cap_ticks = cap_ticks
        self.spent_ticks = spent_ticks
        self._reserved_ticks = 0
        self._open = 0
        self._excess_ticks = 0

    def __repr__(self) -> str:
        return f"<LocalSpendCap {self.spent_ticks} spent, {self.reserved_ticks} reserved, of {self.cap_ticks}>"

    @property
    def reserved_ticks(self) -> int:
        """The most that requests in flight may cost."""
        return self._reserved_ticks + self._open * self._excess_ticks

    @property
    def left_ticks(self) -> int | None:
        return None if self.cap_ticks is None else max(0, self.cap_ticks - self.spent_ticks - self.reserved_ticks)

    def reserve(self, bound_ticks: int | None) -> bool:
        left = self.left_ticks
        if left is not None and (left == 0 or (bound_ticks or 0) + self._excess_ticks > left):
            return False
        self.commit(bound_ticks)
        return True

    def commit(self, bound_ticks: int | None) -> None:
        self._reserved_ticks += bound_ticks or 0
        self._open += 1

    def settle(self, bound_ticks: int | None, real_ticks: int | None) -> None:
        self.release(bound_ticks)
        bound = bound_ticks or 0
        real = bound if real_ticks is None else real_ticks
        self.spent_ticks += real
        self._excess_ticks = max(self._excess_ticks, real - bound)

    def release(self, bound_ticks: int | None) -> None:
        if self._open <= 0:
            raise RuntimeError("a reservation was given back twice")
        self._reserved_ticks -= bound_ticks or 0
        self._open -= 1


@dataclass(slots=True)
class PeriodCap:
    """A cap under its key in the job file. ``period`` names the current period: in a new one the spending is 0."""

    key: str
    cap: LocalSpendCap
    period: Callable[[], str] | None = None
    _current: str | None = None

    def __post_init__(self) -> None:
        self._current = self.period() if self.period else None

    def roll(self) -> None:
        if self.period is not None and (now := self.period()) != self._current:
            self._current = now
            self.cap.spent_ticks = 0


class SpendCaps:
    """All caps of a job as one: a request may be sent if each of them allows it."""

    def __init__(self, caps: Sequence[PeriodCap] = ()) -> None:
        self._caps = tuple(caps)

    def __repr__(self) -> str:
        return f"<SpendCaps {', '.join(f'{each.key}: {each.cap!r}' for each in self._caps) or 'none'}>"

    def _tightest(self) -> PeriodCap | None:
        for each in self._caps:
            each.roll()
        return min(self._caps, key=lambda each: each.cap.left_ticks or 0, default=None)

    @property
    def tightest_key(self) -> str | None:
        tightest = self._tightest()
        return None if tightest is None else tightest.key

    @property
    def left_ticks(self) -> int | None:
        tightest = self._tightest()
        return None if tightest is None else tightest.cap.left_ticks

    def reserve(self, bound_ticks: int | None) -> bool:
        """Reserve in each cap. If one refuses, nothing is reserved."""
        reserved: list[LocalSpendCap] = []
        for each in self._caps:
            each.roll()
            if not each.cap.reserve(bound_ticks):
                for cap in reserved:
                    cap.release(bound_ticks)
                return False
            reserved.append(each.cap)
        return True

    def commit(self, bound_ticks: int | None) -> None:
        for each in self._caps:
            each.cap.commit(bound_ticks)

    def settle(self, bound_ticks: int | None, real_ticks: int | None) -> None:
        for each in self._caps:
            each.roll()
            each.cap.settle(bound_ticks, real_ticks)

    def release(self, bound_ticks: int | None) -> None:
        for each in self._caps:
            each.cap.release(bound_ticks)


def share_of(cap_ticks: int, spent: Mapping[Shard, int], shard: Shard) -> LocalSpendCap:
    """The share of ``cap_ticks`` that one shard may spend. ``spent``: ticks by shard of the output.

    Shards of other divisions have ended, so their spending is fixed. The shards of this division fill the rest of the
    cap up to one common level. It is (cap - spent under other divisions) / n where no shard has spent more than that. A
    shard above the level gets no more money, and lowers the level of its siblings. So the sum never exceeds the cap.
    """
    part = cap_ticks // shard.of
    own = spent.get(shard, 0)
    left = cap_ticks - sum(ticks for other, ticks in spent.items() if other.of != shard.of)
    siblings = sorted((ticks for other, ticks in spent.items() if other.of == shard.of), reverse=True)
    sharing = shard.of
    for ticks in siblings:
        if ticks * sharing <= left:
            break
        left, sharing = left - ticks, sharing - 1
    level = left // sharing if sharing else 0
    return LocalSpendCap(part, spent_ticks=part - level + own)


def day_of(now: Callable[[], datetime], zone: tzinfo) -> Callable[[], str]:
    return lambda: f"{now().astimezone(zone):%Y-%m-%d}"


def month_of(now: Callable[[], datetime], zone: tzinfo) -> Callable[[], str]:
    return lambda: f"{now().astimezone(zone):%Y-%m}"
