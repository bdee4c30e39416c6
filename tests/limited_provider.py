"""A provider with limits of requests and tokens, and workers who always have a row for it, for virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from math import inf

import anyio

from batchvision.errors import RateLimited
from batchvision.limits import Pacing


@dataclass
class Signs:
    limit_requests_per_minute: float | None = None
    limit_tokens_per_minute: float | None = None
    is_requests_window_stated: bool = True
    is_tokens_window_stated: bool = True
    reset_requests_seconds: float | None = None
    reset_tokens_seconds: float | None = None


@dataclass
class Server:
    """A token bucket of requests, and one of tokens, as providers have them."""

    per_second: float = 100.0
    burst: float = 100.0
    latency_seconds: float = 0.2
    jitter_seconds: float = 0.002
    tokens_per_minute: float | None = None
    says_limits: bool = False
    says_limit_of_seconds: float | None = None  #: a limit without its window, which is really so long
    says_words: bool = False  #: xAI's, in its 429s
    retry_after_seconds: float | None = None
    storms: list[tuple[float, float]] = field(default_factory=list)
    half_taken: list[tuple[float, float]] = field(default_factory=list)  #: by another program with the same key
    seed: int = 0

    def __post_init__(self) -> None:
        self.accepted: list[tuple[float, float]] = []
        self.refused: list[float] = []
        self.early = 0  #: departures after a Retry-After was read and before it was over
        self.told_to_wait_until = 0.0
        self._level, self._at = self.burst, anyio.current_time()
        self._tokens = (self.tokens_per_minute or 0) / 60 * 10
        self._random = random.Random(self.seed)

    async def ask(self, tokens: float) -> RateLimited | None:
        await anyio.sleep(self._random.uniform(0.0, self.jitter_seconds))  # on its way
        now = anyio.current_time()
        error = self._admit(now, tokens)
        await anyio.sleep(0.02 if error else self.latency_seconds * self._random.uniform(0.5, 1.5))
        return error

    def _admit(self, now: float, tokens: float) -> RateLimited | None:
        left = 0.5 if any(start <= now < end for start, end in self.half_taken) else 1.0
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second * left)
        if self.tokens_per_minute:
            most = self.tokens_per_minute / 60 * 10
            self._tokens = min(most, self._tokens + (now - self._at) * self.tokens_per_minute / 60)
        self._at = now
        if any(start <= now < end for start, end in self.storms):
            self.refused.append(now)
            return RateLimited("storm", retry_after_seconds=self.retry_after_seconds)
        if self._level < 1 or (self.tokens_per_minute and self._tokens < 0):
            self.refused.append(now)
            told = self.per_second if self.says_words else None
            return RateLimited("slow down", limit_per_second=told, retry_after_seconds=self.retry_after_seconds)
        self._level -= 1
        self._tokens -= tokens
        self.accepted.append((now, tokens))
        return None

    def signs_without_window(self) -> Signs:
        """The limit as a number, and until when all of it is there again."""
        window = self.says_limit_of_seconds or 0.0
        return Signs(
            limit_requests_per_minute=self.per_second * window,
            is_requests_window_stated=False,
            reset_requests_seconds=max(0.0, self.burst - self._level) / self.per_second,
        )

    def share(self, since: float, until: float) -> float:
        count = sum(1 for at, _ in self.accepted if since <= at < until)
        return count / (self.per_second * (until - since))

    def refusals(self, since: float, until: float) -> float:
        refused = sum(1 for at in self.refused if since <= at < until)
        accepted = sum(1 for at, _ in self.accepted if since <= at < until)
        return refused / max(1, refused + accepted)

    def recovered_after(self, moment: float, span_seconds: float = 5.0) -> float:
        """How long after ``moment`` a span began in which 90 % of the rate was accepted; inf: never."""
        wanted = round(0.9 * span_seconds * self.per_second)
        good = [at for at, _ in self.accepted if at >= moment]
        pairs = zip(good, good[wanted:], strict=False)
        spans = (first - moment for first, last in pairs if last - first <= span_seconds)
        return next(spans, inf)


async def session(
    pacing: Pacing,
    server: Server,
    seconds: float,
    *,
    workers: int = 256,
    sizes: tuple[int, int] = (0, 0),
    estimate: float | None = None,
) -> list[tuple[float, float]]:
    """Workers that always have a row to send, for so long. Returns (tokens, wait for the turn) of each row.

    ``estimate``: of every row's tokens; None: exact.
    """
    start, rng = anyio.current_time(), random.Random(7)
    waits: list[tuple[float, float]] = []

    async def work() -> None:
        while anyio.current_time() < start + seconds:
            tokens = rng.randint(*sizes) if sizes[1] else 0
            error: RateLimited | None = RateLimited("first")
            while error is not None and anyio.current_time() < start + seconds:
                asked_at = anyio.current_time()
                departure = await pacing.admit(tokens if estimate is None else estimate)
                await anyio.sleep(rng.uniform(0.002, 0.012))  # its intent becomes durable
                await pacing.depart(departure)
                server.early += departure.departed_at < server.told_to_wait_until - 1e-3
                waits.append((tokens, departure.departed_at - asked_at))
                error = await server.ask(tokens)
                if error is not None and error.retry_after_seconds:
                    wait_until = anyio.current_time() + error.retry_after_seconds
                    server.told_to_wait_until = max(server.told_to_wait_until, wait_until)
                pacing.land(departure)
                if server.says_limits:
                    pacing.learn(Signs(limit_requests_per_minute=server.per_second * 60))
                if server.says_limit_of_seconds is not None:
                    pacing.learn(server.signs_without_window())
                pacing.observe(error, departure.departed_at)
                pacing.gate.probe_home(probe=departure.probe)
                pacing.give_back(departure.tokens - (0 if error else tokens))

    async with anyio.create_task_group() as tasks:
        for _ in range(workers):
            tasks.start_soon(work)
    return waits
