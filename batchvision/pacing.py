"""When a request may leave: requests a second, tokens a minute, pauses, one probe at a time in an outage.

This module alone imports aiolimiter. It takes amounts of 1 only (larger ones starve in it), so tokens have a bucket of
their own. Everything here is first come, first served. Times are the event loop's, so a virtual clock drives it too.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import anyio
from aiolimiter import AsyncLimiter

from batchvision.errors import BatchvisionError, ImageDownloadFailed, RateLimited, Transient

log = logging.getLogger(__name__)

FIRST_ALONE_SECONDS = 10.0  #: the first request travels alone until it is answered, at most this long
OUTAGE_AFTER_FAILURES = 20  #: provider-side failures in a row that mean the provider is away
LONGEST_PAUSE_SECONDS = 60.0
TOKEN_BURST_SECONDS = 5.0  #: how many seconds' worth of tokens may leave at once


def request_limiter(per_second: float) -> AsyncLimiter:
    """A limiter whose burst is one second's worth: providers derive a per-second limit from the minute's."""
    return AsyncLimiter(per_second, 1.0) if per_second >= 1 else AsyncLimiter(1, 1 / per_second)


class TokenBucket:
    """Tokens a minute, taken before and corrected after: a debt is allowed, so that no row is too large to be sent."""

    def __init__(self, per_minute: float) -> None:
        self._per_second = per_minute / 60
        self._capacity = self._per_second * TOKEN_BURST_SECONDS
        self._level = self._capacity
        self._at: float | None = None
        self._more = anyio.Event()

    def __repr__(self) -> str:
        return f"<TokenBucket {self._level:.0f} of {self._capacity:.0f}, {self._per_second:.1f}/s>"

    def _refill(self) -> None:
        now = anyio.current_time()
        if self._at is not None:
            self._level = min(self._capacity, self._level + (now - self._at) * self._per_second)
        self._at = now

    async def take(self, tokens: float) -> None:
        """Wait until ``tokens`` are there (or the bucket is full, for a row larger than it), then take them all."""
        needed = min(tokens, self._capacity)
        self._refill()
        while self._level < needed:
            self._more = anyio.Event()
            with anyio.move_on_after((needed - self._level) / self._per_second):
                await self._more.wait()
            self._refill()
        self._level -= tokens

    def give_back(self, tokens: float) -> None:
        """Return what was not used (negative: take what was used beyond the estimate)."""
        self._refill()
        self._level = min(self._capacity, self._level + tokens)
        self._more.set()


class Gate:
    """Open for all, or for one probe at a time: before the first answer of a run, and while the provider is away."""

    def __init__(self) -> None:
        self._open = False
        self._probing = False
        self._failures = 0
        self._probe_wait_seconds = 0.0
        self._next_probe_at: float | None = None
        self._opens_by_itself_at: float | None = None
        self._first = True
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<Gate {state}, {self._failures} failures in a row, probe {'out' if self._probing else 'home'}>"

    @property
    def is_open(self) -> bool:
        return self._open

    @property
    def is_away(self) -> bool:
        """An outage has been seen and not ended; before the first answer of a run nothing has been seen."""
        return not self._open and not self._first

    @property
    def failures_in_a_row(self) -> int:
        return self._failures

    async def enter(self) -> bool:
        """Wait until this request may pass; True: it passes as the probe and must report back."""
        while not self._open:
            now = anyio.current_time()
            if self._opens_by_itself_at is not None and now >= self._opens_by_itself_at:
                self._open_now()
                break
            if not self._probing and (self._next_probe_at is None or now >= self._next_probe_at):
                self._probing = True
                if self._first and self._opens_by_itself_at is None:
                    self._opens_by_itself_at = now + FIRST_ALONE_SECONDS
                return True
            await self._wait_for_change(now)
        return False

    async def _wait_for_change(self, now: float) -> None:
        changed = self._changed
        moments = [self._opens_by_itself_at] if self._probing else [self._opens_by_itself_at, self._next_probe_at]
        until = min((moment for moment in moments if moment is not None), default=float("inf"))
        with anyio.move_on_after(until - now):
            await changed.wait()

    def answered(self) -> None:
        """The provider is there."""
        self._failures = 0
        if not self._open:
            self._open_now()

    def failed(self) -> None:
        """A failure on the provider's side, or no way to it."""
        self._failures += 1
        if self._open and self._failures >= OUTAGE_AFTER_FAILURES:
            self._close()

    def probe_home(self, *, probe: bool) -> None:
        """A probe has ended without an answer: the next one may go, later than the last."""
        if not probe or self._open:
            return
        self._probing = False
        self._probe_wait_seconds = min(LONGEST_PAUSE_SECONDS, max(1.0, self._probe_wait_seconds * 2))
        self._next_probe_at = anyio.current_time() + self._probe_wait_seconds
        self._tell()

    def _open_now(self) -> None:
        if not self._first:
            log.warning("the provider answers again: going on")
        self._open, self._probing, self._first = True, False, False
        self._probe_wait_seconds, self._next_probe_at, self._opens_by_itself_at = 0.0, None, None
        self._tell()

    def _close(self) -> None:
        log.warning("%d provider-side failures in a row: pausing, with a probe now and then", self._failures)
        self._open, self._probing, self._first = False, False, False
        self._probe_wait_seconds = 1.0
        self._next_probe_at = anyio.current_time() + self._probe_wait_seconds
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@dataclass(frozen=True, slots=True)
class PacingLimits:
    """What the job says; None: not given."""

    requests_per_second: float | None = None
    tokens_per_minute: float | None = None


class RateFacts(Protocol):
    """What answers say of limits (``providers.base.RateSigns``)."""

    @property
    def limit_requests_per_minute(self) -> float | None: ...
    @property
    def limit_tokens_per_minute(self) -> float | None: ...


class Pacing:
    """All of it together: ``admit`` waits its turn, ``observe`` tells how a request fared."""

    def __init__(self, limits: PacingLimits) -> None:
        self.gate = Gate()
        self._limits = limits
        self._turn = anyio.Lock()
        self._poll_turn = anyio.Lock()
        self._per_second: float | None = None
        self._requests: AsyncLimiter | None = None
        self._polls: AsyncLimiter | None = None
        self._tokens: TokenBucket | None = None
        self._resume_at = 0.0
        self._pauses_in_a_row = 0
        if limits.requests_per_second is not None:
            self._set_rate(limits.requests_per_second)
        if limits.tokens_per_minute is not None:
            self._tokens = TokenBucket(limits.tokens_per_minute)

    def _set_rate(self, per_second: float) -> None:
        self._per_second = per_second
        self._requests = request_limiter(per_second)
        self._polls = request_limiter(per_second / 2)

    async def admit(self, tokens: float) -> bool:
        """Wait until one request of about ``tokens`` may leave. Returns whether it is a probe."""
        while True:
            probe = await self.gate.enter()
            try:
                async with self._turn:
                    if probe or self.gate.is_open:  # it may have closed on those who queued for their turn
                        await self._take_turn(tokens)
                        return probe
            except BaseException:  # cancelled on the way
                self.gate.probe_home(probe=probe)
                raise

    async def _take_turn(self, tokens: float) -> None:
        """Cancelled on the way, what was taken goes back."""
        if self._tokens is not None:
            await self._tokens.take(tokens)
        try:
            await self.pass_rate()
        except BaseException:
            self.give_back(tokens)
            raise

    async def pass_rate(self) -> None:
        if self._requests is not None:
            await self._requests.acquire()
        await self.wait_out_pause()

    async def admit_poll(self) -> None:
        """Polls take their turn among the requests, and at most half of the rate."""
        async with self._poll_turn:
            if self._polls is not None:
                await self._polls.acquire()
            async with self._turn:
                await self.pass_rate()

    async def wait_out_pause(self) -> None:
        while anyio.current_time() < self._resume_at:  # noqa: ASYNC110  a pause may grow while it is waited for
            await anyio.sleep_until(self._resume_at)

    def give_back(self, tokens: float) -> None:
        if self._tokens is not None:
            self._tokens.give_back(tokens)

    def learn(self, signs: RateFacts) -> None:
        """Take limits the provider's answers name, where the job names none."""
        if self._limits.requests_per_second is None and signs.limit_requests_per_minute:
            self._lower_or_first(signs.limit_requests_per_minute / 60)
        if self._limits.tokens_per_minute is None and self._tokens is None and signs.limit_tokens_per_minute:
            self._tokens = TokenBucket(signs.limit_tokens_per_minute)

    def _lower_or_first(self, per_second: float) -> None:
        if self._per_second is None or per_second < self._per_second:
            self._set_rate(per_second)

    def observe(self, error: BatchvisionError | None) -> None:
        """How a request ended: any answer opens the gate, a 429 pauses everybody, failures in a row close the gate."""
        match error:
            case RateLimited():
                self._rate_limited(error)
                self.gate.answered()
            case ImageDownloadFailed():
                self.gate.answered()
            case Transient():
                self.gate.failed()
                if error.retry_after_seconds:
                    self._pause(error.retry_after_seconds)
            case _:
                self._pauses_in_a_row = 0
                self.gate.answered()

    def _rate_limited(self, error: RateLimited) -> None:
        if error.limit_per_second:
            self._lower_or_first(error.limit_per_second)
        if error.limit_tokens_per_minute and self._tokens is None:
            self._tokens = TokenBucket(error.limit_tokens_per_minute)
        if error.retry_after_seconds is not None:
            self._pause(error.retry_after_seconds)
        elif anyio.current_time() >= self._resume_at:  # one pause for a volley of 429s
            self._pauses_in_a_row += 1
            self._pause(min(LONGEST_PAUSE_SECONDS, 0.5 * 2 ** min(self._pauses_in_a_row, 8)))

    def _pause(self, seconds: float) -> None:
        self._resume_at = max(self._resume_at, anyio.current_time() + seconds)
