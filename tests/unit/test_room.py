"""Bytes in flight: bounded, first come first served, and what is larger than all of it goes in alone."""

from __future__ import annotations

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.limits import Room

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


async def entered(room: Room, sizes: list[int], seconds: float = 1.0) -> list[tuple[int, float]]:
    """(size, when) of each as it got in; each stays for so long."""
    got: list[tuple[int, float]] = []

    async def one(size: int) -> None:
        async with room.of(size):
            got.append((size, round(anyio.current_time() - 1_000)))
            await anyio.sleep(seconds)

    async with anyio.create_task_group() as tasks:
        for size in sizes:
            tasks.start_soon(one, size)
    return got


async def test_no_more_than_there_is_room_for_is_in_at_once():
    assert await entered(Room(100), [60, 30, 30, 60]) == [(60, 0), (30, 0), (30, 1), (60, 1)]


async def test_a_large_one_is_not_overtaken_by_small_ones_behind_it():
    assert await entered(Room(100), [60, 90, 10, 10]) == [(60, 0), (90, 1), (10, 1), (10, 2)]


async def test_one_larger_than_the_room_goes_in_alone():
    assert await entered(Room(100), [10, 500, 10]) == [(10, 0), (500, 1), (10, 2)]


async def test_what_has_no_size_never_waits():
    assert sorted(await entered(Room(100), [100, 0, 0])) == [(0, 0), (0, 0), (100, 0)]


async def test_a_cancelled_wait_takes_nothing():
    room = Room(100)
    async with room.of(100):
        with anyio.move_on_after(1):
            async with room.of(50):
                raise AssertionError("there was no room")
    async with room.of(100):
        pass
    assert repr(room) == "<Room 0 of 100 bytes>"


async def test_who_goes_in_does_not_go_in_again_before_one_who_waits() -> None:
    """What has come free is promised then."""
    room, order = Room(10), list[str]()

    async def twice() -> None:
        await room.take(4)
        with anyio.move_on_after(5) as again:
            await room.take(4)
        order.append("waited" if again.cancelled_caught else "overtook")
        room.give_back(4)

    async def large() -> None:
        await room.take(10)
        order.append("large")

    await room.take(10)
    async with anyio.create_task_group() as group:
        group.start_soon(twice)
        group.start_soon(large)
        await anyio.wait_all_tasks_blocked()
        room.give_back(10)
    assert order == ["waited", "large"]
