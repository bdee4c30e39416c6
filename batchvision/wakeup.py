"""Waking those who wait for a change, at no cost while nobody does."""

from __future__ import annotations

import asyncio
from math import inf


class Wakeup:
    """A condition without a lock, for one event loop: wait, look again, perhaps wait again."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: asyncio.Event | None = None

    def tell(self) -> None:
        """Something changed: everybody who waits looks again."""
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self, until: float = inf) -> None:
        """For the next change, or until this moment of the loop's clock: then everybody looks again."""
        if self._event is None:
            self._event = asyncio.Event()
        if until == inf:
            await self._event.wait()
            return
        timer = asyncio.get_running_loop().call_at(until, self.tell)
        try:
            await self._event.wait()
        finally:
            timer.cancel()
