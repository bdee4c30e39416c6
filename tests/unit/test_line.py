"""A line: first come first served, together where there is enough for several, and nobody who goes holds up others."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from virtual_time import VIRTUAL

from batchvision.limits.line import Line
from batchvision.limits.room import Room
from batchvision.wakeup import Wakeup

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


class Seats:
    """So many of something, taken through a line."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.order: list[str] = []
        self.line = Line[int, int](self._take, self.give_back)
        self._more = Wakeup()

    def _take(self, seats: int) -> int | None:
        if seats > self.free:
            return None
        self.free -= seats
        return seats

    def give_back(self, seats: int) -> None:
        self.free += seats
        self._more.tell()

    async def take(self, name: str, seats: int = 1) -> None:
        if await self.line.wait(seats) is None:
            with self.line.first():
                while self._take(seats) is None:
                    await self._more.wait()
        self.order.append(name)


async def turns(count: int) -> None:
    for _ in range(count):
        await checkpoint()


async def test_all_for_whom_there_is_enough_are_served_in_the_same_turn_of_the_loop():
    seats = Seats(0)
    async with anyio.create_task_group() as waiters:
        for number in range(100):
            waiters.start_soon(seats.take, str(number))
        await turns(3)
        assert repr(seats.line) == "<Line of 100>"
        seats.give_back(60)
        await turns(3)  # the first looks, those behind it are told, they go
        assert seats.order == [str(number) for number in range(60)]
        seats.give_back(40)
    assert seats.order == [str(number) for number in range(100)]
    assert seats.free == 0
    assert repr(seats.line) == "<Line of 0>"


async def test_nobody_overtakes_one_who_wants_more_than_there_is():
    seats = Seats(1)
    async with anyio.create_task_group() as waiters:
        waiters.start_soon(seats.take, "large", 3)
        await turns(2)
        waiters.start_soon(seats.take, "small")
        await turns(2)
        assert seats.line.served_now(1) is None
        assert seats.order == []
        seats.give_back(2)
        await turns(3)
        assert seats.order == ["large"]
        seats.give_back(2)
    assert seats.order == ["large", "small"]
    assert seats.line.served_now(1) == 1


async def _until_cancelled(seats: Seats, scope: anyio.CancelScope, name: str, wanted: int) -> None:
    with scope:
        await seats.take(name, wanted)


async def test_one_who_is_cancelled_first_or_behind_leaves_its_place_to_the_next():
    seats, first, behind = Seats(0), anyio.CancelScope(), anyio.CancelScope()
    async with anyio.create_task_group() as waiters:
        waiters.start_soon(_until_cancelled, seats, first, "first", 5)
        waiters.start_soon(seats.take, "second")
        waiters.start_soon(_until_cancelled, seats, behind, "behind", 1)
        waiters.start_soon(seats.take, "third")
        await turns(3)
        first.cancel()
        behind.cancel()
        await turns(3)
        seats.give_back(2)
    assert seats.order == ["second", "third"]
    assert seats.free == 0


@pytest.mark.parametrize("free", [0, 1, 2])
async def test_one_who_is_cancelled_when_it_has_just_been_told_keeps_nothing_and_holds_up_nobody(free):
    """Told that it is first, where there is nothing, otherwise what it has got."""
    seats = Seats(0)
    with seats.line.first():
        assert await seats.line.wait(9) is None
        told = asyncio.create_task(seats.take("told"))  # anyio's scopes would let it look first
        behind = asyncio.create_task(seats.take("behind"))
        await turns(3)
        seats.free = free
    told.cancel()
    with pytest.raises(asyncio.CancelledError):
        await told
    seats.give_back(1)
    await behind
    assert seats.order == ["behind"]
    assert seats.free == free
    assert repr(seats.line) == "<Line of 0>"


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 5), st.integers(0, 5), st.one_of(st.none(), st.integers(0, 12))),
        max_size=30,
    )
)
def test_whoever_comes_and_goes_what_is_there_is_never_exceeded_nor_lost_and_the_order_is_kept(rows):
    """Each row: how much it wants, when it comes, how long it stays, and when it loses patience."""

    async def all_of_them() -> None:
        room, held, most = Room(50), [0], [0]
        came: list[int] = []
        served: list[int] = []

        async def one(number: int, size: int, comes: int, stays: int, patience: int | None) -> None:
            await anyio.sleep(comes)
            with anyio.move_on_after(float("inf") if patience is None else patience):
                came.append(number)
                async with room.of(size):
                    if size:
                        served.append(number)
                    held[0] += size
                    most[0] = max(most[0], held[0])
                    try:
                        await anyio.sleep(stays)
                    finally:
                        held[0] -= size

        async with anyio.create_task_group() as tasks:
            for number, row in enumerate(rows):
                tasks.start_soon(one, number, *row)
        assert most[0] <= 50
        assert served == [number for number in came if number in set(served)]
        assert {number for number, row in enumerate(rows) if row[0] and row[3] is None} <= set(served)
        assert room._taken == 0
        assert repr(room._line) == "<Line of 0>"

    anyio.run(all_of_them, backend_options=VIRTUAL)
