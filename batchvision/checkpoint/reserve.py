"""Disk space set aside at the start of a run, so that answers in flight can be stored when the disk fills."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from batchvision.checkpoint.storage import JournalFiles

RESERVE_NAME = "reserve"
#: The journal record, the ledger line and the result row of one answer need at most about so much.
BYTES_PER_ANSWER = 64 * 1024
MOST_BYTES = 8 * 1024 * 1024


def reserve_bytes(in_flight: int) -> int:
    """Return the size of the reserve for so many answers in flight."""
    return min(MOST_BYTES, in_flight * BYTES_PER_ANSWER)


class Reserve:
    """A file of ``size_bytes`` that holds nothing; no file where the size is 0."""

    def __init__(self, files: JournalFiles, path: Path, size_bytes: int) -> None:
        self._files = files
        self._path = path
        self._size_bytes = size_bytes

    def claim(self) -> None:
        """Take the space. Raises OSError where the disk has less: then no request should be sent."""
        if self._size_bytes:
            self._files.set_aside(self._path, self._size_bytes)

    def give_back(self) -> None:
        """Free the space; at the start of a run, the space that a crash has left."""
        if self._path.exists():
            with suppress(OSError):
                self._files.remove(self._path)
