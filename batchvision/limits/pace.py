"""The pace of departures: a rate that the job gives, the provider tells, or 429s teach. Evenly spaced, never early.

All leave through one door, one at a time (the generic cell rate algorithm): time not used is credit for at most
:data:`CREDIT_SECONDS`, and none at all where the provider's burst turns out to be small. What was found is kept a
little below the limit; tries for more are rare, and small where the limit was felt. What took rate or credit away may
be over (another program with the same key, a storm of 429s): both come back within minutes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf

import anyio
from aiolimiter import AsyncLimiter

from batchvision.eventloop import loop_time
from batchvision.limits.latency import LatencyBound
from batchvision.limits.meter import LONGEST_METER_SECONDS, Meter, Seen
from batchvision.limits.turn import Turn
from batchvision.wakeup import Wakeup

log = logging.getLogger(__name__)

CREDIT_SECONDS = 0.5  #: departures that were late may be made up for, this much: half of the burst that is usual
LEAD_SECONDS = 0.1  #: how long before it departs a request is admitted, to make its intent durable: a slow disk's group
CREDIT_AGAIN_SECONDS = 60.0  #: until credit that was taken away is given again; doubled each time,
LONGEST_CREDIT_AGAIN_SECONDS = 3_600.0  #: but no more than an hour
FINE_SECONDS = 0.00125  #: before a moment that must be met well: timers of event loops are a millisecond coarse
FINEST_SECONDS = 0.004  #: departures nearer than this are not worth holding the loop for
COARSE_SECONDS = 0.1  #: for departures further apart a millisecond is nothing
COOL_DOWN_SECONDS = 1.0  #: at most one cut in this time: a volley of 429s is one event
LONGEST_RAMP_SECONDS = 8.0  #: after a pause the rate grows back to the full, for as long as the pause was
RAMP_FROM = 0.25  #: of the full rate
PAUSES_APART = (
    5.0  #: times a pause: one that is asked for sooner after it means the rate; others cost no more than time
)
MARGIN = 0.98  #: of the rate that was seen to be accepted
LEAST_OF_FOUND = 0.8  #: one cut of a rate that nobody names goes no deeper
LEAST_OF_NAMED = 0.98  #: nor of one that the job or the provider names: a little more room between departures does much
LEAST_WITH_PAUSE = 0.96  #: unless each 429 costs a pause,
LEAST_WITH_PAUSES = 0.5  #: and many of them no deeper than this: they may have another reason
ENOUGH_ROOM = 0.93  #: of the limit that is named: if, this low, still
MISNAMED_SHARE = 0.2  #: of requests are refused, the limit is lower than it was named
BEARABLE_SHARE = 0.003  #: of 429s: below it nothing is changed
BEARABLE_SPACED_SHARE = 0.01  #: and this, once departures are evenly spaced
BEARABLE_NAMED_SHARE = 0.04  #: and this, where the limit is named: what the network delays meets the one behind it
STORM_SHARE = 0.8  #: of 429s in the last second: above it the rate is not the reason
SEARCH_FACTOR = 1.25  #: a second, until a limit is felt
RETURN_FACTOR = 1.5  #: a second, back to a rate that was fine
UNPROVEN_IN_FLIGHT = 10  #: requests in flight until the first has succeeded: the key may be wrong, or the model
FIRST_WINDOW = 32  #: requests in flight at the start of a slow start
PROBE_SHARE = 0.02  #: a try for more: half of the way to what was refused last, at least this; beyond it doubled
PROBE_SECONDS = 10.0  #: between two tries; doubled each time one fails, until one does not
LONGEST_PROBE_SECONDS = 80.0
METER_SECONDS = 5.0  #: what is looked at, and long enough for so many
METER_DEPARTURES = 300  #: but no more than a minute
SLOWEST_PER_SECOND = 0.5
LEAST_START = 1.0  #: a second: where the search begins if the limit that is named may be a day's


def limiter_of(per_second: float) -> AsyncLimiter:
    """A hard limit with a burst of one second's worth: providers derive a per-second limit from the minute's."""
    return AsyncLimiter(per_second, 1.0) if per_second >= 1 else AsyncLimiter(1, 1 / per_second)


def nap_until(moment: float) -> bool:
    """Sleep through the last millisecond before ``moment`` with the loop held; False where the loop's clock is not the
    machine's, or where there is more to wait."""
    left = moment - time.monotonic()
    if not -FINE_SECONDS < left <= 2 * FINE_SECONDS:
        return False
    time.sleep(max(0.0, left))
    return True


class Pace:
    """One rate for all departures. ``per_second`` None: none is known, and a slow start feels for it."""

    def __init__(
        self,
        given_per_second: float | None = None,
        most_in_flight: float = inf,
        nap_until: Callable[[float], bool] = nap_until,
        timeout_seconds: float | None = None,
    ) -> None:
        self.per_second = given_per_second
        self._most = given_per_second  #: never beyond what the job or the provider says
        self._is_named = given_per_second is not None  #: and that is believed
        self._good = given_per_second  #: the rate that was fine before the last trouble
        self._fine = 0.0  #: the rate before the last try for more
        self._felt_at = inf  #: the rate at which the limit was felt last
        self._credit_seconds = CREDIT_SECONDS
        self._credit_again_at, self._credit_again_seconds = inf, CREDIT_AGAIN_SECONDS
        self._next_at = 0.0  #: nobody departs before
        self._held_until, self._held_seconds = -inf, 0.0  #: the end of the last pause, and its length
        self._ahead = 0  #: admitted, not departed
        self._departing = Turn()
        self._nap_until = nap_until
        self._ramp_from = self._ramp_seconds = 0.0
        self._most_in_flight = most_in_flight
        self._window = min(float(FIRST_WINDOW), most_in_flight)
        self._in_flight = 0
        self._room = Wakeup()
        self._meter = Meter()
        self._changed_at = 0.0
        self._cut_at = float("-inf")
        self._probe_seconds = PROBE_SECONDS
        self._probe_share = PROBE_SHARE
        self._is_saturated = False
        self._is_first = True
        self._floor = 0.0  #: at least so much passes: a limit that the provider names without its window
        self.bound = LatencyBound(timeout_seconds)
        self.has_succeeded = False  #: until a request was answered, few are in flight

    def __repr__(self) -> str:
        rate = "slow start" if self.per_second is None else f"{self.per_second:.3g}/s"
        return f"<Pace {rate}, {self._in_flight} in flight>"

    # ---------------------------------------------------------------- departures

    async def admit(self) -> None:
        """Wait until a departure is near, and for room in the window."""
        while (wait := self._until_near()) > 0:
            self._is_saturated = True
            await anyio.sleep(wait)
        while self._is_full:
            await self._room.wait()
        self._admitted()

    def admit_nowait(self) -> bool:
        """The same, where nothing has to be waited for."""
        if self._until_near() > 0 or self._is_full:
            return False
        self._admitted()
        return True

    def _admitted(self) -> None:
        self._in_flight += 1
        self._ahead += 1

    def _until_near(self) -> float:
        """How long until the next one to be admitted should make its intent durable."""
        now = loop_time()
        rate = self._rate_at(max(now, self._next_at))
        behind = self._ahead / rate if rate else 0.0
        return max(self._next_at - now, -self._credit(rate)) + behind - LEAD_SECONDS

    @property
    def _is_full(self) -> bool:
        most = min(self.bound.most, self._most_in_flight if self.per_second is not None else self._window)
        return self._in_flight >= (most if self.has_succeeded else min(most, UNPROVEN_IN_FLIGHT))

    async def depart(self) -> float:
        """Wait for the next departure: one waits at a time, and what is late puts off those behind. Returns when."""
        async with self._departing:
            while (now := loop_time()) < (at := self._next_at):
                if self._is_fine:
                    await anyio.sleep_until(at - FINE_SECONDS)
                    if self._next_at == at and self._nap_until(at):
                        now = at
                        break
                await anyio.sleep_until(self._next_at)
            return self._departed(now)

    @property
    def _is_fine(self) -> bool:
        """A departure that is a millisecond late costs a noticeable part of the rate, as nothing makes up for it."""
        return not self._credit_seconds and FINEST_SECONDS <= 1 / (self.per_second or inf) <= COARSE_SECONDS

    def depart_nowait(self) -> float | None:
        """The same, where nothing has to be waited for."""
        now = loop_time()
        return None if self._departing.is_wanted or now < self._next_at else self._departed(now)

    def _departed(self, now: float) -> float:
        self._ahead -= 1
        self._meter.departed(now)
        rate = self._rate_at(now)
        if rate is not None:
            self._next_at = max(self._next_at, now - self._credit(rate)) + 1 / rate
        return now

    def _credit(self, rate: float | None) -> float:
        """None where it is less than one departure: that would only bring two closer together."""
        return self._credit_seconds if rate and rate * self._credit_seconds >= 1 else 0.0

    def _rate_at(self, moment: float) -> float | None:
        if self.per_second is None or not self._ramp_seconds:
            return self.per_second
        share = (moment - self._ramp_from) / self._ramp_seconds
        if share >= 1:
            self._ramp_seconds = 0.0
            return self.per_second
        return self.per_second * (RAMP_FROM + (1 - RAMP_FROM) * max(0.0, share))

    def landed(self, *, has_departed: bool) -> None:
        """A departure has come back, or never left."""
        self._in_flight -= 1
        self._ahead -= not has_departed
        self._room.tell()

    def hold_until(self, moment: float) -> None:
        """Nobody departs before ``moment``; then the rate grows back."""
        now = loop_time()
        if self.per_second is None:
            self.per_second = max(1.0, self._seen().accepted_per_second)
            self._room.tell()
        self._next_at = max(self._next_at, moment)
        self._held_until, self._held_seconds = moment, moment - now
        self._ramp_from, self._ramp_seconds = moment, min(LONGEST_RAMP_SECONDS, max(1.0, moment - now))
        self._changed_at = moment + self._ramp_seconds

    # ---------------------------------------------------------------- what is learned

    def tell(self, per_second: float) -> bool:
        """The provider names its limit: exact, so it is used in full, but never beyond the job's own. True: it is news,
        and what it refused of requests that have departed is explained."""
        if self._most is not None and per_second >= self._most * 0.999:
            return False
        self._most = self._good = per_second
        self._is_named = True
        self._cut(per_second, loop_time())
        return True

    def succeeded(self) -> None:
        """A request was answered: key, URL and model are right."""
        if not self.has_succeeded:
            self.has_succeeded = True
            self._room.tell()

    def tell_floor(self, per_second: float) -> None:
        """The provider names a limit, but not the time that it is for: at least so much passes. From there on the rate
        feels upwards while nothing is refused."""
        self._floor = per_second
        if self.per_second is None:
            self._set(max(per_second, LEAST_START), loop_time())
            self._room.tell()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def accepted(self) -> None:
        """An answer that was no 429."""
        now = loop_time()
        self._answered(now)
        if self.per_second is None:
            self._window = min(self._window + 1, self._most_in_flight)  # doubles with each round trip
        elif self._is_saturated:
            self._grow(now)

    def _answered(self, now: float) -> None:
        if self._is_first:  # it was alone: nobody was late meanwhile
            self._is_first, self._next_at = False, max(self._next_at, now)

    def _grow(self, now: float) -> None:
        """Only where the rate is what holds us back: quickly up to what was fine, beyond it in rare tries."""
        if self.per_second is None:
            raise RuntimeError("a rate grows only where there is one")
        since = now - self._changed_at
        if self._good is None:  # still searching: no limit has been felt yet
            if since >= 1.0:
                self._set(self.per_second * SEARCH_FACTOR, now)
        elif self.per_second < self._good:
            if since >= 1.0:
                self._set(min(self.per_second * RETURN_FACTOR, self._good), now)
        elif self.per_second == self._most:
            if now >= self._credit_again_at:
                self._give_credit_again(now)
        elif since >= self._probe_seconds and self._seen().refused_share <= self._bearable / 2:
            self._try_more(self.per_second, now)

    def _try_more(self, rate: float, now: float) -> None:
        """What was felt may have been another program with the same key: minutes later all is there again."""
        if self._fine:  # the last try met no limit
            self._probe_seconds = PROBE_SECONDS
        if rate > self._felt_at:  # more than was ever refused: the limit has been raised
            self._probe_share = min(0.25, self._probe_share * 2)
        half_way = (rate + self._felt_at) / 2 if self._felt_at < inf else 0.0
        self._fine = rate
        self._good = min(self._most or inf, max(half_way, rate * (1 + self._probe_share)))
        self._set(self._good, now)

    def _give_credit_again(self, now: float) -> None:
        """At a limit that is named nothing else makes up for late departures, and what took it away may be over."""
        if self._seen(LONGEST_METER_SECONDS).refused_share > BEARABLE_SHARE:
            self._credit_again_at = now + self._credit_again_seconds
        else:
            self._credit_seconds, self._credit_again_at, self._is_named = CREDIT_SECONDS, inf, True

    def _take_credit(self, now: float) -> None:
        self._credit_seconds = 0.0
        self._credit_again_at = now + self._credit_again_seconds
        self._credit_again_seconds = min(LONGEST_CREDIT_AGAIN_SECONDS, 2 * self._credit_again_seconds)

    def _set(self, per_second: float, now: float) -> None:
        self.per_second = max(per_second, SLOWEST_PER_SECOND if self._most is None else min(self._most / 4, 1.0))
        self._changed_at = now
        self._is_saturated = False

    def refused(self, departed_at: float, *, has_wish: bool = False) -> bool:
        """A 429 for a request that departed then. One cut in a cool-down; what left before the last cut is old news.

        ``has_wish``: it says itself how long to wait. True: a pause is due, as the rate alone does not explain it.
        """
        now = loop_time()
        if departed_at < self._cut_at:
            return False
        self._answered(now)
        self._meter.refused(now)
        if now - self._cut_at < COOL_DOWN_SECONDS:
            return False
        seen = self._seen()
        if self.per_second is None:  # the slow start ends: from here a rate is searched for
            self._cut(seen.accepted_per_second * 0.7, now)
            self._room.tell()
            return True
        if self._seen(1.0, 10).refused_share > STORM_SHARE:  # give way, and come back to what was fine
            self._cut(self.per_second if has_wish else self.per_second / 2, now)
            return True
        is_soon = self._held_until <= departed_at and now - self._held_until < PAUSES_APART * self._held_seconds
        is_tried = self._fine > 0 and now - self._changed_at < LONGEST_PROBE_SECONDS  # more: a pause says no
        if (has_wish and (is_soon or is_tried)) or seen.is_surely_above(self._bearable):
            self._slow_down(self.per_second, seen, now, has_wish=has_wish)
        elif (longer := self._seen(LONGEST_METER_SECONDS)).is_surely_above(self._bearable):  # at a slow pace few show
            self._slow_down(self.per_second, longer, now, has_wish=has_wish)
        return False

    @property
    def _bearable(self) -> float:
        if self._credit_seconds:
            return BEARABLE_SHARE
        return BEARABLE_NAMED_SHARE if self._is_named else BEARABLE_SPACED_SHARE

    def _slow_down(self, rate: float, seen: Seen, now: float, *, has_wish: bool) -> None:
        """The limit is felt. Where none is named, what gets through is what it is; otherwise the provider's burst is
        small: first departures are spaced, then slowed by what is refused."""
        if seen.refused_share >= MISNAMED_SHARE and rate < ENOUGH_ROOM * (self._most or 0.0):
            self._is_named = False
        if not self._is_named:
            found = max(seen.accepted_per_second * MARGIN, rate * LEAST_OF_FOUND, self._fine, self._floor)
            self._good = min(rate, found)
        elif has_wish:
            self._good = max(rate * LEAST_WITH_PAUSE, (self._most or 0.0) * LEAST_WITH_PAUSES)
        elif not self._credit_seconds:
            self._good = rate * max(LEAST_OF_NAMED, 1 - seen.refused_share / 2)
        if self._fine:  # a try for more has failed
            self._probe_seconds = min(LONGEST_PROBE_SECONDS, self._probe_seconds * 2)
        self._fine, self._felt_at = 0.0, rate
        if self._credit_seconds:
            self._take_credit(now)
        self._probe_share = PROBE_SHARE
        self._cut(self._good or rate, now)

    def _seen(self, span_seconds: float = METER_SECONDS, least: int = METER_DEPARTURES) -> Seen:
        """Of the last ``span_seconds``; longer where that would show fewer than so many departures."""
        longer = min(LONGEST_METER_SECONDS, least / self.per_second) if self.per_second else 0.0
        return self._meter.seen(loop_time(), max(span_seconds, longer))

    def _cut(self, per_second: float, now: float) -> None:
        self._cut_at = now
        self._meter = Meter(now)
        self._set(per_second, now)
