"""How close the pacing keeps to a provider's limit, in virtual time: shares of the allowed rate, and of 429s."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.errors import RateLimited
from batchvision.pacing import Pacing, PacingLimits

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


@dataclass
class Signs:
    limit_requests_per_minute: float | None = None
    limit_tokens_per_minute: float | None = None


@dataclass
class Server:
    """A token bucket of requests, and one of tokens, as providers have them."""

    per_second: float = 100.0
    burst: float = 100.0
    latency_seconds: float = 0.2
    jitter_seconds: float = 0.002
    tokens_per_minute: float | None = None
    says_limits: bool = False
    retry_after_seconds: float | None = None
    storms: list[tuple[float, float]] = field(default_factory=list)
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
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second)
        if self.tokens_per_minute:
            most = self.tokens_per_minute / 60 * 10
            self._tokens = min(most, self._tokens + (now - self._at) * self.tokens_per_minute / 60)
        self._at = now
        if any(start <= now < end for start, end in self.storms):
            self.refused.append(now)
            return RateLimited("storm", retry_after_seconds=self.retry_after_seconds)
        if self._level < 1 or (self.tokens_per_minute and self._tokens < 0):
            self.refused.append(now)
            return RateLimited("slow down", retry_after_seconds=None)
        self._level -= 1
        self._tokens -= tokens
        self.accepted.append((now, tokens))
        return None

    def share(self, since: float, until: float) -> float:
        count = sum(1 for at, _ in self.accepted if since <= at < until)
        return count / (self.per_second * (until - since))

    def refusals(self, since: float, until: float) -> float:
        refused = sum(1 for at in self.refused if since <= at < until)
        accepted = sum(1 for at, _ in self.accepted if since <= at < until)
        return refused / max(1, refused + accepted)


async def night(
    pacing: Pacing, server: Server, seconds: float, *, workers: int = 256, sizes: tuple[int, int] = (0, 0)
) -> list[tuple[float, float]]:
    """Workers that always have a row to send, for so long. Returns (tokens, wait for the turn) of each row."""
    start, rng = anyio.current_time(), random.Random(7)
    waits: list[tuple[float, float]] = []

    async def work() -> None:
        while anyio.current_time() < start + seconds:
            tokens = rng.randint(*sizes) if sizes[1] else 0
            error: RateLimited | None = RateLimited("first")
            while error is not None and anyio.current_time() < start + seconds:
                asked_at = anyio.current_time()
                departure = await pacing.admit(tokens)
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
                pacing.observe(error, departure.departed_at)
                pacing.gate.probe_home(probe=departure.probe)
                if error is not None:
                    pacing.give_back(departure.tokens)

    async with anyio.create_task_group() as tasks:
        for _ in range(workers):
            tasks.start_soon(work)
    return waits


async def test_a_given_limit_is_used_and_hardly_ever_exceeded():
    start = anyio.current_time()
    server = Server()
    await night(Pacing(PacingLimits(requests_per_second=100)), server, 60)
    assert server.share(start + 2, start + 60) >= 0.97
    assert server.refusals(start, start + 60) <= 0.005


async def test_a_given_limit_whose_server_takes_no_burst_is_still_used_to_nine_tenths():
    start = anyio.current_time()
    server = Server(burst=1.0, jitter_seconds=0.0005)
    await night(Pacing(PacingLimits(requests_per_second=100)), server, 120)
    assert server.share(start + 2, start + 120) >= 0.90


@pytest.mark.parametrize("per_second", [5.0, 100.0, 400.0])
async def test_a_limit_told_in_headers_is_used_from_the_first_answer_on(per_second):
    start = anyio.current_time()
    server = Server(per_second=per_second, burst=per_second, says_limits=True)
    await night(Pacing(PacingLimits()), server, 60)
    assert server.share(start + 5, start + 60) >= 0.95
    assert server.refusals(start, start + 60) <= 0.02


@pytest.mark.parametrize(
    ("per_second", "burst_seconds"),
    [*((rate, burst) for rate in (20.0, 100.0) for burst in (0.05, 1.0, 5.0)), (300.0, 1.0)],
)
async def test_a_limit_nobody_tells_is_found_within_a_minute(per_second, burst_seconds):
    start = anyio.current_time()
    server = Server(per_second=per_second, burst=max(1.0, per_second * burst_seconds))
    await night(Pacing(PacingLimits()), server, 300)
    assert server.share(start + 60, start + 300) >= 0.90
    assert server.refusals(start + 60, start + 300) <= 0.02


@pytest.mark.parametrize("seed", range(10))
async def test_in_a_storm_of_429s_nobody_is_early_and_the_rate_is_back_within_a_minute(seed):
    start = anyio.current_time()
    rng = random.Random(seed)
    storm = (start + 20 + rng.uniform(0, 5), start + 50 + rng.uniform(0, 20))
    server = Server(
        per_second=50, burst=50, storms=[storm], retry_after_seconds=rng.choice([3.0, 7.0, 20.0]), seed=seed
    )
    await night(Pacing(PacingLimits(requests_per_second=50)), server, storm[1] - start + 100, workers=64)
    assert server.early == 0
    assert server.refused
    assert server.share(storm[1] + 60, storm[1] + 90) >= 0.90


async def test_a_storm_without_a_wish_is_survived_and_the_rate_comes_back():
    start = anyio.current_time()
    server = Server(per_second=100, burst=100, storms=[(start + 20, start + 80)])
    await night(Pacing(PacingLimits(requests_per_second=100)), server, 200)
    assert server.refusals(start + 30, start + 80) == 1.0
    assert len([at for at in server.refused if at >= start + 22]) <= 600
    assert server.share(start + 140, start + 200) >= 0.90


async def test_tokens_a_minute_with_rows_of_all_sizes_are_used_and_the_largest_row_is_not_starved():
    start = anyio.current_time()
    server = Server(per_second=1_000, burst=1_000, tokens_per_minute=600_000)
    waits = await night(Pacing(PacingLimits(tokens_per_minute=600_000)), server, 180, workers=128, sizes=(200, 6_000))
    used = sum(tokens for at, tokens in server.accepted if start + 10 <= at < start + 180)
    assert used >= 0.92 * 600_000 / 60 * 170
    assert not server.refused
    late = [wait for tokens, wait in waits[200:] if tokens >= 5_500]
    fair = sum(wait for _, wait in waits[200:]) / len(waits[200:])
    assert max(late) <= 2 * fair


async def test_without_any_limit_all_workers_are_soon_on_the_wire():
    start = anyio.current_time()
    server = Server(per_second=100_000, burst=100_000, latency_seconds=5.0)
    await night(Pacing(PacingLimits()), server, 120, workers=2_000)
    accepted = sum(1 for at, _ in server.accepted if start + 60 <= at < start + 110)
    assert accepted >= 0.93 * 2_000 / 5.0 * 50
