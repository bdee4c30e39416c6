"""A provider with limits of requests and tokens, and workers that always have a row for it, for virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from math import inf

import anyio

from batchvision.errors import RateLimited, ServerError, Transient
from batchvision.limits import LocalRateLimiter
from batchvision.providers import RateSigns

#: Limits that an answer names with their windows.
stated = partial(RateSigns, is_requests_window_stated=True, is_tokens_window_stated=True)


@dataclass
class Provider:
    """A token bucket of requests, and one of tokens. ``per_second`` inf: no limit of requests."""

    per_second: float = 100.0
    burst: float = 100.0
    latency_seconds: float = 0.2
    jitter_seconds: float = 0.002
    tokens_per_minute: float | None = None
    names_limit: bool = False
    window_seconds: float | None = None  #: of a limit that is named without it
    names_limit_in_429s: bool = False  #: in xAI's words
    retry_after_seconds: float | None = None
    storms: list[tuple[float, float]] = field(default_factory=list)
    half_taken: list[tuple[float, float]] = field(default_factory=list)  #: by another program with the same key
    stray_share: float = 0.0  #: of refusals for no reason
    stray_status: int = 429
    seed: int = 0

    def __post_init__(self) -> None:
        self.accepted: list[tuple[float, float]] = []
        self.refused: list[float] = []
        self._level, self._at = self.burst, anyio.current_time()
        self._tokens = (self.tokens_per_minute or 0) / 60 * 10
        self._random = random.Random(self.seed)

    async def ask(self, tokens: float) -> Transient | None:
        await anyio.sleep(self._random.uniform(0.0, self.jitter_seconds))  # the way there
        now = anyio.current_time()
        error = self._admit(now, tokens)
        if error is None:
            self.accepted.append((now, tokens))
        else:
            self.refused.append(now)
        await anyio.sleep(0.02 if error else self.latency_seconds * self._random.uniform(0.5, 1.5))
        return error

    def _admit(self, now: float, tokens: float) -> Transient | None:
        wait = self.retry_after_seconds
        if any(start <= now < end for start, end in self.storms):
            return RateLimited("storm", retry_after_seconds=wait)
        if self._random.random() < self.stray_share:
            error = RateLimited if self.stray_status == 429 else ServerError
            return error("stray", retry_after_seconds=wait)
        if self.per_second < inf:
            left = 0.5 if any(start <= now < end for start, end in self.half_taken) else 1.0
            self._level = min(self.burst, self._level + (now - self._at) * self.per_second * left)
        if self.tokens_per_minute:
            most = self.tokens_per_minute / 60 * 10
            self._tokens = min(most, self._tokens + (now - self._at) * self.tokens_per_minute / 60)
        self._at = now
        if self._level < 1 or (self.tokens_per_minute and self._tokens < 0):
            named = self.per_second if self.names_limit_in_429s else None
            return RateLimited("slow down", limit_per_second=named, retry_after_seconds=wait)
        self._level -= self.per_second < inf
        self._tokens -= tokens
        return None

    def facts(self) -> RateSigns | None:
        """The limit as its answers name it."""
        if self.names_limit:
            return stated(limit_requests_per_minute=self.per_second * 60)
        if self.window_seconds is None:
            return None
        return stated(
            limit_requests_per_minute=self.per_second * self.window_seconds,
            is_requests_window_stated=False,
            reset_requests_seconds=max(0.0, self.burst - self._level) / self.per_second,
        )

    def accepted_between(self, since: float, until: float) -> int:
        return sum(1 for at, _ in self.accepted if since <= at < until)

    def share(self, since: float, until: float) -> float:
        return self.accepted_between(since, until) / (self.per_second * (until - since))

    def refusals(self, since: float, until: float) -> float:
        refused = sum(1 for at in self.refused if since <= at < until)
        return refused / max(1, refused + self.accepted_between(since, until))

    def recovered_after(self, moment: float, span_seconds: float = 5.0) -> float:
        """How long after ``moment`` a span began in which 90 % of the rate was accepted; inf: never."""
        wanted = round(0.9 * span_seconds * self.per_second)
        good = [at for at, _ in self.accepted if at >= moment]
        pairs = zip(good, good[wanted:], strict=False)
        spans = (first - moment for first, last in pairs if last - first <= span_seconds)
        return next(spans, inf)


async def send_rows(
    limiter: LocalRateLimiter,
    provider: Provider,
    seconds: float,
    *,
    workers: int = 256,
    sizes: tuple[int, int] = (0, 0),
    estimate: float | None = None,
) -> list[tuple[float, float]]:
    """Workers that always have a row to send, for so long. Returns (tokens, wait) of each request.

    ``estimate``: tokens of every row, or ``None`` for the exact ones. A refused row is sent
    again after its Retry-After, as in a lane.
    """
    start, rng = anyio.current_time(), random.Random(7)
    waits: list[tuple[float, float]] = []

    async def work() -> None:
        while anyio.current_time() < start + seconds:
            tokens = rng.randint(*sizes) if sizes[1] else 0
            while True:
                asked_at = anyio.current_time()
                slot = await limiter.acquire(tokens if estimate is None else estimate)
                await anyio.sleep(rng.uniform(0.002, 0.012))  # its intent becomes durable
                await slot.wait()
                waits.append((tokens, anyio.current_time() - asked_at))
                error = await provider.ask(tokens)
                slot.release()
                if (facts := provider.facts()) is not None:
                    limiter.learn(facts)
                limiter.observe(error, slot.sent_at)
                limiter.return_tokens(slot.tokens, 0 if error else tokens)
                if error is None or anyio.current_time() >= start + seconds:
                    break
                await anyio.sleep(error.retry_after_seconds or rng.uniform(0, 1))

    async with anyio.create_task_group() as tasks:
        for _ in range(workers):
            tasks.start_soon(work)
    return waits
