"""Permission to send one request: a place in flight and money, taken together.

A permit is settled (the cost is known), kept (its bound counts as spent) or void (no request was sent).
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from batchvision.errors import SpendCapReached
from batchvision.limits.protocols import RateLimiter, SendSlot, SpendCap
from batchvision.records import Estimate, Usage
from batchvision.ticks import format_usd
from batchvision.wakeup import Wakeup


class Permit:
    """Permission to send one request. Leaving its ``with`` block before its end keeps the bound as spent.

    ``slot``: ``None`` for a ticket of an earlier run. ``on_end`` is called once.
    """

    __slots__ = ("_bound_ticks", "_cap", "_has_ended", "_on_end", "_slot")

    def __init__(
        self, slot: SendSlot | None, cap: SpendCap, bound_ticks: int | None, on_end: Callable[[], None]
    ) -> None:
        self._slot = slot
        self._cap = cap
        self._bound_ticks = bound_ticks
        self._on_end = on_end
        self._has_ended = False

    def __repr__(self) -> str:
        return f"<Permit {self._bound_ticks} ticks{', ended' if self._has_ended else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._has_ended:
            self.keep()

    @property
    def is_due(self) -> bool:
        """Whether the request may be sent now. If so, it counts as sent."""
        return self._slot is None or self._slot.is_due

    async def wait(self) -> None:
        """Wait for the time at which the request may be sent."""
        if self._slot is not None:
            await self._slot.wait()

    def landed(self) -> None:
        """The request is not in flight any longer. The permit ends when the cost is known."""
        if self._slot is not None:
            self._slot.release()

    @property
    def sent_at(self) -> float | None:
        """On the loop's clock. ``None`` before, and for a ticket of an earlier run."""
        return None if self._slot is None else self._slot.sent_at

    def settle(self, usage: Usage) -> None:
        """Replace the estimates by an answer's cost and tokens."""
        if self._slot is not None and usage.total_tokens is not None:
            self._slot.return_tokens(usage.total_tokens)
        if self._end():
            self._cap.settle(self._bound_ticks, usage.cost_ticks)
            self._on_end()

    def void(self) -> None:
        """Give everything back: no request was sent, or it surely cost nothing."""
        if self._slot is not None:
            self._slot.return_tokens(0)
        if self._end():
            self._cap.release(self._bound_ticks)
            self._on_end()

    def keep(self) -> None:
        """Count the bound as spent: the cost is not known."""
        if self._end():
            self._cap.settle(self._bound_ticks, None)
            self._on_end()

    def _end(self) -> bool:
        has_ended, self._has_ended = self._has_ended, True
        if not has_ended:
            self.landed()
        return not has_ended


class Permits:
    """Gives permits. ``rate`` and ``cap`` may belong to this process, or processes may share them."""

    def __init__(self, rate: RateLimiter, cap: SpendCap) -> None:
        self.rate = rate
        self._cap = cap
        self._open = 0
        self._returned = Wakeup()

    def acquire_nowait(self, estimate: Estimate) -> Permit | None:
        """A permit if neither money nor rate need a wait and no request waits."""
        bound = estimate.bound_ticks
        if not self._cap.reserve(bound):
            return None
        slot = self.rate.acquire_nowait(estimate.tokens)
        if slot is None:
            self._cap.release(bound)
            return None
        self._open += 1
        return Permit(slot, self._cap, bound, self._ended)

    async def acquire(self, estimate: Estimate) -> Permit:
        """Wait for money, then for the rate. Raises SpendCapReached if no open permit can return enough money."""
        bound = estimate.bound_ticks
        while not self._cap.reserve(bound):
            if self._open == 0:
                raise self._cap_reached(bound)
            await self._returned.wait()
        self._open += 1
        try:
            slot = await self.rate.acquire(estimate.tokens)
        except BaseException:  # cancelled
            self._cap.release(bound)
            self._ended()
            raise
        return Permit(slot, self._cap, bound, self._ended)

    def _cap_reached(self, bound: int | None) -> SpendCapReached:
        key = f"limits.{self._cap.tightest_key or 'max_cost_usd'}"
        left, needed = format_usd(self._cap.left_ticks or 0), format_usd(bound or 0)
        return SpendCapReached(
            f"{key} leaves {left}, and the next request may cost {needed}",
            next_step="raise it, or wait for its period to end, then run again to continue",
            key=key,
        )

    def adopt(self, bound_ticks: int | None) -> Permit:
        """The permit of a ticket from an earlier run: its money is committed already."""
        self._cap.commit(bound_ticks)
        self._open += 1
        return Permit(None, self._cap, bound_ticks, self._ended)

    def _ended(self) -> None:
        self._open -= 1
        self._returned.tell()
