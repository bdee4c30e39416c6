"""Waking those who wait for a change, at no cost while nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
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
        _tell(waiting)

    def tell_in_turns(self, at_once: int) -> None:
        """The same, so many in one turn of the loop: what they do keeps nothing else waiting for long."""
        waiting, self._waiting = self._waiting, []
        _tell_in_turns(waiting, at_once)

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


def _tell(waiting: Iterable[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)


def _tell_in_turns(waiting: Sequence[asyncio.Future[None]], at_once: int) -> None:
    _tell(waiting[:at_once])
    if rest := waiting[at_once:]:
        asyncio.get_running_loop().call_soon(_tell_in_turns, rest, at_once)
