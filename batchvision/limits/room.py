"""Bytes in flight: how much of images and bodies may be in memory at once, first come first served."""

from __future__ import annotations

from types import TracebackType

from batchvision.limits.line import Line
from batchvision.wakeup import Wakeup

MOST_BYTES = 256 * 1024 * 1024


class Room:
    """A bounded number of bytes. What is larger than all of it goes in alone."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._taken = 0
        self._line = Line[int, int](self._take_now, self.give_back)
        self._changed = Wakeup()

    def __repr__(self) -> str:
        return f"<Room {self._taken} of {self._most} bytes>"

    def of(self, size_bytes: int) -> Held:
        """``async with room.of(size_bytes):`` holds so many for the block."""
        return Held(self, size_bytes)

    async def take(self, size_bytes: int) -> None:
        """Wait for so many bytes, behind those who wait already; at once where there is room and nobody waits."""
        if await self._line.wait(size_bytes) is None:
            with self._line.first():
                while self._take_now(size_bytes) is None:
                    await self._changed.wait()

    def _take_now(self, size_bytes: int) -> int | None:
        if not self._has(size_bytes):
            return None
        self._taken += size_bytes
        return size_bytes

    def give_back(self, size_bytes: int) -> None:
        self._taken -= size_bytes
        self._changed.tell()

    def _has(self, size_bytes: int) -> bool:
        return not self._taken or self._taken + size_bytes <= self._most


class Held:
    """Bytes of a room, for a block."""

    __slots__ = ("_room", "_size_bytes")

    def __init__(self, room: Room, size_bytes: int) -> None:
        self._room = room
        self._size_bytes = size_bytes

    async def __aenter__(self) -> None:
        if self._size_bytes:
            await self._room.take(self._size_bytes)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._size_bytes:
            self._room.give_back(self._size_bytes)
