"""Permission to send one request: money under the caps on spending, and a place in flight.

A permit is settled (the cost is known), kept (its bound counts as spent) or void (no request was sent).
Caps in USD hold over all runs of an output, this run, the day and the month. The tightest one decides. Days and months
are those of the job's ``timezone``; a request in flight at midnight counts in the new day.
A shard has its share of each cap (:func:`share_of`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from math import inf
from typing import Protocol

from batchvision.errors import SpendCapReached
from batchvision.eventloop import Wakeup
from batchvision.limits.protocols import RateLimiter, SendSlot, SpendCap
from batchvision.records import Estimate, Shard, Usage
from batchvision.ticks import format_usd


@dataclass(slots=True)
class SlotOfTicket:
    """The slot of a ticket: its request was sent, and it takes no place in flight."""

    tokens: float
    sent_at: float | None = None

    async def wait(self) -> None: ...
    def release(self) -> None: ...


@dataclass(eq=False, repr=False, slots=True)
class Permit:
    """Permission to send one request. Its owner ends it by ``settle``, ``void`` or ``keep``.

    ``slot`` is the request's place in flight. ``on_end`` is called once.
    """

    slot: SendSlot
    rate: RateLimiter
    cap: SpendCap
    bound_ticks: int | None
    on_end: Callable[[], None]
    has_ended: bool = False

    def __repr__(self) -> str:
        return f"<Permit {self.bound_ticks} ticks{', ended' if self.has_ended else ''}>"

    def settle(self, usage: Usage) -> None:
        """Replace the estimates by an answer's cost and tokens."""
        if usage.total_tokens is not None:
            self.rate.return_tokens(self.slot.tokens, usage.total_tokens)
        if self._end():
            self.cap.settle(self.bound_ticks, usage.cost_ticks)
            self.on_end()

    def void(self) -> None:
        """Give everything back: no request was sent, or it surely cost nothing."""
        self.rate.return_tokens(self.slot.tokens, 0)
        if self._end():
            self.cap.release(self.bound_ticks)
            self.on_end()

    def keep(self) -> None:
        """Count the bound as spent: the cost is not known."""
        if self._end():
            self.cap.settle(self.bound_ticks, None)
            self.on_end()

    def _end(self) -> bool:
        """Free the place in flight. False: the permit has ended before."""
        if self.has_ended:
            return False
        self.has_ended = True
        self.slot.release()
        return True


class Permits:
    """Gives permits. ``rate`` and ``cap`` may belong to this process, or processes may share them."""

    def __init__(self, rate: RateLimiter, cap: SpendCap) -> None:
        self.rate = rate
        self._cap = cap
        self._open = 0

    async def acquire(self, estimate: Estimate) -> Permit:
        """Wait for money, then for the rate. Raises SpendCapReached if no open permit can return enough money."""
        bound = estimate.bound_ticks
        await self._acquire_money(bound)
        try:
            slot = await self.rate.acquire(estimate.tokens)
        except BaseException:  # cancelled
            self._cap.release(bound)
            self._ended()
            raise
        return Permit(slot, self.rate, self._cap, bound, self._ended)

    async def _acquire_money(self, bound: int | None) -> None:
        while not self._cap.reserve(bound):
            if self._open == 0 and not self._cap.is_held_elsewhere:
                raise self._cap_reached(bound)
            await self._cap.returned.wait()
        self._open += 1

    async def acquire_for_batch(self, estimate: Estimate) -> Permit:
        """Wait for money alone: requests of a batch do not count against the rate. Raises SpendCapReached."""
        await self._acquire_money(estimate.bound_ticks)
        return self.of_ticket(estimate.bound_ticks, 0.0)

    def acquire_for_batch_at_once(self, estimate: Estimate) -> Permit | None:
        """As :meth:`acquire_for_batch`. ``None`` where other permits must return money first."""
        if not self._cap.reserve(estimate.bound_ticks):
            return None
        self._open += 1
        return self.of_ticket(estimate.bound_ticks, 0.0)

    def _cap_reached(self, bound: int | None) -> SpendCapReached:
        key = f"limits.{self._cap.tightest_key or 'max_cost_usd'}"
        left, needed = format_usd(self._cap.left_ticks or 0), format_usd(bound or 0)
        return SpendCapReached(
            f"{key} leaves {left}, and the next request may cost {needed}",
            next_step="raise it, or wait for its period to end, then run again to continue",
            key=key,
        )

    def adopt(self, bound_ticks: int | None) -> None:
        """Commit the money of a ticket from an earlier run. :meth:`of_ticket` gives its permit."""
        self._cap.commit(bound_ticks)
        self._open += 1

    def of_ticket(self, bound_ticks: int | None, tokens: float) -> Permit:
        """The permit of an open ticket, with the money and tokens that its request was sent with. Ask once a ticket."""
        return Permit(SlotOfTicket(tokens), self.rate, self._cap, bound_ticks, self._ended)

    def _ended(self) -> None:
        self._open -= 1
        self._cap.returned.tell()


@dataclass(eq=False, slots=True)
class LocalSpendCap:
    """One cap, kept by this process, under its ``key`` in the job file.

    ``period`` names the current period: in a new one the spending is 0. A bill above its bound counts at once. Its
    excess is added to each bound from then on, also of requests in flight: estimates that were too low once will be
    again. An unknown bound counts as 0 before that excess.
    """

    cap_ticks: int | None
    spent_ticks: int = 0
    key: str = "max_cost_usd"
    period: Callable[[], str] | None = None
    _current: str | None = field(init=False, default=None)
    _reserved_ticks: int = field(init=False, default=0)
    _open: int = field(init=False, default=0)
    _excess_ticks: int = field(init=False, default=0)
    is_held_elsewhere: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self._current = self.period() if self.period else None

    def __repr__(self) -> str:
        return f"<{self.key}: {self.spent_ticks} spent, {self.reserved_ticks} reserved, of {self.cap_ticks} ticks>"

    def roll(self) -> None:
        """Begin a new period where the last one is over."""
        if self.period is not None and (now := self.period()) != self._current:
            self._current = now
            self.spent_ticks = 0

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


class OneCap(Protocol):
    """One of several caps."""

    @property
    def key(self) -> str | None: ...
    @property
    def left_ticks(self) -> int | None: ...
    @property
    def is_held_elsewhere(self) -> bool: ...
    def roll(self) -> None: ...
    def reserve(self, bound_ticks: int | None) -> bool: ...
    def commit(self, bound_ticks: int | None) -> None: ...
    def settle(self, bound_ticks: int | None, real_ticks: int | None) -> None: ...
    def release(self, bound_ticks: int | None) -> None: ...


class SpendCaps:
    """All caps of a job as one: a request may be sent if each of them allows it."""

    def __init__(self, caps: Sequence[OneCap] = (), returned: Wakeup | None = None) -> None:
        """``returned``: that of the cap that processes share, if one does."""
        self._caps = tuple(caps)
        self.returned = returned or Wakeup()

    def __repr__(self) -> str:
        return f"<SpendCaps {', '.join(map(repr, self._caps)) or 'none'}>"

    def _tightest(self) -> OneCap | None:
        for each in self._caps:
            each.roll()
        return min(self._caps, key=lambda each: inf if each.left_ticks is None else each.left_ticks, default=None)

    @property
    def is_held_elsewhere(self) -> bool:
        return any(each.is_held_elsewhere for each in self._caps)

    @property
    def tightest_key(self) -> str | None:
        tightest = self._tightest()
        return None if tightest is None else tightest.key

    @property
    def left_ticks(self) -> int | None:
        tightest = self._tightest()
        return None if tightest is None else tightest.left_ticks

    def reserve(self, bound_ticks: int | None) -> bool:
        """Reserve in each cap. If one refuses, nothing is reserved."""
        reserved: list[OneCap] = []
        for each in self._caps:
            each.roll()
            if not each.reserve(bound_ticks):
                for cap in reserved:
                    cap.release(bound_ticks)
                return False
            reserved.append(each)
        return True

    def commit(self, bound_ticks: int | None) -> None:
        for each in self._caps:
            each.commit(bound_ticks)

    def settle(self, bound_ticks: int | None, real_ticks: int | None) -> None:
        for each in self._caps:
            each.roll()
            each.settle(bound_ticks, real_ticks)

    def release(self, bound_ticks: int | None) -> None:
        for each in self._caps:
            each.release(bound_ticks)


def share_of(
    cap_ticks: int,
    spent: Mapping[Shard, int],
    shard: Shard,
    key: str = "max_cost_usd",
    period: Callable[[], str] | None = None,
) -> LocalSpendCap:
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
    return LocalSpendCap(part, part - level + own, key, period)


def day_of(now: Callable[[], datetime], zone: tzinfo) -> Callable[[], str]:
    return lambda: f"{now().astimezone(zone):%Y-%m-%d}"


def month_of(now: Callable[[], datetime], zone: tzinfo) -> Callable[[], str]:
    return lambda: f"{now().astimezone(zone):%Y-%m}"
