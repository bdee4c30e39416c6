"""Bytes in memory: bounded, first come, first served; more than the whole budget is held alone."""

from __future__ import annotations

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.eventloop import ByteBudget

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


async def entered(budget: ByteBudget, sizes: list[int], seconds: float = 1.0) -> list[tuple[int, float]]:
    """(size, second) of each as its bytes were given; each holds them for ``seconds``."""
    got: list[tuple[int, float]] = []

    async def one(size: int) -> None:
        async with budget.hold(size):
            got.append((size, round(anyio.current_time() - 1_000)))
            await anyio.sleep(seconds)

    async with anyio.create_task_group() as tasks:
        for size in sizes:
            tasks.start_soon(one, size)
    return got


async def test_no_more_bytes_than_the_budget_are_held_at_once():
    assert await entered(ByteBudget(100), [60, 30, 30, 60]) == [(60, 0), (30, 0), (30, 1), (60, 1)]


async def test_a_large_holder_is_not_overtaken_by_small_ones():
    assert await entered(ByteBudget(100), [60, 90, 10, 10]) == [(60, 0), (90, 1), (10, 1), (10, 2)]


async def test_more_than_the_whole_budget_is_held_alone():
    assert await entered(ByteBudget(100), [10, 500, 10]) == [(10, 0), (500, 1), (10, 2)]


async def test_no_bytes_never_wait():
    assert sorted(await entered(ByteBudget(100), [100, 0, 0])) == [(0, 0), (0, 0), (100, 0)]


async def test_bytes_that_a_holder_gives_back_go_to_the_next_one() -> None:
    budget = ByteBudget(100)
    async with budget.hold(100) as held, anyio.create_task_group() as tasks:
        tasks.start_soon(entered, budget, [70])
        await anyio.sleep(0.5)
        held.shrink(30)
        await anyio.sleep(0.5)
        assert repr(budget) == "<ByteBudget 100 of 100 bytes>"
        held.shrink(50)  # it never grows
        assert held.size_bytes == 30
    assert repr(budget) == "<ByteBudget 0 of 100 bytes>"


async def test_a_cancelled_wait_takes_nothing():
    budget = ByteBudget(100)
    async with budget.hold(100):
        with anyio.move_on_after(1):
            async with budget.hold(50):
                raise AssertionError("more bytes were held than the budget has")
    async with budget.hold(100):
        pass
    assert repr(budget) == "<ByteBudget 0 of 100 bytes>"


async def test_a_holder_that_wants_more_waits_behind_a_large_one() -> None:
    budget, order = ByteBudget(10), list[str]()

    async def twice() -> None:
        async with budget.hold(4):
            with anyio.move_on_after(5):
                async with budget.hold(4):
                    order.append("overtook")

    async def large() -> None:
        async with budget.hold(10):
            order.append("large")

    async with anyio.create_task_group() as group, budget.hold(10):
        group.start_soon(twice)
        group.start_soon(large)
        await anyio.wait_all_tasks_blocked()
    assert order == ["large"]
