"""Rules of the pacing that hold whatever happens, each tried on made-up nights in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import VIRTUAL

from batchvision.errors import RateLimited
from batchvision.limits import Pacing, PacingLimits, TokenBucket
from batchvision.limits.pace import CREDIT_SECONDS

SECONDS = 8.0
EPSILON = 1e-3

pauses = st.lists(st.tuples(st.floats(0, SECONDS), st.floats(0.05, 5)), max_size=4)


@dataclass
class Seen:
    """Of a night: when requests left, and when nobody was to leave."""

    departed: list[float] = field(default_factory=list)
    pauses: list[tuple[float, float]] = field(default_factory=list)


def played(per_second: float, wishes: list[tuple[float, float]], slowest_disk: float, seed: int) -> Seen:
    """Thirty workers on a given limit; 429s come when ``wishes`` say, and ask to wait so long."""
    seen, rng = Seen(), random.Random(seed)

    async def work(pacing: Pacing, until: float) -> None:
        while anyio.current_time() < until:
            departure = await pacing.admit(0)
            await anyio.sleep(rng.uniform(0, slowest_disk))  # its intent becomes durable
            await pacing.depart(departure)
            seen.departed.append(departure.departed_at)
            await anyio.sleep(rng.uniform(0, 0.3))
            pacing.land(departure)
            pacing.observe(None, departure.departed_at)

    async def refuse(pacing: Pacing, after: float, seconds: float) -> None:
        await anyio.sleep(after)
        now = anyio.current_time()
        seen.pauses.append((now, now + seconds))
        pacing.observe(RateLimited("slow down", retry_after_seconds=seconds), departed_at=now)

    async def session() -> None:
        pacing = Pacing(PacingLimits(requests_per_second=per_second))
        pacing.observe(None)
        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(work, pacing, anyio.current_time() + SECONDS)
            for after, seconds in wishes:
                tasks.start_soon(refuse, pacing, after, seconds)

    anyio.run(session, backend_options=VIRTUAL)
    return seen


@settings(max_examples=25)
@given(st.floats(0.5, 100), pauses, st.sampled_from([0.0, 0.02, 0.2]), st.integers(0, 99))
def test_nobody_leaves_while_a_retry_after_lasts_and_never_faster_than_the_job_allows(per_second, wishes, disk, seed):
    seen = played(per_second, wishes, disk, seed)
    assert not [at for at in seen.departed for begin, end in seen.pauses if begin + EPSILON < at < end - EPSILON]
    full_at = 0.0  # of a bucket that holds the credit
    for at in sorted(seen.departed):
        full_at = max(full_at, at) + 1 / per_second
        assert full_at - 1 / per_second - at <= CREDIT_SECONDS + EPSILON


@settings(max_examples=25)
@given(st.lists(st.integers(1, 8_000), min_size=2, max_size=60), st.integers(60_000, 600_000))
def test_rows_have_their_tokens_in_the_order_in_which_they_asked_and_a_large_one_waits_for_no_more_than_was_taken(
    sizes, per_minute
):
    order: list[int] = []

    async def session() -> None:
        pacing = Pacing(PacingLimits(tokens_per_minute=per_minute))
        pacing.observe(None)
        began = anyio.current_time()

        async def one(number: int) -> None:
            departure = await pacing.admit(sizes[number])
            order.append(number)
            taken = sum(sizes[: number + 1])
            assert anyio.current_time() - began <= taken / per_minute * 60 + 0.1
            pacing.land(departure)

        async with anyio.create_task_group() as tasks:
            for number in range(len(sizes)):
                tasks.start_soon(one, number)

    anyio.run(session, backend_options=VIRTUAL)
    assert order == list(range(len(sizes)))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 6_000), st.integers(1, 6_000)), min_size=1, max_size=60))
def test_whatever_the_estimates_tokens_never_run_ahead_of_the_limit_by_more_than_two_buckets_and_a_row(rows):
    async def session() -> None:
        bucket, began, used = TokenBucket(60_000), anyio.current_time(), 0
        for estimate, real in rows:
            await bucket.take(estimate)
            used += real
            allowed = (anyio.current_time() - began) * 1_000 + 2 * 5_000
            assert used <= allowed + 6_000 + EPSILON
            bucket.give_back(estimate - real)

    anyio.run(session, backend_options=VIRTUAL)
