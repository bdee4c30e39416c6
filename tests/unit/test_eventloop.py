"""A change wakes all waiting tasks, and a cancelled task leaves nothing behind."""

from __future__ import annotations

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.eventloop import Wakeup, loop_time

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


async def test_a_change_wakes_the_waiting_tasks_and_no_later_one():
    wakeup, woken = Wakeup(), []

    async def wait(name: str) -> None:
        await wakeup.wait()
        woken.append(name)

    async with anyio.create_task_group() as waiters:
        waiters.start_soon(wait, "first")
        waiters.start_soon(wait, "second")
        await anyio.sleep(1)
        wakeup.tell()
        waiters.start_soon(wait, "late")
        await anyio.sleep(1)
        assert woken == ["first", "second"]
        wakeup.tell()
    assert woken == ["first", "second", "late"]


async def test_the_end_of_one_wait_wakes_all_waiting_tasks():
    wakeup, woken = Wakeup(), []

    async def wait(until: float) -> None:
        await wakeup.wait(until=until)
        woken.append(loop_time())

    start = loop_time()
    async with anyio.create_task_group() as waiters:
        waiters.start_soon(wait, start + 3)
        waiters.start_soon(wait, start + 50)
    assert woken == pytest.approx([start + 3] * 2)


async def test_a_cancelled_wait_leaves_nothing_behind_and_other_tasks_are_woken():
    wakeup, woken = Wakeup(), []

    async def wait() -> None:
        await wakeup.wait()
        woken.append("other")

    async with anyio.create_task_group() as waiters:
        waiters.start_soon(wait)
        for _ in range(100):
            with anyio.move_on_after(0.1):
                await wakeup.wait(until=loop_time() + 1_000)
        assert len(wakeup._waiting) == 1
        wakeup.tell()
    assert woken == ["other"]
    assert wakeup._waiting == []


async def test_a_task_woken_and_cancelled_at_once_is_cancelled():
    wakeup = Wakeup()
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as waiters:
            waiters.start_soon(wakeup.wait)
            await anyio.sleep(1)
            wakeup.tell()
            scope.cancel()
    assert scope.cancelled_caught
    assert wakeup._waiting == []
