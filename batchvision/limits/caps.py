"""All cost caps of a job at once: over all runs, this run, the day and the month. The tightest holds.

Days and months are those of the job's ``timezone``; what is in flight at midnight counts in the new day.
A shard has its share of each cap (:func:`share_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo

from batchvision.records import Shard
from batchvision.ticks import SpendCap


@dataclass(slots=True)
class PeriodCap:
    """One cap under its key in the job file. ``period`` names the current period: when it changes, spending is 0."""

    key: str
    cap: SpendCap
    period: Callable[[], str] | None = None
    _current: str | None = None

    def __post_init__(self) -> None:
        self._current = self.period() if self.period else None

    def roll(self) -> None:
        if self.period is not None and (now := self.period()) != self._current:
            self._current = now
            self.cap.spent_ticks = 0


def share_of(cap_ticks: int, spent: Mapping[Shard, int], shard: Shard) -> SpendCap:
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
    return SpendCap(part, spent_ticks=part - level + own)


def day_of(now: Callable[[], datetime], zone: tzinfo) -> Callable[[], str]:
    return lambda: f"{now().astimezone(zone):%Y-%m-%d}"


def month_of(now: Callable[[], datetime], zone: tzinfo) -> Callable[[], str]:
    return lambda: f"{now().astimezone(zone):%Y-%m}"


class Caps:
    """Several caps with the face of one: a request leaves only where all of them allow it."""

    def __init__(self, caps: Sequence[PeriodCap] = ()) -> None:
        self._caps = tuple(caps)

    def __repr__(self) -> str:
        return f"<Caps {', '.join(f'{each.key}: {each.cap!r}' for each in self._caps) or 'none'}>"

    def tightest(self) -> PeriodCap | None:
        """The cap with the least left; None where the job has none."""
        for each in self._caps:
            each.roll()
        return min(self._caps, key=lambda each: each.cap.left_ticks or 0, default=None)

    @property
    def left_ticks(self) -> int | None:
        tightest = self.tightest()
        return None if tightest is None else tightest.cap.left_ticks

    def reserve(self, bound_ticks: int | None) -> bool:
        """All or none. See ``SpendCap.reserve``."""
        taken: list[SpendCap] = []
        for each in self._caps:
            each.roll()
            if not each.cap.reserve(bound_ticks):
                for cap in taken:
                    cap.release(bound_ticks)
                return False
            taken.append(each.cap)
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
