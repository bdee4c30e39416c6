"""Decide the rate of requests from refusals, and bound the requests in flight by the latency of answers.

No I/O and no clock: each method is given the time.

The rate: additive increase, multiplicative decrease. A cut leads from any state to COOLING_DOWN, then to STEADY. A
pause leads to COOLING_DOWN and back. Tries that pass the rate of the last cut lead from STEADY to SEARCHING.
A limit from the job, from headers or from the words of a 429 is a ceiling: the rate begins there and never passes it.
"""

from __future__ import annotations

import logging
from collections import deque
from enum import Enum
from math import inf, sqrt
from statistics import median
from typing import NamedTuple

log = logging.getLogger(__name__)

MEMORY_SECONDS = 60.0  #: Older requests and refusals are not counted.
TOLERATED_SHARE = 0.006  #: A smaller share of 429s changes nothing: stray refusals are no limit.
VOLLEY = 5  #: So many requests turned away at once may pause all requests.
VOLLEY_SHARE = 0.1  #: They pause all requests if they are this share of the requests sent in the last second.
STORM_SHARE = 0.8  #: Above this share of refusals the rate is not their cause, so the rate stays and requests pause.
STEP_SECONDS = 1.0  #: The rate is cut and raised at most once in this time.
JUDGED_REQUESTS = 100  #: A rate is judged by the last so many requests, and again by those of the last minute.
FIRST_STEP = (
    0.02  #: The first raise after a cut adds this share, and a cut goes this share below the limit that it has found.
)
LONGEST_STEP = 0.25  #: Each raise that meets no limit doubles the next one, up to this share.
IN_A_ROW = 3  #: So many refusals in a row pause all requests, and so many cuts in a row that do not help are a test.
CREDIT_SECONDS = 0.5  #: Late requests are made up for, up to the requests of so many seconds: half of a usual burst.

SHARE_OF_TIMEOUT = 0.5  #: Slower answers than this share of the timeout lower the bound.
RAISE_BELOW = 0.8  #: Quicker answers than this part of that share raise it.
BOUND_RAISE_FACTOR = 1.25  #: One raise multiplies the bound by this factor.
SATURATED_SHARE = 0.7  #: The bound is raised only if so large a part of it was in flight.
DEEPEST_STEP = 0.5  #: One step lowers the bound to this part at most; the next one needs a step that has helped.
HELPED_BELOW = 0.85  #: With half of the requests in flight, answers of a busy server take less than this part.
ANSWERS_SEEN = 8  #: Each decision uses the medians of so many answers.


class RateState(Enum):
    """The states of the controller."""

    SLOW_START = "no rate is known: one more request may be in flight with each answer"
    SEARCHING = "no limit is known above the rate: each second it grows by a step, and the step doubles"
    STEADY = "a limit has been met: a try goes half of the way to it, and comes later after each failed try"
    COOLING_DOWN = "the rate was cut or requests pause: the rate stays until the effect can be seen"


class Look(NamedTuple):
    """The counts of the last ``seconds``. ``refused`` is a part of ``turned_away``.

    Shares are of requests sent, not of answers: an answer takes seconds and a 429 milliseconds.
    """

    sent: int
    refused: int  #: 429s that speak of the rate of requests
    turned_away: int  #: these, and all other answers that ask to come again later
    seconds: float

    @property
    def sent_per_second(self) -> float:
        return self.sent / self.seconds

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.sent, self.refused)

    @property
    def turned_away_share(self) -> float:
        return self.turned_away / max(1, self.sent, self.turned_away)

    @property
    def sure_share(self) -> float:
        """The share of refusals that is no accident: two standard deviations less."""
        return (self.refused - 2 * sqrt(self.refused)) / max(1, self.sent, self.refused)


class Meter:
    """Counts in tenths of a second from ``since``, or from the first request if it is ``None``.

    A cut or a pause begins a new meter.
    """

    def __init__(self, since: float | None = None) -> None:
        self._since = since
        self._tenths: deque[list[float]] = deque()  #: of [begin, sent, refused, turned away]

    def add(self, now: float, *, sent: int = 0, refused: int = 0, turned_away: int = 0) -> None:
        """Count events at ``now``."""
        self._since = now if self._since is None else self._since
        if not self._tenths or now - self._tenths[-1][0] >= 0.1:
            self._tenths.append([now, 0, 0, 0])
            while self._tenths[0][0] < now - MEMORY_SECONDS:
                self._tenths.popleft()
        tenth = self._tenths[-1]
        tenth[1], tenth[2], tenth[3] = tenth[1] + sent, tenth[2] + refused, tenth[3] + turned_away

    def look(self, now: float, seconds: float, least_sent: int = 0) -> Look:
        """The last ``seconds``, or longer until ``least_sent`` requests are seen."""
        sent = refused = turned_away = 0
        oldest = now - seconds
        for begin, *counts in reversed(self._tenths):
            if begin < oldest:
                if sent >= least_sent:
                    break
                seconds = now - begin
            sent, refused, turned_away = sent + int(counts[0]), refused + int(counts[1]), turned_away + int(counts[2])
        return Look(sent, refused, turned_away, min(seconds, max(0.1, now - (self._since or now))))


class RateController:
    """The rate and its state. ``ceiling``: requests a second that the job allows, or ``None``."""

    def __init__(self, ceiling: float | None = None, first_window: int = 10) -> None:
        self.state = RateState.SLOW_START if ceiling is None else RateState.STEADY
        self.per_second = ceiling  #: ``None`` in slow start
        self.window: float = first_window  #: requests in flight in slow start
        self.is_saturated = False  #: a request has waited for the rate since the rate was set
        self._ceiling = inf if ceiling is None else ceiling
        self._floor = 0.0
        self._meter = Meter()
        self._judged_from = -inf  #: the last cut or pause: requests sent before it are not judged
        self._changed_at = self._cut_at = -inf
        self._cool_until, self._state_after = 0.0, self.state
        self._met_at = inf  #: the rate at which a limit was met last
        self._step, self._try_seconds = LONGEST_STEP, STEP_SECONDS
        self._has_tried, self._before_try = False, 0.0  #: since the last cut; the rate that was fine before
        self._found = inf  #: the limit that the last cut has found
        self._cuts, self._cut_share = 0, 0.0  #: cuts in a row that have not helped, and the refusals before the last
        self._before_cuts: float | None = ceiling  #: the rate
        self._strays = (0.0, -inf)  #: share of refusals that no cut has ended, and until when it is tolerated
        self._paused_until = -inf
        self._pauses_in_a_row = self._refused_in_a_row = 0
        self._has_accepted = False

    def __repr__(self) -> str:
        rate = "" if self.per_second is None else f" at {self.per_second:.3g}/s"
        return f"<RateController {self.state.name.lower()}{rate}>"

    def credit_seconds(self, now: float) -> float:
        """How late a request may be and still be made up for.

        0 for a minute after a cut, because the provider's burst may be small. 0 also if it is less than one request.
        """
        has_credit = now - self._cut_at >= MEMORY_SECONDS and CREDIT_SECONDS * (self.per_second or 0.0) >= 1
        return CREDIT_SECONDS if has_credit else 0.0

    # ---------------------------------------------------------------- limits that are named

    def set_ceiling(self, per_second: float, now: float) -> None:
        """Take a limit that the provider names. A lower one explains the refusals of requests that were sent before."""
        if per_second < self._ceiling * 0.999:
            self._ceiling, self._met_at = per_second, inf
            self._judged_from, self._meter = now, Meter(now)
            self.state = RateState.STEADY
            self._set(per_second, now)

    def set_floor(self, per_second: float, now: float) -> None:
        """Take a limit without its window: the provider accepts at least ``per_second``, and perhaps more."""
        self._floor = per_second
        if self.per_second is None:
            self.state = RateState.SEARCHING
            self._set(max(per_second, 1.0), now)

    # ---------------------------------------------------------------- what happens to requests

    def sent(self, now: float) -> None:
        self._meter.add(now, sent=1)

    def accepted(self, now: float) -> None:
        """Count an answer that was no refusal."""
        self._has_accepted = True
        self._pauses_in_a_row = self._refused_in_a_row = 0
        self._end_cooling(now)
        if self.state is RateState.SLOW_START:
            self.window += 1  # doubles with each round trip
        elif self.is_saturated and self.state is not RateState.COOLING_DOWN:
            self._raise_if_calm(now)

    def turned_away(
        self, now: float, sent_at: float | None, retry_after_seconds: float | None, *, is_rate: bool = True
    ) -> float:
        """Count a refusal and cut the rate if it explains the refusals. Returns for how long all requests must pause.

        ``is_rate`` is ``False`` for a poll, a 503 and a limit of tokens: their refusals do not depend on the rate.
        """
        if sent_at is not None and sent_at < self._judged_from:
            return (retry_after_seconds or 0.0) if now < self._paused_until else 0.0
        self._end_cooling(now)
        self._meter.add(now, refused=int(is_rate), turned_away=1)
        self._refused_in_a_row += 1
        recent = self._meter.look(now, STEP_SECONDS, least_sent=10)
        is_storm = recent.turned_away_share >= STORM_SHARE and (recent.turned_away >= VOLLEY or not self._has_accepted)
        is_volley = recent.turned_away >= VOLLEY and recent.turned_away_share >= max(
            VOLLEY_SHARE, self._tolerated_share(now)
        )
        if is_rate and not is_storm and self.state is not RateState.COOLING_DOWN:
            if is_volley and recent.refused >= VOLLEY:
                self._cut(recent, now)
            else:
                self._cut_if_surely_above(now)
        if retry_after_seconds is not None:
            is_pause_due = is_volley or is_storm or self._refused_in_a_row >= IN_A_ROW
            return retry_after_seconds if is_pause_due else 0.0
        if not is_storm or now < self._paused_until:
            return 0.0
        self._pauses_in_a_row += 1
        return float(min(MEMORY_SECONDS, 0.5 * 2 ** min(self._pauses_in_a_row, 8)))

    def paused(self, now: float, until: float) -> None:
        """All requests pause. Refusals of requests sent before ``now`` are not judged."""
        self._paused_until = until
        self._judged_from, self._meter = now, Meter(until)
        self.window = 1  # a storm may go on: the next request is a probe
        self._cool_down(until, self._state_after if self.state is RateState.COOLING_DOWN else self.state)

    # ---------------------------------------------------------------- down

    def _cut_if_surely_above(self, now: float) -> None:
        for seconds in (STEP_SECONDS, MEMORY_SECONDS):
            look = self._meter.look(now, seconds, JUDGED_REQUESTS)
            is_trial = self._cuts >= IN_A_ROW and look.refused >= VOLLEY
            if is_trial or look.sure_share > self._tolerated_share(now):
                self._cut(look, now)
                return

    def _tolerated_share(self, now: float) -> float:
        share, until = self._strays
        return share if now < until else TOLERATED_SHARE

    def _cut(self, look: Look, now: float) -> None:
        """To the rate before a try that has failed, or to the rate that was accepted. If two cuts have not helped, to
        half; if that has not helped, the refusals have another cause."""
        share, speed = look.refused_share, self.per_second or look.sent_per_second
        if look.seconds >= STEP_SECONDS:
            speed = min(speed, look.sent_per_second)  # the rate may not be what holds requests back
        if self._has_tried or not self._cut_share / 2 < share < self._cut_share * 2:
            self._cuts, self._before_cuts = 0, self.per_second
        elif self._cuts >= IN_A_ROW and share < 0.5:
            self._take_cuts_back(look, now)
            return
        self._cuts, self._cut_share = self._cuts + 1, share
        accepted = speed * (1 - (share + look.sure_share) / 2) * (1 - FIRST_STEP)
        is_deep = self._cuts >= IN_A_ROW or self.per_second is None
        found = max(speed / 2, self._floor, 0.0 if is_deep else max(accepted, self._before_try))
        if self._has_tried:
            is_higher = found * (1 - LONGEST_STEP) > self._found
            self._try_seconds = STEP_SECONDS if is_higher else min(MEMORY_SECONDS, self._try_seconds * 2)
        self._found, self._met_at, self._step = found, speed, FIRST_STEP
        self._has_tried, self._before_try = False, 0.0
        self._cut_at = self._judged_from = now
        self._meter = Meter(now)
        self._set(min(found, self.per_second or inf), now)
        self._cool_down(now, RateState.STEADY)

    def _take_cuts_back(self, look: Look, now: float) -> None:
        self._strays = (min(0.5, 2 * look.refused_share), now + MEMORY_SECONDS)
        self._cuts, self._cut_share, self._cut_at = 0, 0.0, -inf
        self._met_at = self._found = inf
        self.state = RateState.SLOW_START if self._before_cuts is None else RateState.SEARCHING
        self._set(self._before_cuts, now)

    def _cool_down(self, begin: float, state_after: RateState) -> None:
        self._cool_until, self._state_after = begin + STEP_SECONDS, state_after
        self.state = RateState.COOLING_DOWN

    def _end_cooling(self, now: float) -> None:
        if self.state is RateState.COOLING_DOWN and now >= self._cool_until:
            self.state = self._state_after

    # ---------------------------------------------------------------- up

    def _raise_if_calm(self, now: float) -> None:
        rate = self.per_second
        if rate is None or rate >= self._ceiling or now - self._changed_at < self._seconds_between_raises(rate):
            return
        if self._meter.look(now, STEP_SECONDS, JUDGED_REQUESTS).refused_share > self._tolerated_share(now):
            return
        if rate >= self._met_at:
            self.state, self._met_at = RateState.SEARCHING, inf
            self._cuts, self._cut_share = 0, 0.0
        more = rate * (1 + self._step)
        if self.state is RateState.STEADY:
            more = max(more, (rate + self._met_at) / 2)
        else:
            self._step = min(LONGEST_STEP, 2 * self._step)
        self._has_tried, self._before_try = True, rate if self.state is RateState.STEADY else 0.0
        self._set(self._ceiling if more > self._ceiling * (1 - FIRST_STEP) else more, now)

    def _seconds_between_raises(self, rate: float) -> float:
        if self._found == inf:
            return STEP_SECONDS
        is_first = self.state is RateState.STEADY and not self._has_tried and self._cuts < IN_A_ROW
        judged_seconds = min(10 * STEP_SECONDS, JUDGED_REQUESTS * max(1, self._cuts) / rate)
        return max(self._try_seconds if is_first else STEP_SECONDS, judged_seconds)

    def _set(self, per_second: float | None, now: float) -> None:
        self.per_second, self._changed_at, self.is_saturated = per_second, now, False


class Timing(NamedTuple):
    """An answer or a timeout: how long it took, and the requests in flight when its request was sent."""

    seconds: float
    in_flight: float


class LatencyBound:
    """The most requests in flight: fewer where answers take over half of ``timeout_seconds`` (of one request).

    A busy server works on one request at a time. By Little's law the latency grows with the requests in flight. Fewer
    of them cost no throughput, and many of them end in timeouts that are billed. A trial finds a server that is slow
    by itself: with fewer requests its answers are no quicker.
    """

    def __init__(self, timeout_seconds: float | None) -> None:
        self._slow_seconds = inf if timeout_seconds is None else SHARE_OF_TIMEOUT * timeout_seconds
        self._timings: deque[Timing] = deque(maxlen=ANSWERS_SEEN)
        self._before_step: Timing | None = None
        self._is_slow_by_itself = False
        self.most: float = inf

    def __repr__(self) -> str:
        return f"<LatencyBound {self.most:g}>"

    def observe(self, timing: Timing) -> None:
        """Count an answer or a timeout. The medians of the last few decide: a single slow row changes nothing."""
        if self._is_slow_by_itself or timing.in_flight > self.most + 1:  # it was sent before the last step
            return
        self._timings.append(timing)
        if len(self._timings) < ANSWERS_SEEN:
            return
        seen = Timing(median(each.seconds for each in self._timings), median(each.in_flight for each in self._timings))
        if seen.seconds > self._slow_seconds:
            self._lower(seen)
        elif seen.seconds < RAISE_BELOW * self._slow_seconds:
            self._before_step = None
            if seen.in_flight >= SATURATED_SHARE * self.most:
                self.most = self.most * BOUND_RAISE_FACTOR + 1
        else:
            return
        self._timings.clear()

    def _lower(self, seen: Timing) -> None:
        """Lower the bound to where answers take half of the timeout. If they still take longer, try half of it."""
        before, self._before_step = self._before_step, None
        is_timeout = before is not None and before.seconds * SHARE_OF_TIMEOUT >= self._slow_seconds
        if before is not None and not is_timeout and seen.seconds > HELPED_BELOW * before.seconds:
            self._is_slow_by_itself, self.most = True, inf
            return
        share = max(DEEPEST_STEP, self._slow_seconds / seen.seconds)
        if self.most == inf:
            log.warning(
                "answers take over half of limits.request_timeout_seconds: about %d requests are in flight from now "
                "on; set limits.concurrency to what the server works on at once",
                max(1, int(seen.in_flight * share)),
            )
        elif before is None and seen.in_flight > 1:  # until the first step the requests in flight became ever more
            self._before_step, share = seen, DEEPEST_STEP
        self.most = max(1, int(seen.in_flight * share))
