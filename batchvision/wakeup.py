"""Wake all waiting tasks when something changes. A change costs nothing while no task waits."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from math import inf


class Wakeup:
    """A condition variable without a lock, for one event loop: a woken task checks its condition and may wait again."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []

    def tell(self) -> None:
        """Wake all waiting tasks."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, until: float = inf) -> None:
        """Wait for the next change, or until this time on the loop's clock; then all waiting tasks are woken."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        timer = None if until == inf else loop.call_at(until, self.tell)
        try:
            await future
        except BaseException:
            with suppress(ValueError):  # woken, and cancelled before it could go on
                self._waiting.remove(future)
            raise
        finally:
            if timer is not None:
                timer.cancel()
