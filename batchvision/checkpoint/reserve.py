"""Room that is set aside at the start of a run, so that the answers in flight can be written when the disk fills.

The rule: it is given back once, at the first write that finds no room; that write is made again, and the run is to
end. It lies beside the journal, outside of every table.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from batchvision.checkpoint.disk import Disk, disk_failed
from batchvision.errors import DiskFailed

T = TypeVar("T")

RESERVE_NAME = "reserve"
#: What the record of one answer in flight, its ledger line and its result may take, generously.
BYTES_AN_ANSWER = 64 * 1024
MOST_BYTES = 8 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT)


def reserve_bytes(in_flight: int) -> int:
    """How much is set aside for so many answers in flight."""
    return min(MOST_BYTES, in_flight * BYTES_AN_ANSWER)


class Reserve:
    """A :class:`Disk` with something in reserve. ``size_bytes`` 0: nothing; then it is the disk as it is."""

    def __init__(self, disk: Disk, path: Path, size_bytes: int) -> None:
        self._disk = disk
        self._path = path
        self._size_bytes = size_bytes
        self._is_there = False
        self.used_up: DiskFailed | None = None  #: why the run is to end: the room was needed

    # ---------------------------------------------------------------------------- the room

    def claim(self) -> None:
        """Raises OSError where there is not that much room: then nothing should be started."""
        if self._size_bytes:
            self._disk.set_aside(self._path, self._size_bytes)
            self._is_there = True

    def give_back(self) -> None:
        """At the end of a run; at the start of one, what a crash has left."""
        self._is_there = False
        if self._path.exists():
            with suppress(OSError):
                self._disk.remove(self._path)

    def _with_room(self, operation: Callable[[], T], path: Path | None = None) -> T:
        try:
            return operation()
        except OSError as fault:
            if fault.errno not in _FULL or not self._is_there:
                raise
            self.give_back()
            self.used_up = disk_failed(f"writing to {self._path.parent}", fault)
            return operation()

    # ---------------------------------------------------------------------------- the Disk

    def make_folder(self, path: Path) -> None:
        self._with_room(lambda: self._disk.make_folder(path))

    def set_aside(self, path: Path, size_bytes: int) -> None:
        self._disk.set_aside(path, size_bytes)

    def create(self, path: Path, mode: int) -> int:
        return self._with_room(lambda: self._disk.create(path, mode))

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        self._with_room(lambda: self._disk.write(descriptor, content))

    def rename(self, old: Path, new: Path) -> None:
        self._with_room(lambda: self._disk.rename(old, new))

    def sync(self, descriptor: int) -> None:
        """Never made again, whatever it says."""
        self._disk.sync(descriptor)

    def sync_folder(self, path: Path) -> None:
        self._disk.sync_folder(path)

    def close(self, descriptor: int) -> None:
        self._disk.close(descriptor)

    def remove(self, path: Path) -> None:
        self._disk.remove(path)
