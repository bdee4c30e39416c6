"""The rate limiter of one process: order, requests in flight, latency and outages.

Requests wait in one queue, first come, first served. ``acquire`` ends a little before a request's time, so that its
intent can become durable. The slot's ``wait`` ends at that time. The pacing gives the times. The time is the event
loop's, so a virtual clock drives it in tests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from itertools import islice
from math import inf

from batchvision.errors import (
    BatchvisionError,
    ImageDownloadFailed,
    ProviderRefuses,
    RateLimited,
    StopRun,
    Transient,
)
from batchvision.eventloop import loop_time
from batchvision.limits.controller import LatencyBound, Timing
from batchvision.limits.outage import LocalCircuitBreaker, OutageRule, WaitPeriod
from batchvision.limits.pacing import FIRST_WINDOW, LocalPacing
from batchvision.limits.protocols import CircuitBreaker, Pacing, RateRefusal, RateSettings, ReportWait
from batchvision.providers import RateSigns
from batchvision.records import RateSample

MOST_SAMPLES = 200  #: With one more, neighbours are merged and samples become twice as long.
REPORTED_SECONDS = 10.0  #: Shorter pauses are not reported: they are over before they are read.


@dataclass(eq=False, repr=False, slots=True)
class LocalSendSlot:
    """A place in flight of :class:`LocalRateLimiter`. It belongs to the limiter and changes its counts."""

    limiter: LocalRateLimiter
    tokens: float
    is_probe: bool
    sent_at: float | None = None
    in_flight: int = 0  #: when it was sent, itself included
    is_released: bool = False

    async def wait(self) -> None:
        self.limiter.count_sent(await self.limiter.pacing.slot(), self)

    def release(self) -> None:
        if self.is_released:
            return
        self.is_released = True
        limiter, now = self.limiter, loop_time()
        limiter.in_flight -= 1
        if self.sent_at is None:
            limiter.unsent -= 1
        elif not self.is_probe:  # timeouts of probes come from the outage
            limiter.latency.observe(Timing(now - self.sent_at, self.in_flight))
        if self.is_probe:
            limiter.breaker.probe_ended(now)
        limiter.admit_waiting()


class RateHistory:
    """At most :data:`MOST_SAMPLES` samples, a minute each at first."""

    def __init__(self, length_seconds: float = 60.0) -> None:
        self._length_seconds = length_seconds
        self._began_at: float | None = None
        self._samples: list[RateSample] = []

    def samples(self) -> tuple[RateSample, ...]:
        """All samples in order. A minute without a request has no sample."""
        return tuple(
            each._replace(
                paused_seconds=round(each.paused_seconds, 3),
                rate_per_second=None if each.rate_per_second is None else round(each.rate_per_second, 3),
            )
            for each in self._samples
        )

    def add(
        self, now: float, per_second: float | None, *, sent: int = 0, rate_limited: int = 0, paused_seconds: float = 0.0
    ) -> None:
        """Count what happened at ``now``."""
        if self._began_at is None:
            self._began_at = now
        since = now - self._began_at
        if not self._samples or since >= self._samples[-1].begins_seconds + self._length_seconds:
            if len(self._samples) == MOST_SAMPLES:
                self._merge()
            begins = since // self._length_seconds * self._length_seconds
            if not self._samples or begins > self._samples[-1].begins_seconds:
                self._samples.append(RateSample(begins, self._length_seconds))
        last = self._samples[-1]
        self._samples[-1] = last._replace(
            sent=last.sent + sent,
            rate_limited=last.rate_limited + rate_limited,
            paused_seconds=last.paused_seconds + paused_seconds,
            rate_per_second=per_second,
        )

    def _merge(self) -> None:
        self._length_seconds *= 2
        merged: dict[float, RateSample] = {}
        for each in self._samples:
            begins = each.begins_seconds // self._length_seconds * self._length_seconds
            before = merged.get(begins, RateSample(begins, self._length_seconds))
            merged[begins] = before._replace(
                sent=before.sent + each.sent,
                rate_limited=before.rate_limited + each.rate_limited,
                paused_seconds=before.paused_seconds + each.paused_seconds,
                rate_per_second=each.rate_per_second,
            )
        self._samples = list(merged.values())


class LocalRateLimiter:
    """The rate limiter of one process."""

    def __init__(
        self,
        settings: RateSettings,
        report: ReportWait | None = None,
        breaker: CircuitBreaker | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        self.pacing = pacing or LocalPacing(settings.requests_per_second, settings.tokens_per_minute)
        self.breaker = breaker or LocalCircuitBreaker()
        self.latency = LatencyBound(settings.timeout_seconds)
        self.history = RateHistory()
        self._report: ReportWait = report or (lambda wait: None)
        self._most_in_flight = inf if settings.in_flight is None else settings.in_flight
        self._outage = OutageRule(settings.max_outage_seconds, was_answered=settings.was_answered)
        self._queue: deque[tuple[float, asyncio.Future[LocalSendSlot]]] = deque()  #: tokens, and the slot to come
        self._timer: asyncio.TimerHandle | None = None
        self.in_flight = 0
        self.unsent = 0  #: admitted and not yet sent
        self._has_succeeded = False
        self._has_answered = False
        self._reported: WaitPeriod | None = None
        self.pacing.serve(self)

    def __repr__(self) -> str:
        return f"<LocalRateLimiter {self.pacing!r}, {self.in_flight} in flight, {len(self._queue)} wait>"

    def rate_samples(self) -> tuple[RateSample, ...]:
        return self.history.samples()

    @property
    def failures_in_a_row(self) -> int:
        return self.breaker.failures_in_a_row

    @property
    def is_provider_down(self) -> bool:
        return self.breaker.is_open

    # ---------------------------------------------------------------- admission

    async def acquire(self, tokens: float) -> LocalSendSlot:
        future: asyncio.Future[LocalSendSlot] = asyncio.get_running_loop().create_future()
        self._queue.append((tokens, future))
        self.admit_waiting()
        try:
            return await future
        except BaseException:
            if future.done() and not future.cancelled():  # admitted, and cancelled before it could go on
                self.return_tokens(future.result().tokens, 0)
                future.result().release()
            self.admit_waiting()
            raise

    def admit_waiting(self) -> None:
        """Admit requests from the head of the queue; set a timer for the first that must wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            tokens, future = self._queue[0]
            if not future.done():
                now = loop_time()
                slot = self._admit(tokens, now)
                if slot is None:
                    wait = self._seconds_to_wait(tokens, now)
                    if wait < inf:
                        self._timer = asyncio.get_running_loop().call_at(now + wait, self.admit_waiting)
                    return
                future.set_result(slot)
            self._queue.popleft()

    def _admit(self, tokens: float, now: float) -> LocalSendSlot | None:
        if self._seconds_to_wait(tokens, now) > 0:
            return None
        is_probe = self.breaker.admit(now)
        tokens = self.pacing.take_tokens(tokens, now)
        self.in_flight += 1
        self.unsent += 1
        return LocalSendSlot(self, tokens, is_probe)

    def _seconds_to_wait(self, tokens: float, now: float) -> float:
        """How long a request must wait; infinite: only another event can admit it."""
        if self.in_flight >= self._most():
            return inf
        return max(self.breaker.seconds_to_wait(now), self.pacing.seconds_to_wait(tokens, self.unsent, now))

    def _most(self) -> float:
        """The most requests in flight."""
        most_at_first = inf if self._has_succeeded else FIRST_WINDOW
        return min(self.latency.most, self._most_in_flight, self.pacing.window, most_at_first)

    @property
    def length(self) -> int:
        return len(self._queue)

    def waiting(self, most: int) -> list[float]:
        if self.breaker.seconds_to_wait(loop_time()) > 0:
            return []
        places = int(max(0, min(most, self._most() - self.in_flight)))
        return [tokens for tokens, future in islice(self._queue, places) if not future.done()]

    def paused(self, until: float, now: float, reason: str | None) -> None:
        self.history.add(now, self.pacing.per_second, paused_seconds=until - now)
        if reason is not None and until - now >= REPORTED_SECONDS:
            self._reported = WaitPeriod(reason, until)
            self._report(self._reported)

    # ---------------------------------------------------------------- sending

    def count_sent(self, now: float, slot: LocalSendSlot | None = None) -> None:
        """Count a request, or a poll: it has no slot."""
        if slot is not None:
            self.unsent -= 1
            slot.sent_at, slot.in_flight = now, self.in_flight
        self.pacing.sent(now)
        self.history.add(now, self.pacing.per_second, sent=1)

    def return_tokens(self, estimated: float, used: int) -> None:
        if estimated:
            self.pacing.give_back(estimated - used, loop_time())
            self.admit_waiting()

    async def acquire_poll(self) -> None:
        self.count_sent(await self.pacing.poll_slot())

    @property
    def polls_per_second(self) -> float | None:
        rate = self.pacing.per_second
        return None if rate is None else rate / 2

    # ---------------------------------------------------------------- learning

    def learn(self, signs: RateSigns) -> None:
        self.pacing.learn(signs, loop_time())
        self.admit_waiting()

    def observe(self, error: BatchvisionError | None, sent_at: float | None = None) -> StopRun | None:
        now, reason = loop_time(), None
        if isinstance(error, Transient) and not isinstance(error, ImageDownloadFailed):
            reason = self._failed(error, sent_at, now)
        else:
            is_success = error is None or error.shows_access
            if isinstance(error, ProviderRefuses) and not self._has_succeeded:
                self.breaker.undecided(now)
            else:
                self._has_succeeded = self._has_succeeded or is_success
                self._close_breaker(now)
                self.pacing.accepted(now)
            self._outage.answered(is_success=is_success)
            if self._reported is not None:
                self._reported = None
                self._report(None)
        self.admit_waiting()
        return reason

    def _close_breaker(self, now: float) -> None:
        self.breaker.answered()
        if not self._has_answered:  # the first request was in flight alone: that time is no credit
            self._has_answered = True
            self.pacing.answered_first(now)

    def _failed(self, error: Transient, sent_at: float | None, now: float) -> StopRun | None:
        paused_until = self.pacing.paused_until
        if isinstance(error, RateLimited):
            self._close_breaker(now)
            self._turned_away(error, sent_at, now)
            self.history.add(now, self.pacing.per_second, rate_limited=1)
        else:
            self.breaker.failed(now)
            if error.retry_after_seconds:
                self._turned_away(error, sent_at, now)
        reason = self._outage.failed(error, now)
        if reason is None and (self.breaker.is_open or self.pacing.paused_until > paused_until):
            self._report_wait(error, now)
        return reason

    def _turned_away(self, error: Transient, sent_at: float | None, now: float) -> None:
        seconds = self.pacing.refused(RateRefusal.of(error, sent_at), now)
        if not self.in_flight and not self._queue:  # each row that was sent waits for its own retry
            seconds = max(seconds, error.retry_after_seconds or 0.0)
        self._pause(seconds, now)

    def _pause(self, seconds: float, now: float) -> None:
        paused_until = self.pacing.paused_until
        if now + seconds > max(now, paused_until):
            added_seconds = now + seconds - max(now, paused_until)
            self.history.add(now, self.pacing.per_second, paused_seconds=added_seconds)
            self.pacing.pause(now + seconds, now)

    def _report_wait(self, error: Transient, now: float) -> None:
        """Report each outage and each longer pause once."""
        if self.breaker.is_open:
            wait = WaitPeriod(str(error), self._outage.ends_at(now), is_outage=True)
            is_news = self._reported is None or not self._reported.is_outage
        else:
            wait = WaitPeriod(str(error), self.pacing.paused_until)
            known = now if self._reported is None else max(now, self._reported.until)
            is_news = wait.until - known >= REPORTED_SECONDS
        if is_news:
            self._reported = wait
            self._report(wait)
