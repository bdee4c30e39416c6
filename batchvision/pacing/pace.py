"""The pace of departures: a rate that the job gives, the provider tells, or 429s teach. Evenly spaced, never early.

A reservation pacer (the generic cell rate algorithm): each departure has its moment, and time not used is credit for
at most :data:`CREDIT_SECONDS`. What was found is kept a little below the limit; trying for more is small and rare.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from typing import NamedTuple

import anyio
from aiolimiter import AsyncLimiter

from batchvision.wakeup import Wakeup

log = logging.getLogger(__name__)

CREDIT_SECONDS = 0.25  #: departures that were late may be made up for, this much
LEAD_SECONDS = 0.03  #: how long before its moment a request may write its intent
COOL_DOWN_SECONDS = 1.0  #: at most one cut in this time: a volley of 429s is one event
RAMP_SECONDS = 8.0  #: after a pause the rate grows back to the full
RAMP_FROM = 0.25
MARGIN = 0.98  #: of the rate that was seen to be accepted
LEAST_OF_GIVEN = 0.95  #: one cut of a rate that the job or the provider names goes no deeper
LEAST_OF_FOUND = 0.8
BEARABLE_SHARE = 0.003  #: of 429s: below it nothing is changed
BEARABLE_SPACED_SHARE = 0.015  #: and this, once departures are evenly spaced
STORM_SHARE = 0.8  #: of 429s in the last second: above it the rate is not the reason
SEARCH_FACTOR = 1.25  #: a second, until a limit is felt
RETURN_FACTOR = 1.5  #: a second, back to a rate that was fine
FIRST_WINDOW = 32  #: requests in flight at the start of a slow start
PROBE_SHARE = 0.02  #: a try for a little more; doubled each time one does no harm
PROBE_SECONDS = 10.0  #: between two tries; doubled each time one fails
LONGEST_PROBE_SECONDS = 320.0
METER_SECONDS = 5.0  #: and long enough for ten answers, but no more than a minute
LONGEST_METER_SECONDS = 60.0
SLOWEST_PER_SECOND = 0.5


def limiter_of(per_second: float) -> AsyncLimiter:
    """A hard limit with a burst of one second's worth: providers derive a per-second limit from the minute's."""
    return AsyncLimiter(per_second, 1.0) if per_second >= 1 else AsyncLimiter(1, 1 / per_second)


class Seen(NamedTuple):
    """What came back over a while: answers that were no 429, and 429s."""

    accepted: float
    refused: float
    span_seconds: float

    @property
    def accepted_per_second(self) -> float:
        return self.accepted / self.span_seconds

    @property
    def refused_share(self) -> float:
        return self.refused / max(1.0, self.accepted + self.refused)


class Meter:
    """Counts what comes back, by tenths of a second. While a limit is felt, what is accepted *is* the limit."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._tenths: deque[list[float]] = deque()

    def count(self, now: float, *, accepted: bool) -> None:
        if self._since is None:
            self._since = now
        if not self._tenths or now - self._tenths[-1][0] >= 0.1:
            self._tenths.append([now, 0, 0])
            while self._tenths[0][0] < now - LONGEST_METER_SECONDS:
                self._tenths.popleft()
        self._tenths[-1][1 if accepted else 2] += 1

    def seen(self, now: float, span_seconds: float, rate: float | None = None) -> Seen:
        """The last ``span_seconds``; longer where at ``rate`` that would show fewer than ten."""
        span = min(LONGEST_METER_SECONDS, max(span_seconds, 10 / rate if rate else 0.0))
        accepted = refused = 0.0
        for at, good, bad in reversed(self._tenths):
            if at < now - span:
                break
            accepted, refused = accepted + good, refused + bad
        return Seen(accepted, refused, min(span, max(1.0, now - (self._since or now))))


class Pace:
    """One rate for all departures. ``per_second`` None: none is known, and a slow start feels for it."""

    def __init__(self, given_per_second: float | None = None, most_in_flight: float = inf) -> None:
        self.per_second = given_per_second
        self.epoch = 0  #: changes when moments that were given hold no longer
        self._most = given_per_second  #: never beyond what the job or the provider says
        self._good = given_per_second  #: the rate that was fine before the last trouble
        self._limiter = None if given_per_second is None else limiter_of(given_per_second)
        self._credit_seconds = CREDIT_SECONDS
        self.slip_seconds = 0.0  #: by how much moments have been put off since the beginning
        self._next_at = 0.0
        self._ramp_from: float | None = None
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

    def __repr__(self) -> str:
        rate = "slow start" if self.per_second is None else f"{self.per_second:.3g}/s"
        return f"<Pace {rate}, {self._in_flight} in flight>"

    # ---------------------------------------------------------------- departures

    async def admit(self) -> None:
        """Wait until a departure is near: the hard limit, then the backlog of moments, then the window."""
        if self._limiter is not None:
            await self._limiter.acquire()
        while (wait := self._next_at - LEAD_SECONDS - anyio.current_time()) > 0:
            self._is_saturated = True
            await anyio.sleep(wait)
        while self._is_full:
            await self._room.wait()
        self._in_flight += 1

    def admit_nowait(self) -> bool:
        """The same, where nothing has to be waited for."""
        if self._limiter is not None or self._next_at - LEAD_SECONDS > anyio.current_time():
            return False
        if self._is_full:
            return False
        self._in_flight += 1
        return True

    @property
    def _is_full(self) -> bool:
        return self._in_flight >= (self._most_in_flight if self.per_second is not None else self._window)

    def reserve(self) -> float:
        """The moment of one departure, on the loop's clock. It may lie in the past: then it is now."""
        now = anyio.current_time()
        rate = self._rate_at(max(now, self._next_at))
        if rate is None:
            return now
        moment = max(self._next_at, now - self._credit_seconds)
        self._next_at = moment + 1 / rate
        return moment

    def late(self, seconds: float) -> None:
        """A departure was late. Where the provider's burst is small, those behind it keep their distance and are put
        off by as much; elsewhere they go when they would have gone."""
        if not self._credit_seconds:
            self.slip_seconds += seconds
            self._next_at += seconds

    def _rate_at(self, moment: float) -> float | None:
        if self.per_second is None or self._ramp_from is None:
            return self.per_second
        share = (moment - self._ramp_from) / RAMP_SECONDS
        if share >= 1:
            self._ramp_from = None
            return self.per_second
        return self.per_second * (RAMP_FROM + (1 - RAMP_FROM) * max(0.0, share))

    def landed(self) -> None:
        """A departure has come back, or never left."""
        self._in_flight -= 1
        self._tell()

    def _tell(self) -> None:
        self._room.tell()

    def hold_until(self, moment: float) -> None:
        """Nobody departs before ``moment``; then the rate grows back."""
        self.epoch += 1
        if self.per_second is None:
            self.per_second = max(1.0, self._seen().accepted_per_second)
            self._tell()
        self._next_at = self._ramp_from = moment
        self._changed_at = moment + RAMP_SECONDS

    # ---------------------------------------------------------------- what is learned

    def tell(self, per_second: float) -> None:
        """The provider names its limit: exact, so it is used in full, but never beyond the job's own."""
        if self._most is None or per_second < self._most * 0.999:
            self._most = self._good = per_second
            self.per_second = per_second
            self._limiter = limiter_of(per_second)
            self._changed_at = anyio.current_time()

    def accepted(self) -> None:
        """An answer that was no 429."""
        now = anyio.current_time()
        self._meter.count(now, accepted=True)
        if self.per_second is None:
            self._window = min(self._window + 1, self._most_in_flight)  # doubles with each round trip
        elif self._is_saturated:
            self._grow(now)

    def _grow(self, now: float) -> None:
        """Only where the rate is what holds us back: quickly up to what was fine, beyond it a little and rarely."""
        assert self.per_second is not None
        since = now - self._changed_at
        if self._good is None:  # still searching: no limit has been felt yet
            if since >= 1.0:
                self._set(self.per_second * SEARCH_FACTOR, now)
        elif self.per_second < self._good:
            if since >= 1.0:
                self._set(min(self.per_second * RETURN_FACTOR, self._good), now)
        elif since >= self._probe_seconds and (self._most is None or self.per_second < self._most):
            more = self.per_second * (1 + self._probe_share)
            self._good = more if self._most is None else min(self._most, more)
            self._probe_share = min(0.25, self._probe_share * 2)  # the last one did no harm
            self._probe_seconds = PROBE_SECONDS
            self._set(self._good, now)

    def _set(self, per_second: float, now: float) -> None:
        self.per_second = max(per_second, SLOWEST_PER_SECOND if self._most is None else min(self._most / 4, 1.0))
        self._changed_at = now
        self._is_saturated = False

    def refused(self, departed_at: float, *, has_wish: bool = False) -> bool:
        """A 429 for a request that departed then. One cut in a cool-down; what left before the last cut is old news.

        ``has_wish``: it says itself how long to wait. True: a pause is due, as the rate alone does not explain it.
        """
        now = anyio.current_time()
        if departed_at < self._cut_at:
            return False
        self._meter.count(now, accepted=False)
        if now - self._cut_at < COOL_DOWN_SECONDS:
            return False
        seen = self._seen()
        if self.per_second is None:  # the slow start ends: from here a rate is searched for
            self._cut(seen.accepted_per_second * 0.7, now)
            self._tell()
            return True
        if self._seen(1.0).refused_share > STORM_SHARE:  # give way, and come back to what was fine
            self._cut(self.per_second if has_wish else self.per_second / 2, now)
            return True
        if seen.refused_share > (
            BEARABLE_SHARE if self._credit_seconds else BEARABLE_SPACED_SHARE
        ):  # the limit is felt, and what gets through is what it is
            least = self.per_second * (LEAST_OF_FOUND if self._most is None else LEAST_OF_GIVEN)
            self._good = min(max(seen.accepted_per_second * MARGIN, least), self.per_second)
            self._credit_seconds = 0.0  # evenly from now on: the provider's burst is small
            self._probe_seconds = min(LONGEST_PROBE_SECONDS, self._probe_seconds * 2)
            self._probe_share = PROBE_SHARE
            self._cut(self._good, now)
        return False

    def _seen(self, span_seconds: float = METER_SECONDS) -> Seen:
        """Since the last cut: what was before it is settled."""
        now = anyio.current_time()
        since_cut = max(1.0, now - self._cut_at - 0.2)
        return self._meter.seen(now, min(span_seconds, since_cut), None if since_cut <= 1.0 else self.per_second)

    def _cut(self, per_second: float, now: float) -> None:
        self._cut_at = now
        self.epoch += 1
        self._next_at = now
        self._set(per_second, now)
