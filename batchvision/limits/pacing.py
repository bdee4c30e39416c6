"""When the next request may be sent: rate, tokens a minute and pauses.

:class:`LearnedRate` is pure: each method is given the time. :class:`LocalPacing` is the pacing of one process.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import anyio

from batchvision.eventloop import loop_time
from batchvision.limits.controller import RateController
from batchvision.limits.protocols import PauseSignal, RateRefusal, RequestQueue
from batchvision.limits.tokens import TokenBucket
from batchvision.providers import RateSigns

FIRST_WINDOW = 10  #: So many requests are in flight until the first success: the key or the model may be wrong.
LEAD_SECONDS = 0.1  #: A request is admitted so long before its time, to make its intent durable on a slow disk.


class LearnedRate:
    """The limits that the job gives, and those that answers and refusals show."""

    def __init__(self, per_second: float | None, tokens_per_minute: float | None) -> None:
        self.controller = RateController(per_second, FIRST_WINDOW)
        self.token_bucket = None if tokens_per_minute is None else TokenBucket(tokens_per_minute, -inf)
        self._given_per_second, self._given_tokens = per_second, tokens_per_minute
        self._least_window_seconds = 60.0  #: of a limit without its window
        self._limit_without_window: float | None = None

    def hold_to(self, per_second: float | None, tokens_per_minute: float | None, now: float) -> None:
        """Take other limits of the jobs. Where they allow more than before, learning begins anew."""
        given, self._given_per_second = self._given_per_second, per_second
        if per_second is not None and (given is None or per_second < given):
            self.controller.set_ceiling(per_second, now)
        elif per_second != given:
            self.controller = RateController(per_second, FIRST_WINDOW)
        given, self._given_tokens = self._given_tokens, tokens_per_minute
        if tokens_per_minute is None:
            self.token_bucket = None if given is not None else self.token_bucket
        elif self.token_bucket is None:
            self.token_bucket = TokenBucket(tokens_per_minute, now)
        elif tokens_per_minute != given:
            self.token_bucket.hold_to(tokens_per_minute, now)

    def learn(self, signs: RateSigns, now: float) -> None:
        """A limit of requests with its window is exact. Otherwise it is a floor, for a minute or for the largest reset
        seen: the window is at least that long."""
        if self._given_per_second is None:
            self._least_window_seconds = max(self._least_window_seconds, signs.reset_requests_seconds or 0.0)
            if signs.limit_requests_per_minute and signs.is_requests_window_stated:
                self.controller.set_ceiling(signs.limit_requests_per_minute / 60, now)
            else:
                self._limit_without_window = signs.limit_requests_per_minute or self._limit_without_window
                if self._limit_without_window is not None:
                    self.controller.set_floor(self._limit_without_window / self._least_window_seconds, now)
        if self.token_bucket is None and signs.limit_tokens_per_minute:
            is_floor = not signs.is_tokens_window_stated
            share = 60 / max(60.0, signs.reset_tokens_seconds or 0.0) if is_floor else 1.0
            self.token_bucket = TokenBucket(signs.limit_tokens_per_minute * share, now, is_floor=is_floor)

    def accepted(self, now: float) -> None:
        """Count an answer that was no refusal."""
        self.controller.accepted(now)
        if self.token_bucket is not None:
            self.token_bucket.accepted(now)

    def refused(self, refusal: RateRefusal, now: float) -> float:
        """Count a refusal. Returns for how long all requests must pause."""
        is_rate = False
        if refusal.is_429:
            per_minute = refusal.limit_tokens_per_minute
            if per_minute is not None and self.token_bucket is None:
                self.token_bucket = TokenBucket(per_minute, now)
            elif self.token_bucket is not None:
                self.token_bucket.refused(now, per_minute)
            if refusal.limit_per_second is not None:
                self.controller.set_ceiling(refusal.limit_per_second, now)
            is_rate = refusal.sent_at is not None and per_minute is None
        return self.controller.turned_away(now, refusal.sent_at, refusal.retry_after_seconds, is_rate=is_rate)


class LocalPause:
    """The pause of one process."""

    def __init__(self) -> None:
        self.until = -inf

    def extend(self, until: float) -> None:
        self.until = max(self.until, until)


@dataclass(slots=True)
class SlotClock:
    """From when the next request may be sent."""

    next_at: float = -inf


class LocalPacing:
    """The pacing of one process (generic cell rate algorithm)."""

    def __init__(
        self, per_second: float | None = None, tokens_per_minute: float | None = None, pause: PauseSignal | None = None
    ) -> None:
        self.learned = LearnedRate(per_second, tokens_per_minute)
        self.controller = self.learned.controller
        self._pause = pause or LocalPause()
        self._slots, self._poll_slots = SlotClock(), SlotClock()

    def __repr__(self) -> str:
        return f"<LocalPacing {self.controller!r}>"

    def serve(self, queue: RequestQueue) -> None: ...
    @property
    def per_second(self) -> float | None:
        return self.controller.per_second

    @property
    def paused_until(self) -> float:
        return self._pause.until

    @property
    def window(self) -> float:
        return inf if self.controller.per_second is not None else self.controller.window

    # ---------------------------------------------------------------- admission

    def seconds_to_wait(self, tokens: float, unsent: int, now: float) -> float:
        wait, rate, bucket = 0.0, self.controller.per_second, self.learned.token_bucket
        if bucket is not None:
            wait = bucket.seconds_to_wait(tokens, now)
        earliest = max(self._slots.next_at, self._pause.until)
        if rate is None:
            return max(wait, earliest - LEAD_SECONDS - now)
        until_near = max(earliest - now, -self.controller.credit_seconds(now)) + unsent / rate - LEAD_SECONDS
        if until_near > 0:
            self.controller.is_saturated = True
        return max(wait, until_near)

    def take_tokens(self, tokens: float, now: float) -> float:
        if self.learned.token_bucket is None:
            return 0.0
        self.learned.token_bucket.take(tokens, now)
        return tokens

    def give_back(self, tokens: float, now: float) -> None:
        if self.learned.token_bucket is not None:
            self.learned.token_bucket.give_back(tokens, now)

    # ---------------------------------------------------------------- sending

    async def slot(self) -> float:
        return await self._slot_time(self._slots)

    async def poll_slot(self) -> float:
        await self._slot_time(self._poll_slots, 0.5)
        return await self._slot_time(self._slots)

    async def _slot_time(self, clock: SlotClock, share: float = 1.0) -> float:
        """Reserve the next time and wait for it; after a pause that began meanwhile, again. Late requests are made up
        for within the credit."""
        while True:
            clock.next_at = max(clock.next_at, self._pause.until)  # time in a pause is no credit
            now, rate = loop_time(), self.controller.per_second
            at = max(clock.next_at, now)
            if rate is not None:
                clock.next_at = max(clock.next_at, now - self.controller.credit_seconds(now)) + 1 / (rate * share)
            if at > now:
                await anyio.sleep_until(at)
            if (now := loop_time()) >= self._pause.until:
                return now

    # ---------------------------------------------------------------- learning

    def sent(self, now: float) -> None:
        self.controller.sent(now)

    def answered_first(self, now: float) -> None:
        self._slots.next_at = max(self._slots.next_at, now)

    def accepted(self, now: float) -> None:
        self.learned.accepted(now)

    def refused(self, refusal: RateRefusal, now: float) -> float:
        return self.learned.refused(refusal, now)

    def learn(self, signs: RateSigns, now: float) -> None:
        self.learned.learn(signs, now)

    def pause(self, until: float, now: float) -> None:
        self._pause.extend(until)
        self.controller.paused(now, self._pause.until)
