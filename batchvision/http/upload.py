"""A request body that is streamed from a file, so that memory stays flat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio

from batchvision.http.library import httpx

PIECE_BYTES = 256 * 1024


class FileUpload(httpx.AsyncByteStream):
    """The content of ``path`` between ``head`` and ``tail``. Each iteration reads the file anew."""

    def __init__(self, path: Path, head: bytes = b"", tail: bytes = b"") -> None:
        self._path = path
        self._head = head
        self._tail = tail

    def __len__(self) -> int:
        """Bytes of the whole body. Raises OSError."""
        return len(self._head) + self._path.stat().st_size + len(self._tail)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._head
        async with await anyio.open_file(self._path, "rb") as file:
            while piece := await file.read(PIECE_BYTES):
                yield piece
        yield self._tail
