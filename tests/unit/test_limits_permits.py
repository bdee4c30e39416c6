"""Permits: rate and money taken together, and settled, kept or void."""

from __future__ import annotations

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.errors import ServerError, SpendCapReached
from batchvision.limits import LocalRateLimiter, LocalSpendCap, Permits, RateSettings, SpendCaps
from batchvision.records import Estimate, Usage

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


def permits_of(cap_ticks: int | None = None, **limits: float) -> tuple[Permits, LocalSpendCap]:
    cap = LocalSpendCap(cap_ticks)
    permits = Permits(LocalRateLimiter(RateSettings(**limits)), SpendCaps([cap]))
    permits.rate.observe(None)  # the first answer has come
    return permits, cap


def asking(bound: int | None, tokens: int = 0) -> Estimate:
    return Estimate(tokens=tokens, likely_ticks=None, bound_ticks=bound)


async def test_a_settled_permit_books_the_real_cost():
    permits, cap = permits_of(100)
    permit = await permits.acquire(asking(60))
    assert cap.left_ticks == 40
    permit.settle(Usage(cost_ticks=10))
    assert (cap.spent_ticks, cap.left_ticks) == (10, 90)


async def test_a_kept_permit_counts_its_bound_as_spent():
    permits, cap = permits_of(100)
    permit = await permits.acquire(asking(60))
    permit.keep()
    assert cap.spent_ticks == 60


async def test_a_void_permit_costs_nothing():
    permits, cap = permits_of(100)
    permit = await permits.acquire(asking(60))
    permit.void()
    assert (cap.spent_ticks, cap.left_ticks) == (0, 100)


async def test_an_answer_of_unknown_cost_counts_as_its_bound():
    permits, cap = permits_of(100)
    permit = await permits.acquire(asking(60))
    permit.settle(Usage())
    assert cap.spent_ticks == 60


async def test_the_cap_is_never_exceeded_and_its_message_names_the_next_step():
    permits, _ = permits_of(100)
    permit = await permits.acquire(asking(60))
    permit.settle(Usage(cost_ticks=60))
    with pytest.raises(SpendCapReached, match="max_cost_usd") as caught:
        await permits.acquire(asking(60))
    assert caught.value.key == "limits.max_cost_usd"


async def test_a_request_waits_for_money_that_may_still_come_back():
    permits, cap = permits_of(100)
    first = await permits.acquire(asking(60))
    got: list[str] = []

    async def second() -> None:
        permit = await permits.acquire(asking(60))
        got.append("second")
        permit.settle(Usage(cost_ticks=60))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        await anyio.sleep(5)
        assert got == []
        first.settle(Usage(cost_ticks=5))
    assert got == ["second"]
    assert cap.spent_ticks == 65


async def test_a_cancelled_wait_for_the_rate_returns_the_money():
    permits, cap = permits_of(100, requests_per_second=0.001)
    first = await permits.acquire(asking(1))
    await first.slot.wait()
    first.settle(Usage(cost_ticks=1))
    with anyio.move_on_after(2):
        await permits.acquire(asking(50))
    assert cap.left_ticks == 99


async def test_money_of_an_earlier_ticket_is_committed_even_beyond_the_cap():
    permits, cap = permits_of(100)
    permits.adopt(150)
    permit = permits.of_ticket(150, tokens=0)
    assert cap.left_ticks == 0
    permit.settle(Usage(cost_ticks=120))
    assert cap.spent_ticks == 120
    with pytest.raises(SpendCapReached):
        await permits.acquire(asking(1))


async def test_tokens_settle_to_the_used_ones():
    permits, _ = permits_of(tokens_per_minute=60)
    permit = await permits.acquire(asking(None, tokens=5))
    permit.settle(Usage(prompt_tokens=1, completion_tokens=0, cost_ticks=1))
    start = anyio.current_time()
    await permits.acquire(asking(None, tokens=4))
    assert anyio.current_time() - start < 0.1


async def test_the_permit_of_a_ticket_settles_the_money_and_tokens_of_its_request():
    permits, cap = permits_of(100, tokens_per_minute=60)
    tokens = (await permits.acquire(asking(50, tokens=5))).slot.tokens
    permits.of_ticket(50, tokens).settle(Usage(prompt_tokens=1, completion_tokens=0, cost_ticks=1))
    assert (cap.spent_ticks, cap.left_ticks) == (1, 99)
    start = anyio.current_time()
    await permits.acquire(asking(None, tokens=4))
    assert anyio.current_time() - start < 0.1


async def test_failures_in_a_row_are_counted():
    permits, _ = permits_of()
    for _ in range(3):
        permits.rate.observe(ServerError("500"))
    assert permits.rate.failures_in_a_row == 3
    permits.rate.observe(None)
    assert permits.rate.failures_in_a_row == 0
