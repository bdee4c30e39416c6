"""Bytes in flight: how much of images and bodies may be in memory at once, first come first served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from batchvision.wakeup import Wakeup

MOST_BYTES = 256 * 1024 * 1024


class Room:
    """A bounded number of bytes. What is larger than all of it goes in alone."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._taken = 0
        self._turn = anyio.Lock()
        self._changed = Wakeup()

    def __repr__(self) -> str:
        return f"<Room {self._taken} of {self._most} bytes>"

    @asynccontextmanager
    async def of(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold ``size_bytes`` for the block."""
        if size_bytes:
            async with self._turn:
                while self._taken and self._taken + size_bytes > self._most:
                    await self._changed.wait()
            self._taken += size_bytes
        try:
            yield
        finally:
            if size_bytes:
                self._taken -= size_bytes
                self._changed.tell()
