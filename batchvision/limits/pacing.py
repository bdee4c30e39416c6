"""When a request may leave: its turn, its moment, pauses, tokens a minute, and one probe at a time in an outage.

Everything is first come, first served. Times are the event loop's, so a virtual clock drives it too.
gate (open, or one probe) · line (whose turn it is) · tokens (a bucket with give-back) · pace (the rate) · room (bytes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Protocol

from batchvision.errors import (
    BatchvisionError,
    ImageDownloadFailed,
    ProviderRefuses,
    RateLimited,
    StopRun,
    Transient,
    shows_access,
)
from batchvision.eventloop import loop_time
from batchvision.limits.gate import FIRST_ALONE_SECONDS, OUTAGE_AFTER_FAILURES, Gate
from batchvision.limits.latency import Landing
from batchvision.limits.line import Line
from batchvision.limits.pace import Pace, limiter_of, nap_until
from batchvision.limits.room import Room
from batchvision.limits.tokens import TokenBucket
from batchvision.limits.trouble import MOST_OUTAGE_SECONDS, TOLD_FROM_SECONDS, Trouble, Wait
from batchvision.limits.turn import Turn

__all__ = [
    "FIRST_ALONE_SECONDS",
    "OUTAGE_AFTER_FAILURES",
    "Departure",
    "Gate",
    "Pace",
    "Pacing",
    "PacingLimits",
    "RateFacts",
    "Room",
    "TokenBucket",
    "Wait",
]

LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class PacingLimits:
    """What the job says; None: not given."""

    requests_per_second: float | None = None
    tokens_per_minute: float | None = None
    in_flight: int | None = None
    max_outage_seconds: float = MOST_OUTAGE_SECONDS
    timeout_seconds: float | None = None  #: of one request
    was_answered: bool = False  #: the provider has answered in the run before this one


class RateFacts(Protocol):
    """What answers say of limits (``providers.base.RateSigns``)."""

    @property
    def limit_requests_per_minute(self) -> float | None: ...
    @property
    def limit_tokens_per_minute(self) -> float | None: ...
    @property
    def is_requests_window_stated(self) -> bool: ...
    @property
    def is_tokens_window_stated(self) -> bool: ...
    @property
    def reset_requests_seconds(self) -> float | None: ...
    @property
    def reset_tokens_seconds(self) -> float | None: ...


@dataclass(slots=True)
class Departure:
    """One request's place in the order of departures."""

    probe: bool
    tokens: float
    departed_at: float = float("-inf")
    in_flight: int = 0  #: when it departed, itself included
    has_landed: bool = False


class Pacing:
    """All of it together: ``admit`` waits its turn, ``depart`` its moment, ``observe`` tells how a request fared."""

    def __init__(self, limits: PacingLimits, nap_until: Callable[[float], bool] = nap_until) -> None:
        self.gate = Gate()
        in_flight = inf if limits.in_flight is None else limits.in_flight
        self.pace = Pace(limits.requests_per_second, in_flight, nap_until, limits.timeout_seconds)
        self._limits = limits
        self._line = Line[float, Departure](self._admit_now, self._take_back)
        self._poll_turn = Turn()
        self._door = Turn()
        self._limited_to: float | None = None
        self._polls = limiter_of(1.0)
        self._tokens = None if limits.tokens_per_minute is None else TokenBucket(limits.tokens_per_minute)
        self._resume_at = 0.0
        self._pauses_in_a_row = 0
        self._trouble = Trouble(limits.max_outage_seconds, was_answered=limits.was_answered)
        self._told: Wait | None = None
        self._least_window = 60.0  #: seconds, of a limit without a stated window
        self._limit_without_window: float | None = None
        #: called with each wait that is worth telling, and with None when the provider answers again
        self.tell: Callable[[Wait | None], None] = lambda wait: None

    # ---------------------------------------------------------------- leaving

    def admit_nowait(self, tokens: float) -> Departure | None:
        """The same, where nothing has to be waited for and nobody waits already."""
        return self._line.served_now(tokens)

    def _admit_now(self, tokens: float) -> Departure | None:
        if not self.gate.is_open or self._door.is_wanted:
            return None
        if self._tokens is not None and not self._tokens.has(tokens):
            return None
        if not self.pace.admit_nowait():
            return None
        if self._tokens is not None:
            self._tokens.take_nowait(tokens)
        taken = 0.0 if self._tokens is None else tokens
        return Departure(False, taken)

    async def admit(self, tokens: float) -> Departure:
        """Wait until a request of about ``tokens`` is next; its moment is near when this returns."""
        while True:
            probe = await self.gate.enter()
            try:
                departure = await self._line.wait(tokens)
                if departure is not None:
                    return departure
                with self._line.first():
                    if probe or self.gate.is_open:  # it may have closed on those who stood in line
                        return await self._take_turn(tokens, probe=probe)
            except BaseException:  # cancelled on the way
                self.gate.probe_home(probe=probe)
                raise

    async def _take_turn(self, tokens: float, *, probe: bool) -> Departure:
        """Cancelled on the way, what was taken goes back."""
        taken = 0.0
        if self._tokens is not None:
            await self._tokens.take(tokens)
            taken = tokens
        try:
            return await self._moment(taken, probe=probe)
        except BaseException:
            self.give_back(taken)
            raise

    def _take_back(self, departure: Departure) -> None:
        self.land(departure)
        self.give_back(departure.tokens)

    async def _moment(self, tokens: float, *, probe: bool = False) -> Departure:
        """One request and one poll at most wait here; the door lets them through by turns."""
        async with self._door:
            await self.pace.admit()
            return Departure(probe, tokens)

    async def depart(self, departure: Departure) -> None:
        """The last wait before the wire. A pause or a cut since it was admitted holds for this request too."""
        departure.departed_at = await self.pace.depart()
        departure.in_flight = self.pace.in_flight

    def departs_now(self, departure: Departure) -> bool:
        """The last look, where no wait is due."""
        departed_at = self.pace.depart_nowait()
        if departed_at is not None:
            departure.departed_at = departed_at
            departure.in_flight = self.pace.in_flight
        return departed_at is not None

    def land(self, departure: Departure) -> None:
        """Back from the wire, or never on it."""
        if not departure.has_landed:
            departure.has_landed = True
            has_departed = departure.departed_at > float("-inf")
            if has_departed:
                self.pace.bound.landed(Landing(loop_time() - departure.departed_at, departure.in_flight))
            self.pace.landed(has_departed=has_departed)

    async def admit_poll(self) -> None:
        """Polls have every other turn while requests wait for theirs, and at most half of the rate."""
        async with self._poll_turn:
            if (most := self.polls_per_second) is not None:
                if self._limited_to != most:
                    self._limited_to, self._polls = most, limiter_of(most)
                await self._polls.acquire()
            departure = await self._moment(0.0)
        try:
            await self.depart(departure)
        finally:
            self.land(departure)

    @property
    def polls_per_second(self) -> float | None:
        """How many polls may leave; None: no rate is known."""
        return None if self.pace.per_second is None else self.pace.per_second / 2

    def give_back(self, tokens: float) -> None:
        if self._tokens is not None:
            self._tokens.give_back(tokens)

    # ---------------------------------------------------------------- learning

    def learn(self, signs: RateFacts) -> None:
        """Take limits the provider's answers name, where the job names none."""
        if self._limits.requests_per_second is None:
            self._learn_requests(signs)
        if self._tokens is None and signs.limit_tokens_per_minute:
            share = 60 / max(60.0, signs.reset_tokens_seconds or 0.0)
            is_floor = not signs.is_tokens_window_stated
            self._tokens = TokenBucket(signs.limit_tokens_per_minute * (share if is_floor else 1.0), is_floor=is_floor)

    def _learn_requests(self, signs: RateFacts) -> None:
        """A limit whose window is stated is exact. Otherwise it is a floor, for a minute or for the largest reset seen:
        the window is at least that long."""
        self._least_window = max(self._least_window, signs.reset_requests_seconds or 0.0)
        if signs.limit_requests_per_minute and signs.is_requests_window_stated:
            self.pace.tell(signs.limit_requests_per_minute / 60)
            return
        self._limit_without_window = signs.limit_requests_per_minute or self._limit_without_window
        if self._limit_without_window is not None:
            self.pace.tell_floor(self._limit_without_window / self._least_window)

    def observe(self, error: BatchvisionError | None, departed_at: float | None = None) -> StopRun | None:
        """How a request (``departed_at`` None: a poll) ended: any answer opens the gate, a 429 pauses everybody and
        slows the pace, failures in a row close the gate. Returns why the run is to stop, if waiting is no use."""
        match error:
            case Transient() if not isinstance(error, ImageDownloadFailed):
                return self._failed(error, departed_at)
            case ProviderRefuses() if not self.pace.has_succeeded:
                self.gate.undecided()
            case _:
                self._pauses_in_a_row = 0
                self.gate.answered()
                if shows_access(error):
                    self.pace.succeeded()
                if departed_at is not None:
                    self.pace.accepted()
                    if self._tokens is not None:
                        self._tokens.accepted()
        self._trouble.answered(is_success=shows_access(error))
        if self._told is not None:
            self._told = None
            self.tell(None)
        return None

    def _failed(self, error: Transient, departed_at: float | None) -> StopRun | None:
        if isinstance(error, RateLimited):
            self.gate.answered()
            if self._tokens is not None:
                self._tokens.refused()
            self._rate_limited(error, departed_at)
        else:
            self.gate.failed()
            if error.retry_after_seconds:
                self._pause(error.retry_after_seconds)
        reason = self._trouble.met(error, loop_time())
        if reason is None:
            self._tell_of(error)
        return reason

    def _tell_of(self, error: Transient) -> None:
        """Each outage and each longer pause once."""
        now = loop_time()
        if not self.gate.is_open:
            wait = Wait(str(error), self._trouble.ends_at(now), is_outage=True)
            is_news = self._told is None or not self._told.is_outage
        else:
            wait = Wait(str(error), self._resume_at)
            is_news = wait.until - now >= TOLD_FROM_SECONDS and (self._told is None or wait.until > self._told.until)
        if is_news:
            self._told = wait
            self.tell(wait)

    def _rate_limited(self, error: RateLimited, departed_at: float | None) -> None:
        is_of_tokens = error.limit_tokens_per_minute is not None
        if error.limit_tokens_per_minute is not None and self._tokens is None:
            self._tokens = TokenBucket(error.limit_tokens_per_minute)
        is_news = error.limit_per_second is not None and self.pace.tell(error.limit_per_second)
        has_wish = error.retry_after_seconds is not None
        is_pause_due = (
            is_news or departed_at is None or is_of_tokens or self.pace.refused(departed_at, has_wish=has_wish)
        )
        if error.retry_after_seconds is not None:
            self._pause(error.retry_after_seconds)
        elif is_pause_due and loop_time() >= self._resume_at:  # one pause for a volley of 429s
            self._pauses_in_a_row += 1
            self._pause(min(LONGEST_PAUSE_SECONDS, 0.5 * 2 ** min(self._pauses_in_a_row, 8)))

    def _pause(self, seconds: float) -> None:
        resume_at = loop_time() + seconds
        if resume_at > self._resume_at:
            self._resume_at = resume_at
            self.pace.hold_until(resume_at)
