"""Requests in flight by how long answers take: a server that works on one at a time, and one that is only slow."""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.errors import RequestTimedOut
from batchvision.limits import LocalRateLimiter, RateSettings
from batchvision.limits.controller import ANSWERS_SEEN, LatencyBound, Timing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


@dataclass
class SlowServer:
    """Works on ``at_once`` requests, each for ``work_seconds``, also on those that the client has given up."""

    work_seconds: float
    at_once: int = 1
    timeout_seconds: float = 60.0
    answered: list[float] = field(default_factory=list)
    timed_out: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self._places = anyio.CapacityLimiter(self.at_once)

    async def ask(self) -> RequestTimedOut | None:
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            with anyio.fail_after(self.timeout_seconds):
                async with self._places:
                    await anyio.sleep(self.work_seconds)
        except TimeoutError:
            self.timed_out += 1
            return RequestTimedOut("late")
        finally:
            self.in_flight -= 1
        self.answered.append(anyio.current_time())
        return None


async def served(server: SlowServer, seconds: float, limits: RateSettings, workers: int = 256) -> LocalRateLimiter:
    limiter, start = LocalRateLimiter(limits), anyio.current_time()

    async def work() -> None:
        while anyio.current_time() < start + seconds:
            slot = await limiter.acquire(0)
            await slot.wait()
            error = await server.ask()
            slot.release()
            limiter.observe(error, slot.sent_at)

    async with anyio.create_task_group() as tasks:
        for _ in range(workers):
            tasks.start_soon(work)
    return limiter


@pytest.mark.parametrize("rate", [None, 100.0])
async def test_a_server_that_works_on_one_at_a_time_is_kept_busy_and_few_requests_time_out(rate):
    server = SlowServer(work_seconds=2.0)
    limits = RateSettings(requests_per_second=rate, in_flight=256, timeout_seconds=60.0)
    limiter = await served(server, 3_600, limits)
    assert len(server.answered) >= 0.95 * 1_800
    assert server.timed_out <= 2 * 256, "requests sent before the bound was lowered"
    assert 5 <= limiter.latency.most <= 30
    late = [at for at in server.answered if at > server.answered[-1] - 1_800]
    assert len(late) >= 0.95 * 900


async def test_without_the_bound_such_a_server_times_out_for_ever():
    server = SlowServer(work_seconds=2.0)
    await served(server, 3_600, RateSettings(requests_per_second=100.0, in_flight=256))
    assert server.timed_out > 10_000


async def test_a_server_that_is_slow_by_itself_keeps_its_requests():
    server = SlowServer(work_seconds=40.0, at_once=1_000)
    limiter = await served(server, 3_600, RateSettings(in_flight=256, timeout_seconds=60.0))
    assert limiter.latency.most == float("inf")
    assert server.most_in_flight == 256, "after a short trial with fewer"
    assert len(server.answered) >= 0.8 * 3_600 / 40 * 256


async def test_a_quick_server_is_not_held_back():
    server = SlowServer(work_seconds=25.0, at_once=1_000)
    limiter = await served(server, 600, RateSettings(in_flight=256, timeout_seconds=60.0))
    assert limiter.latency.most == float("inf")
    assert server.most_in_flight == 256


@pytest.mark.parametrize("slow", [1, 2, 3])
async def test_a_few_slow_rows_change_nothing(slow: int):
    bound = LatencyBound(60.0)
    for number in range(50 * ANSWERS_SEEN):
        bound.observe(Timing(59.0 if number % ANSWERS_SEEN < slow else 5.0, 256))
    assert bound.most == float("inf")


async def test_one_step_lowers_to_half_at_most_and_to_the_requests_that_take_half_of_the_timeout():
    for seconds, expected in ((40.0, 75), (59.0, 50), (60.0, 50), (200.0, 50)):
        bound = LatencyBound(60.0)
        for _ in range(ANSWERS_SEEN):
            bound.observe(Timing(seconds, 100))
        assert bound.most == expected
        for _ in range(10 * ANSWERS_SEEN):  # sent before the step
            bound.observe(Timing(seconds, 100))
        assert bound.most == expected


async def test_quick_answers_raise_the_bound_again():
    bound = LatencyBound(60.0)
    for _ in range(ANSWERS_SEEN):
        bound.observe(Timing(60.0, 100))
    for _ in range(10 * ANSWERS_SEEN):
        bound.observe(Timing(5.0, min(bound.most, 256.0)))
    assert bound.most > 256


async def test_timeouts_of_probes_in_an_outage_do_not_lower_the_bound():
    limiter = LocalRateLimiter(RateSettings(in_flight=256, timeout_seconds=60.0))
    limiter.observe(None)
    for _ in range(20):
        limiter.observe(RequestTimedOut("late"))
    assert limiter.is_provider_down
    for _ in range(2 * ANSWERS_SEEN):
        slot = await limiter.acquire(0)
        await slot.wait()
        await anyio.sleep(60)
        slot.release()
        limiter.observe(RequestTimedOut("late"), slot.sent_at)
    assert limiter.latency.most == float("inf")
