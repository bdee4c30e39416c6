"""Whose turn it is, first come first served."""

from __future__ import annotations

import asyncio
from types import TracebackType


class Turn:
    """A lock that also tells whether it is wanted: an open one may have been promised to somebody who waits, and who
    takes it without waiting would overtake them."""

    __slots__ = ("_lock", "_wanted")

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._wanted = 0  #: by so many, who has it among them

    @property
    def is_wanted(self) -> bool:
        return self._wanted > 0

    async def __aenter__(self) -> None:
        self._wanted += 1
        try:
            await self._lock.acquire()
        except BaseException:
            self._wanted -= 1
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._lock.release()
        self._wanted -= 1
