"""The stop: the first reason stays, waits before a send end, shielded work is finished."""

from __future__ import annotations

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.errors import OutOfCredit, SpendCapReached
from batchvision.stopping import Interrupted, LocalStopSignal

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


async def test_the_first_reason_stays():
    stop = LocalStopSignal()
    stop.request(OutOfCredit("none left"))
    stop.request(SpendCapReached("cap"))
    assert isinstance(stop.reason, OutOfCredit)


async def test_a_stop_ends_each_wait_before_a_send():
    stop = LocalStopSignal()
    woken: list[bool] = []

    async def wait() -> None:
        with stop.interruptible() as scope:
            await anyio.sleep_forever()
        woken.append(scope.cancelled_caught)

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.sleep(1)
        stop.request(Interrupted("SIGTERM", 15))
    assert woken == [True, True, True]


async def test_waiting_after_the_stop_ends_at_once():
    stop = LocalStopSignal()
    stop.request(Interrupted("SIGINT", 2))
    with stop.interruptible() as scope:
        await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_shielded_work_inside_a_wait_is_finished_and_its_result_kept():
    stop = LocalStopSignal()
    result = None
    async with anyio.create_task_group() as tasks:

        async def stop_soon() -> None:
            await anyio.sleep(1)
            stop.request(Interrupted("SIGTERM", 15))

        tasks.start_soon(stop_soon)
        with stop.interruptible() as scope:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            result = "read"
    assert result == "read"
    assert not scope.cancelled_caught


async def test_the_exit_code_of_a_signal_is_its_number_and_128():
    assert Interrupted("SIGINT", 2).exit_code == 130
    assert Interrupted("SIGTERM", 15).exit_code == 143
