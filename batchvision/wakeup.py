"""Waking those who wait for a change, at no cost while nobody does."""

from __future__ import annotations

import asyncio
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
