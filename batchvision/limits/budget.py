"""Budget: what decides that a request may leave. Rate (pacing) and money (spend cap) are leased together.

A lease is settled (the cost is known), kept (the cost may have been incurred: its bound stays spent) or void (nothing
was sent). This budget is local to the process; another with the same face can share it between processes.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from batchvision.errors import BatchvisionError, SpendCapReached, StopRun
from batchvision.limits.caps import Caps
from batchvision.limits.pacing import Departure, Pacing, RateFacts
from batchvision.records import Estimate, Usage
from batchvision.ticks import format_usd
from batchvision.wakeup import Wakeup


class Lease:
    """Leave to send one request. Leaving its ``with`` block unsettled keeps the bound as spent."""

    __slots__ = ("_bound_ticks", "_budget", "_departure", "_ended")

    def __init__(self, budget: LocalBudget, departure: Departure | None, bound_ticks: int | None) -> None:
        self._budget = budget
        self._departure = departure
        self._bound_ticks = bound_ticks
        self._ended = False

    def __repr__(self) -> str:
        return f"<Lease {self._departure}, {self._bound_ticks} ticks{', ended' if self._ended else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if not self._ended:
            self.keep()

    async def departure(self) -> None:
        """The last wait before the wire: for the request's moment, and for any pause that began meanwhile."""
        if self._departure is not None:
            await self._budget.pacing.depart(self._departure)

    @property
    def is_due(self) -> bool:
        """Its moment has come, and no pause holds: ``departure`` would not wait."""
        return self._departure is None or self._budget.pacing.departs_now(self._departure)

    def landed(self) -> None:
        """Nothing of the request is on the wire (any more)."""
        if self._departure is not None:
            self._budget.pacing.land(self._departure)

    @property
    def departed_at(self) -> float | None:
        """On the loop's clock; None for a ticket of an earlier run."""
        return None if self._departure is None else self._departure.departed_at

    def settle(self, usage: Usage) -> None:
        """The answer is here: its real cost and tokens take the place of the estimate."""
        if usage.total_tokens is not None and self._departure is not None and self._departure.tokens:
            self._budget.pacing.give_back(self._departure.tokens - usage.total_tokens)
        self._end(lambda cap: cap.settle(self._bound_ticks, usage.cost_ticks))

    def void(self) -> None:
        """Nothing was sent, or it surely costs nothing."""
        if self._departure is not None:
            self._budget.pacing.give_back(self._departure.tokens)
        self._end(lambda cap: cap.release(self._bound_ticks))

    def keep(self) -> None:
        """What it cost is not known: its bound counts as spent."""
        self._end(lambda cap: cap.settle(self._bound_ticks, None))

    def _end(self, book: Callable[[Caps], None]) -> None:
        if not self._ended:
            self._ended = True
            self.landed()
            self._budget.lease_ended(book, probe=self._departure is not None and self._departure.probe)


class Budget(Protocol):
    """What lanes ask before anything leaves."""

    def lease_nowait(self, estimate: Estimate) -> Lease | None: ...
    async def lease(self, estimate: Estimate) -> Lease: ...
    def adopt(self, bound_ticks: int | None) -> Lease: ...
    async def admit_poll(self) -> None: ...
    @property
    def polls_per_second(self) -> float | None: ...
    def observe(
        self, error: BatchvisionError | None, signs: RateFacts | None = None, departed_at: float | None = None
    ) -> StopRun | None: ...
    @property
    def failures_in_a_row(self) -> int: ...
    @property
    def is_provider_away(self) -> bool: ...


class LocalBudget:
    """The budget of one process."""

    def __init__(self, pacing: Pacing, caps: Caps) -> None:
        self.pacing = pacing
        self._caps = caps
        self._leased = 0
        self._returned = Wakeup()

    @property
    def failures_in_a_row(self) -> int:
        return self.pacing.gate.failures_in_a_row

    @property
    def is_provider_away(self) -> bool:
        """What is sent now is a probe, and spends no attempt."""
        return self.pacing.gate.is_away

    def lease_nowait(self, estimate: Estimate) -> Lease | None:
        """A lease, if there is one without waiting and without overtaking anybody."""
        bound = estimate.bound_ticks
        if not self._caps.reserve(bound):
            return None
        departure = self.pacing.admit_nowait(estimate.tokens)
        if departure is None:
            self._caps.release(bound)
            return None
        self._leased += 1
        return Lease(self, departure, bound)

    async def lease(self, estimate: Estimate) -> Lease:
        """Wait for money, then for the turn. Raises SpendCapReached when no money is left and none can come back."""
        bound = estimate.bound_ticks
        await self._reserve(bound)
        try:
            departure = await self.pacing.admit(estimate.tokens)
        except BaseException:  # cancelled on the way
            self._return(lambda cap: cap.release(bound))
            raise
        return Lease(self, departure, bound)

    async def _reserve(self, bound: int | None) -> None:
        while not self._caps.reserve(bound):
            if self._leased == 0:
                raise self._cap_reached(bound)
            await self._returned.wait()
        self._leased += 1

    def _cap_reached(self, bound: int | None) -> SpendCapReached:
        tightest = self._caps.tightest()
        key = "max_cost_usd" if tightest is None else tightest.key
        return SpendCapReached(
            f"limits.{key} leaves {format_usd(self._caps.left_ticks or 0)}, and the next request may cost "
            f"{format_usd(bound or 0)}",
            next_step="raise it, or wait for its period to end, then run again to continue",
            key=f"limits.{key}",
        )

    def adopt(self, bound_ticks: int | None) -> Lease:
        """The lease of a ticket from an earlier run: its money is already committed."""
        self._caps.commit(bound_ticks)
        self._leased += 1
        return Lease(self, None, bound_ticks)

    async def admit_poll(self) -> None:
        await self.pacing.admit_poll()

    @property
    def polls_per_second(self) -> float | None:
        return self.pacing.polls_per_second

    def observe(
        self, error: BatchvisionError | None, signs: RateFacts | None = None, departed_at: float | None = None
    ) -> StopRun | None:
        """How a request ended, or a poll (``departed_at`` None), and what the answer says of limits. Returns why the
        run is to stop, where waiting is no use any more."""
        if signs is not None:
            self.pacing.learn(signs)
        return self.pacing.observe(error, departed_at)

    def lease_ended(self, book: Callable[[Caps], None], *, probe: bool) -> None:
        self._return(book)
        self.pacing.gate.probe_home(probe=probe)

    def _return(self, book: Callable[[Caps], None]) -> None:
        self._leased -= 1
        book(self._caps)
        self._returned.tell()
