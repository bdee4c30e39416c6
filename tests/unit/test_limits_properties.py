"""Rules of the rate limiter that hold for any provider, tried on generated runs in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VIRTUAL

from batchvision.eventloop import loop_time
from batchvision.limits import LocalRateLimiter, RateSettings
from batchvision.limits.controller import CREDIT_SECONDS
from batchvision.limits.tokens import TokenBucket

SECONDS = 8.0
EPSILON = 1e-3

pauses = st.lists(st.tuples(st.floats(0, SECONDS), st.floats(0.05, 5)), max_size=4)


@dataclass
class Run:
    """When requests were sent, and the pauses in which no request may be sent."""

    sent: list[float] = field(default_factory=list)
    pauses: list[tuple[float, float]] = field(default_factory=list)


def run_with_pauses(per_second: float, pauses: list[tuple[float, float]], slowest_disk: float, seed: int) -> Run:
    """Thirty workers at a given limit. ``pauses``: begin and length."""
    run, rng = Run(), random.Random(seed)

    async def work(limiter: LocalRateLimiter, until: float) -> None:
        while anyio.current_time() < until:
            slot = await limiter.acquire(0)
            await anyio.sleep(rng.uniform(0, slowest_disk))  # its intent becomes durable
            await slot.wait()
            assert slot.sent_at is not None
            run.sent.append(slot.sent_at)
            await anyio.sleep(rng.uniform(0, 0.3))
            slot.release()
            limiter.observe(None, slot.sent_at)

    async def pause(limiter: LocalRateLimiter, after: float, seconds: float) -> None:
        await anyio.sleep(after)
        now = anyio.current_time()
        run.pauses.append((now, now + seconds))
        limiter._pause(seconds, now)

    async def all_of_it() -> None:
        limiter = LocalRateLimiter(RateSettings(requests_per_second=per_second))
        limiter.observe(None)
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(work, limiter, anyio.current_time() + SECONDS)
            for after, seconds in pauses:
                tasks.start_soon(pause, limiter, after, seconds)

    anyio.run(all_of_it, backend_options=VIRTUAL)
    return run


@settings(max_examples=25)
@given(st.floats(0.5, 100), pauses, st.sampled_from([0.0, 0.02, 0.2]), st.integers(0, 99))
def test_no_request_is_sent_in_a_pause_and_none_faster_than_the_job_allows(per_second, pauses, disk, seed):
    run = run_with_pauses(per_second, pauses, disk, seed)
    assert not [at for at in run.sent for begin, end in run.pauses if begin + EPSILON < at < end - EPSILON]
    full_at = 0.0  # of a bucket that holds the credit
    for at in sorted(run.sent):
        full_at = max(full_at, at) + 1 / per_second
        assert full_at - 1 / per_second - at <= CREDIT_SECONDS + EPSILON


@settings(max_examples=25)
@given(st.lists(st.integers(1, 8_000), min_size=2, max_size=60), st.integers(60_000, 600_000))
def test_rows_get_tokens_in_their_order_and_wait_for_no_more_than_those_before_them_took(sizes, per_minute):
    order: list[int] = []

    async def all_of_it() -> None:
        limiter = LocalRateLimiter(RateSettings(tokens_per_minute=per_minute))
        limiter.observe(None)
        began = anyio.current_time()

        async def one(number: int) -> None:
            slot = await limiter.acquire(sizes[number])
            order.append(number)
            taken = sum(sizes[: number + 1])
            assert anyio.current_time() - began <= taken / per_minute * 60 + 0.1
            slot.release()

        async with anyio.create_task_group() as tasks:
            for number in range(len(sizes)):
                tasks.start_soon(one, number)

    anyio.run(all_of_it, backend_options=VIRTUAL)
    assert order == list(range(len(sizes)))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 6_000), st.integers(1, 6_000)), min_size=1, max_size=60))
def test_for_any_estimates_used_tokens_exceed_the_limit_by_at_most_two_buckets_and_a_row(rows):
    async def all_of_it() -> None:
        began = loop_time()
        bucket, used = TokenBucket(60_000, began), 0
        for estimate, real in rows:
            while (seconds := bucket.seconds_to_wait(estimate, loop_time())) > 0:
                await anyio.sleep(seconds)
            bucket.take(estimate, loop_time())
            used += real
            allowed = (loop_time() - began) * 1_000 + 2 * 5_000
            assert used <= allowed + 6_000 + EPSILON
            bucket.give_back(estimate - real, loop_time())

    anyio.run(all_of_it, backend_options=VIRTUAL)
