"""The order in which an online lane's rows go on: who is ready, and whom he wakes, before a row that begins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import pytest

from batchvision.lanes import online
from batchvision.records import Row
from batchvision.stopping import StopSignal

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Rows:
    """A stream of one row; as it is taken, an answer has come, and who reads it wakes another."""

    def __init__(self, seen: list[str]) -> None:
        self._left, self._seen = [Row(1, "r1", "What is it?", (), (), "skip")], seen

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def receive_nowait(self) -> Row:
        if not self._left:
            raise anyio.EndOfStream
        asyncio.get_running_loop().call_soon(self._answer_comes)
        return self._left.pop()

    def _answer_comes(self) -> None:
        self._seen.append("an answer is read")
        asyncio.get_running_loop().call_soon(self._seen.append, "its place sends again")


class Desk:
    """In the place of a delivery: rows begin, and none is sent."""

    def __init__(self, seen: list[str]) -> None:
        self.stop, self._seen = StopSignal(), seen

    async def room_for(self, row: Row) -> AbstractAsyncContextManager[None]:
        return self._begin(row)

    @asynccontextmanager
    async def _begin(self, row: Row) -> AsyncIterator[None]:
        self._seen.append(f"{row.row_id} begins")
        yield

    async def request_of(self, row: Row) -> None:
        pass

    def first_tries(self, row: Row) -> None:
        pass

    def end_suspects(self) -> None:
        pass


async def _delivered() -> list[str]:
    seen: list[str] = []
    desk: Any = Desk(seen)
    rows: Any = Rows(seen)
    await online.OnlineLane(desk, concurrency=1).deliver(rows)
    return seen


async def test_a_row_begins_after_all_who_are_ready_and_whom_they_wake() -> None:
    assert await _delivered() == ["an answer is read", "its place sends again", "r1 begins"]


async def test_a_row_that_does_not_let_others_go_first_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody() -> None:
        pass

    monkeypatch.setattr(online, "others_first", nobody)
    assert (await _delivered())[0] == "r1 begins"
