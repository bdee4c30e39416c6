"""A process as a member of a shared budget: its pacing and its spend cap.

Both ask one :class:`Membership`, which exchanges with the budget about ten times a second while requests wait, and once
a second otherwise. The event loop's clock is the machine's, so times mean the same in each process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from math import ceil, inf
from typing import Protocol

import anyio

from batchvision.eventloop import Wakeup, loop_time
from batchvision.limits.budget import AHEAD_SECONDS, Event, Grant, MemberReport
from batchvision.limits.pacing import FIRST_WINDOW, LEAD_SECONDS
from batchvision.limits.protocols import RateRefusal, RequestQueue
from batchvision.providers import RateSigns

log = logging.getLogger(__name__)

BUSY_SECONDS = 0.1  #: Between two exchanges while requests wait.
IDLE_SECONDS = 1.0  #: Between two exchanges otherwise.
MOMENT_SECONDS = 0.02  #: Between two exchanges for refusals.
RETRY_SECONDS = 0.003  #: Another process is at work on the budget.
LONG_SECONDS = 10  #: A budget that is held for so long is reported.
LEAST_ASKED = 16  #: Slots are asked for so many requests, or for those of the time that is granted ahead.
IN_ADVANCE = 64  #: Money is held in advance for so many requests.


class BudgetAccess(Protocol):
    """The way to the shared budget."""

    def exchange(self, report: MemberReport, now: float) -> Grant | None:
        """``None``: another process is at work on the budget, and the report was not taken."""

    def leave(self, report: MemberReport, now: float) -> None:
        """Report for the last time, and end the membership."""


class Membership:
    """This process' part in a shared budget. ``periods``: gives the current period of each cap.

    ``open_ticks``: the bounds of open tickets. The member joined with them, and the run commits them before it sends.
    """

    def __init__(self, access: BudgetAccess, periods: Callable[[], Mapping[str, str]], open_ticks: int = 0) -> None:
        self._open_ticks = open_ticks
        self.pacing = SharedPacing(self)
        self.cap = SharedSpendCap(self)
        self._access = access
        self._periods = periods
        self._events: list[Event] = []
        self._timer: asyncio.TimerHandle | None = None
        self._exchanged_at = -inf
        self._asked_at = loop_time()  #: from when the next exchange has been due
        self._has_warned = self._has_left = False

    def __repr__(self) -> str:
        return f"<Membership {self.pacing!r}, {self.cap!r}>"

    def note(self, name: str, at: float, *facts: float | str | bool | None) -> None:
        """Report an event with the next exchange."""
        self._events.append(Event(at, name, facts))

    def exchange(self) -> bool:
        """Exchange now. False: another process is at work on the budget; the exchange follows."""
        if self._has_left:
            return False
        now = loop_time()
        grant = self._access.exchange(self._report(now), now)
        if grant is None:
            if now - self._asked_at >= LONG_SECONDS and not self._has_warned:
                self._has_warned = True
                log.warning("another process has held the shared limits for %d s: is it stopped?", LONG_SECONDS)
            self.schedule(now + (RETRY_SECONDS if now - self._asked_at < BUSY_SECONDS else BUSY_SECONDS))
            return False
        self._events.clear()
        self._exchanged_at, self._asked_at, self._has_warned = now, now + IDLE_SECONDS, False
        self.cap.take(grant)
        self.pacing.take(grant, now)
        self.schedule(now + IDLE_SECONDS)
        return True

    def exchange_unless_just_now(self) -> None:
        """Exchange now, or in a moment if the last exchange was a moment ago."""
        if loop_time() - self._exchanged_at >= MOMENT_SECONDS:
            self.exchange()
        else:
            self.schedule(self._exchanged_at + MOMENT_SECONDS)

    def soon(self, earliest: float = -inf) -> None:
        """Exchange :data:`BUSY_SECONDS` after the last time, and not before ``earliest``."""
        self.schedule(max(self._exchanged_at + BUSY_SECONDS, earliest))

    def schedule(self, at: float) -> None:
        """Exchange at this time, or before."""
        if self._has_left or (self._timer is not None and self._timer.when() <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(max(at, loop_time()), self._exchange_at_timer)

    def _exchange_at_timer(self) -> None:
        self._timer = None
        if self.exchange():
            self.pacing.queue.admit_waiting()
            self.cap.returned.tell()

    def _report(self, now: float) -> MemberReport:
        cap = self.cap
        return MemberReport(
            tuple(self._events),
            self.pacing.wanted(now),
            cap.spent_ticks,
            cap.reserved_ticks,
            cap.may_be_sent_ticks(self.pacing.without_slot),
            cap.largest_ticks,
            cap.reserved_ticks + IN_ADVANCE * cap.usual_ticks,
            cap.least_ticks,
            self._periods(),
        )

    def leave(self) -> None:
        """End the membership. Bounds of open tickets count as spent until the next run of the output."""
        if self._timer is not None:
            self._timer.cancel()
        cap, now = self.cap, loop_time()
        has_begun = self._exchanged_at > -inf
        open_ticks = cap.reserved_ticks if has_begun else max(cap.reserved_ticks, self._open_ticks)
        ticks = (cap.spent_ticks, open_ticks, open_ticks)
        self._access.leave(MemberReport(tuple(self._events), (), *ticks, periods=self._periods()), now)
        self._has_left = True


class SharedPacing:
    """The pacing of a member. It holds granted slots, the earliest first."""

    queue: RequestQueue

    def __init__(self, membership: Membership) -> None:
        self.per_second: float | None = None
        self.window: float = FIRST_WINDOW
        self.paused_until = -inf
        self._membership = membership
        self._slots: deque[float] = deque()
        self._tokens = 0.0  #: granted, for requests that are not admitted yet
        self._has_token_limit = self._has_begun = False
        self._sleeping = 0  #: requests that wait for the time of their slot
        self._polls = 0  #: polls without a slot
        self._granted = Wakeup()
        self._is_own_refusal = False
        self._signs: RateSigns | None = None

    def __repr__(self) -> str:
        return f"<SharedPacing {self.per_second}/s, {len(self._slots)} slots>"

    @property
    def _claimed(self) -> int:
        """How many of the next slots belong to requests that are admitted, and to polls."""
        return self.queue.unsent - self._sleeping + self._polls

    @property
    def without_slot(self) -> int:
        """How many requests of the queue are certainly not sent before more slots are granted."""
        if self.per_second is None and self._has_begun:
            return 0
        return max(0, self.queue.length + self._claimed - len(self._slots))

    def serve(self, queue: RequestQueue) -> None:
        self.queue = queue

    def wanted(self, now: float) -> list[float]:
        """The tokens of each request for which a slot is missing."""
        self._drop_late(now)
        most = max(LEAST_ASKED, ceil((self.per_second or 0.0) * AHEAD_SECONDS))
        missing = self._claimed - len(self._slots) if self.per_second is not None else 0
        return [0.0] * missing + self.queue.waiting(most + max(0, -missing))[max(0, -missing) :]

    def take(self, grant: Grant, now: float) -> None:
        """Apply a grant."""
        self.per_second, self.window, self._has_token_limit = grant.per_second, grant.window, grant.has_token_limit
        self._has_begun = True
        self._slots.extend(grant.slots)
        self._tokens += grant.tokens
        if grant.paused_until > max(now, self.paused_until):
            reason = None if self._is_own_refusal else "the provider asked another process with these limits to wait"
            self.queue.paused(grant.paused_until, max(now, self.paused_until), reason)
            self.paused_until = grant.paused_until
        if self.paused_until > now:
            self._slots = deque(at for at in self._slots if at >= self.paused_until)
            self._membership.schedule(self.paused_until - LEAD_SECONDS)
        self._granted.tell()

    def _drop_late(self, now: float) -> None:
        while self._slots and self._slots[0] < now - AHEAD_SECONDS:
            self._slots.popleft()

    # ---------------------------------------------------------------- admission

    def seconds_to_wait(self, tokens: float, unsent: int, now: float) -> float:
        self._drop_late(now)
        place, wait = self._claimed, self.paused_until - LEAD_SECONDS - now
        is_missing = self.per_second is not None and len(self._slots) <= place
        if not self._has_begun or is_missing or (self._has_token_limit and self._tokens < tokens):
            self._ask()
            return inf
        return wait if self.per_second is None else max(wait, self._slots[place] - LEAD_SECONDS - now)

    def _ask(self) -> None:
        """Slots after a pause are granted shortly before its end."""
        self._membership.soon(self.paused_until - AHEAD_SECONDS)

    def take_tokens(self, tokens: float, now: float) -> float:
        if not self._has_token_limit:
            return 0.0
        self._tokens -= tokens
        return tokens

    def give_back(self, tokens: float, now: float) -> None:
        self._membership.note("tokens", now, tokens)

    # ---------------------------------------------------------------- sending

    async def slot(self) -> float:
        while True:
            at = await self._next_slot()
            self._sleeping += 1
            try:
                await anyio.sleep_until(at)
            finally:
                self._sleeping -= 1
            if (now := loop_time()) >= self.paused_until:
                return now

    async def poll_slot(self) -> float:
        while True:
            self._polls += 1
            try:
                at = await self._next_slot()
            finally:
                self._polls -= 1
            await anyio.sleep_until(at)
            if (now := loop_time()) >= self.paused_until:
                return now

    async def _next_slot(self) -> float:
        """The time of the next slot. Without a rate, the end of a pause."""
        while self.per_second is not None:
            self._drop_late(loop_time())
            if self._slots:
                return self._slots.popleft()
            self._ask()
            await self._granted.wait()
        return self.paused_until

    # ---------------------------------------------------------------- learning

    def sent(self, now: float) -> None:
        self._membership.note("sent", now)

    def answered_first(self, now: float) -> None: ...

    def accepted(self, now: float) -> None:
        self._membership.note("accepted", now)

    def refused(self, refusal: RateRefusal, now: float) -> float:
        """The budget decides, and may set a pause. A refusal is reported at once."""
        self._membership.note("refused", now, *refusal)
        self._is_own_refusal = True
        try:
            self._membership.exchange_unless_just_now()
        finally:
            self._is_own_refusal = False
        return 0.0

    def learn(self, signs: RateSigns, now: float) -> None:
        if signs != self._signs:
            self._signs = signs
            self._membership.note("learned", now, *signs)
            self._membership.soon()

    def pause(self, until: float, now: float) -> None:
        self.paused_until = max(self.paused_until, until)
        self._membership.note("paused", now, until)
        self._membership.soon()


class SharedSpendCap:
    """The spend cap of a member. It holds money in advance, so that few requests need an exchange."""

    def __init__(self, membership: Membership) -> None:
        self.returned = Wakeup()
        self.tightest_key: str | None = None
        self.is_held_elsewhere = False
        self.spent_ticks = 0  #: since the last exchange
        self.least_ticks = 0  #: the need of the first request without money
        self._membership = membership
        self._held_ticks: int | None = 0  #: ``None``: no cap
        self._left_ticks = 0  #: that no member holds
        self._bounds_ticks = self._open = self._excess_ticks = 0
        self._refused_at = -inf
        self._smallest_ticks: int | None = None  #: bound of a request
        self.largest_ticks = 0  #: the same, with the excess
        self.usual_ticks = 0  #: the last bound, with the excess

    def __repr__(self) -> str:
        return f"<SharedSpendCap {self.reserved_ticks} reserved of {self._held_ticks} held ticks>"

    @property
    def key(self) -> str | None:
        return self.tightest_key

    def roll(self) -> None:
        """Nothing: each report names the periods."""

    @property
    def reserved_ticks(self) -> int:
        """The most that open requests may cost. See :class:`LocalSpendCap`."""
        return self._bounds_ticks + self._open * self._excess_ticks

    @property
    def left_ticks(self) -> int | None:
        if self._held_ticks is None:
            return None
        return self._left_ticks + max(0, self._held_ticks - self.reserved_ticks)

    def may_be_sent_ticks(self, unsent: int) -> int:
        """The bounds of open requests without those of ``unsent`` requests that wait."""
        return max(0, self.reserved_ticks - unsent * ((self._smallest_ticks or 0) + self._excess_ticks))

    def take(self, grant: Grant) -> None:
        """Take the money that was granted for the last report."""
        self.spent_ticks = self.least_ticks = 0
        self._held_ticks, self._left_ticks = grant.held_ticks, grant.left_ticks or 0
        self.tightest_key, self.is_held_elsewhere = grant.tightest_key, grant.is_held_elsewhere

    def reserve(self, bound_ticks: int | None) -> bool:
        """Exchange where the money in advance is too little. While money may return, ask ten times a second."""
        needed = (bound_ticks or 0) + self._excess_ticks
        self.usual_ticks, self.largest_ticks = needed, max(needed, self.largest_ticks)
        if not self._is_at_hand(needed) and not self._is_granted(needed):
            return False
        self.commit(bound_ticks)
        return True

    def _is_granted(self, needed: int) -> bool:
        now = loop_time()
        if now - self._refused_at < BUSY_SECONDS and (self._open or self.is_held_elsewhere):
            self._membership.soon()
            return False
        self.least_ticks = max(1, needed)
        if not self._membership.exchange():
            self.is_held_elsewhere = True  # unknown until the next exchange
            return False
        if self._is_at_hand(needed):
            return True
        self._refused_at = now
        self._membership.soon()
        return False

    def _is_at_hand(self, needed: int) -> bool:
        if self._held_ticks is None:
            return True
        left = self._held_ticks - self.reserved_ticks
        return left > 0 and needed <= left

    def commit(self, bound_ticks: int | None) -> None:
        bound = bound_ticks or 0
        self._smallest_ticks = bound if self._smallest_ticks is None else min(bound, self._smallest_ticks)
        self._bounds_ticks += bound
        self._open += 1

    def settle(self, bound_ticks: int | None, real_ticks: int | None) -> None:
        self.release(bound_ticks)
        bound = bound_ticks or 0
        real = bound if real_ticks is None else real_ticks
        self.spent_ticks += real
        if self._held_ticks is not None:
            self._held_ticks -= real
        self._excess_ticks = max(self._excess_ticks, real - bound)

    def release(self, bound_ticks: int | None) -> None:
        if self._open <= 0:
            raise RuntimeError("a reservation was given back twice")
        self._bounds_ticks -= bound_ticks or 0
        self._open -= 1
