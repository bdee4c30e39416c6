"""Waking those who wait for a change, at no cost while nobody does."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from math import inf


class Wakeup:
    """A condition without a lock, for one event loop: wait, look again, perhaps wait again."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def tell(self) -> None:
        """Something changed: everybody who waits looks again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def tell_by_turns(self, turns: Turns) -> None:
        """The same, each when it is his turn."""
        waiting, self._waiting = self._waiting, []
        turns.give(waiting)

    async def wait(self, until: float = inf) -> None:
        """For the next change, or until this moment of the loop's clock: then everybody looks again."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        timer = None if until == inf else loop.call_at(until, self.tell)
        try:
            await future
        except BaseException:
            with suppress(ValueError):  # told, and cancelled before it could look
                self._waiting.remove(future)
            raise
        finally:
            if timer is not None:
                timer.cancel()


class Turns:
    """So many who wait are woken in one turn of the loop, and the others in the next ones: what they do keeps nothing
    else waiting for long."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._waiting: deque[asyncio.Future[None]] = deque()

    def give(self, waiting: Iterable[asyncio.Future[None]]) -> None:
        is_idle = not self._waiting
        self._waiting.extend(waiting)
        if is_idle and self._waiting:
            self._next()

    def _next(self) -> None:
        for _ in range(min(self._at_once, len(self._waiting))):
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._next)
