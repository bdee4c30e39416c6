"""The budget: rate and money leased together, and settled, kept or void."""

from __future__ import annotations

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.errors import ServerError, SpendCapReached
from batchvision.limits import Pacing, PacingLimits
from batchvision.limits.budget import LocalBudget
from batchvision.limits.caps import Caps, PeriodCap
from batchvision.records import Estimate, Usage
from batchvision.ticks import SpendCap

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


def budget_of(cap_ticks: int | None = None, **limits: float) -> tuple[LocalBudget, SpendCap]:
    cap = SpendCap(cap_ticks)
    budget = LocalBudget(Pacing(PacingLimits(**limits)), Caps([PeriodCap("max_cost_usd", cap)]))
    budget.observe(None)  # the gate is open: the first answer has come
    return budget, cap


def asking(bound: int | None, tokens: int = 0) -> Estimate:
    return Estimate(tokens=tokens, likely_ticks=None, bound_ticks=bound)


async def test_a_settled_lease_books_the_real_cost():
    budget, cap = budget_of(100)
    with await budget.lease(asking(60)) as lease:
        assert cap.left_ticks == 40
        lease.settle(Usage(cost_ticks=10))
    assert (cap.spent_ticks, cap.left_ticks) == (10, 90)


async def test_a_lease_left_open_counts_its_bound_as_spent():
    budget, cap = budget_of(100)
    with pytest.raises(RuntimeError), await budget.lease(asking(60)):
        raise RuntimeError("cut off on the wire")
    assert cap.spent_ticks == 60


async def test_a_void_lease_costs_nothing():
    budget, cap = budget_of(100)
    with await budget.lease(asking(60)) as lease:
        lease.void()
    assert (cap.spent_ticks, cap.left_ticks) == (0, 100)


async def test_an_answer_of_unknown_cost_counts_as_its_bound():
    budget, cap = budget_of(100)
    with await budget.lease(asking(60)) as lease:
        lease.settle(Usage())
    assert cap.spent_ticks == 60


async def test_the_cap_is_never_exceeded_and_says_what_to_do():
    budget, _ = budget_of(100)
    with await budget.lease(asking(60)) as lease:
        lease.settle(Usage(cost_ticks=60))
    with pytest.raises(SpendCapReached, match="max_cost_usd"):
        await budget.lease(asking(60))


async def test_a_request_waits_for_money_that_may_still_come_back():
    budget, cap = budget_of(100)
    first = await budget.lease(asking(60))
    got: list[str] = []

    async def second() -> None:
        with await budget.lease(asking(60)) as lease:
            got.append("second")
            lease.settle(Usage(cost_ticks=60))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        await anyio.sleep(5)
        assert got == []
        first.settle(Usage(cost_ticks=5))
    assert got == ["second"]
    assert cap.spent_ticks == 65


async def test_a_cancelled_wait_for_the_turn_returns_the_money():
    budget, cap = budget_of(100, requests_per_second=0.001)
    first = await budget.lease(asking(1))
    await first.departure()
    first.settle(Usage(cost_ticks=1))
    with anyio.move_on_after(2):
        await budget.lease(asking(50))
    assert cap.left_ticks == 99


async def test_money_of_an_earlier_ticket_is_committed_even_beyond_the_cap():
    budget, cap = budget_of(100)
    lease = budget.adopt(150)
    assert cap.left_ticks == 0
    lease.settle(Usage(cost_ticks=120))
    assert cap.spent_ticks == 120
    with pytest.raises(SpendCapReached):
        await budget.lease(asking(1))


async def test_tokens_settle_to_what_was_used():
    budget, _ = budget_of(tokens_per_minute=60)
    lease = await budget.lease(asking(None, tokens=5))
    lease.settle(Usage(prompt_tokens=1, completion_tokens=0, cost_ticks=1))
    start = anyio.current_time()
    await budget.lease(asking(None, tokens=4))
    assert anyio.current_time() - start < 0.1


async def test_failures_in_a_row_are_told():
    budget, _ = budget_of()
    for _ in range(3):
        budget.observe(ServerError("500"))
    assert budget.failures_in_a_row == 3
    budget.observe(None)
    assert budget.failures_in_a_row == 0
