"""Every change to a file goes through here, one small operation at a time, so that a test can fail or lose any of them.

The rule: a file appears under its name only when its bytes are durable (:func:`replace_file`), and a name is durable
only after its folder was synced. Reading needs no such care and uses ``pathlib``.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Protocol

from batchvision.checkpoint.rights import missing_right
from batchvision.descriptors import EXHAUSTED
from batchvision.errors import MORE_OPEN_FILES, DiskFailed

#: The journal holds answers before anything has looked at them: for the owner's eyes only.
PRIVATE = 0o600
#: What the umask leaves of it.
PUBLIC = 0o666
_GROUP_READS = 0o040
_NO_RIGHT = (errno.EACCES, errno.EPERM)
#: How a file system without F_FULLFSYNC says so (network drives, FAT).
_NO_FULLFSYNC = (errno.ENOTSUP, errno.ENOTTY, errno.EINVAL)
#: What a :class:`GrowingFile` gathers before it writes.
_GATHERED_BYTES = 1024 * 1024


class Disk(Protocol):
    """The operations that change what is on disk. Each raises OSError when it fails."""

    def make_folder(self, path: Path) -> None:
        """Make one folder; its parent exists."""

    def create(self, path: Path, mode: int) -> int:
        """Open a new, or emptied, file for writing and give its descriptor."""

    def set_aside(self, path: Path, size_bytes: int) -> None:
        """Make a file that takes so much room and holds nothing; where there is no room, there is no file either."""

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        """Write all of ``content`` after what was written before; or, where that fails, nothing of it."""

    def sync(self, descriptor: int) -> None:
        """Return when everything written is durable (fdatasync)."""

    def close(self, descriptor: int) -> None:
        """Give the descriptor back."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, in one step; a file of that name is replaced."""

    def remove(self, path: Path) -> None:
        """Take a file's name away."""

    def sync_folder(self, path: Path) -> None:
        """Return when the names in a folder are durable."""


class LocalDisk:
    """The disk of this machine. ``group_readable``: what is private otherwise may be read by the files' group."""

    group_readable = False

    def __init__(self, *, group_readable: bool = False) -> None:
        self.group_readable = group_readable

    def make_folder(self, path: Path) -> None:
        path.mkdir()

    def create(self, path: Path, mode: int) -> int:
        mode |= _GROUP_READS if self.group_readable else 0
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)

    def set_aside(self, path: Path, size_bytes: int) -> None:
        descriptor = self.create(path, PRIVATE)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size_bytes)
            else:
                self.write(descriptor, bytes(size_bytes))
        except OSError:
            self.remove(path)
            raise
        finally:
            self.close(descriptor)

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        start, left = os.lseek(descriptor, 0, os.SEEK_CUR), memoryview(content)
        try:
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            os.ftruncate(descriptor, start)
            os.lseek(descriptor, start, os.SEEK_SET)
            raise

    def sync(self, descriptor: int) -> None:
        flush(descriptor, getattr(os, "fdatasync", os.fsync))

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def rename(self, old: Path, new: Path) -> None:
        old.replace(new)

    def remove(self, path: Path) -> None:
        path.unlink()

    def sync_folder(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            flush(descriptor, os.fsync)
        finally:
            os.close(descriptor)


def flush(descriptor: int, sync: Callable[[int], None]) -> None:
    """Return when a file or folder is durable: ``sync`` says so, but on macOS. Raises OSError.

    On macOS fsync leaves the bytes in the drive's own cache; F_FULLFSYNC does not. File systems that lack it refuse it.
    """
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        try:
            fcntl.fcntl(descriptor, full)
            return
        except OSError as fault:
            if fault.errno not in _NO_FULLFSYNC:
                raise
    sync(descriptor)


# ---------------------------------------------------------------------------------- composed of these


def make_folders(disk: Disk, path: Path) -> None:
    """``path`` and the parents it lacks, each of them durable in its own parent before the next is made."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another shard was faster
            disk.make_folder(folder)
        disk.sync_folder(folder.parent)


def hidden_name(path: Path, owner: str = "") -> Path:
    """Where a file is written before it gets its name: the same folder, out of the sight of every glob. ``owner``: one
    of several who may write it at the same time."""
    return path.with_name(f".{path.name}.{owner}.tmp" if owner else f".{path.name}.tmp")


def replace_file(disk: Disk, path: Path, content: bytes | memoryview, mode: int = PUBLIC, owner: str = "") -> None:
    """Write ``content`` under ``path``: after a crash there is the old file or the new one, whole."""
    disk.close(start_file(disk, path, content, mode, owner))


def start_file(disk: Disk, path: Path, content: bytes | memoryview, mode: int, owner: str = "") -> int:
    """As :func:`replace_file`, but the descriptor stays open, so that the file can grow."""
    make_folders(disk, path.parent)
    hidden = hidden_name(path, owner)
    descriptor = disk.create(hidden, mode)
    try:
        disk.write(descriptor, content)
        disk.sync(descriptor)
        disk.rename(hidden, path)
        disk.sync_folder(path.parent)
    except BaseException as fault:
        with suppress(OSError):
            disk.close(descriptor)
        if isinstance(fault, OSError):  # a full disk needs the room
            with suppress(OSError):
                disk.remove(hidden)
        raise
    return descriptor


class GrowingFile:
    """As :func:`replace_file`, for what is too large to be in memory: a file for a Parquet writer, under its hidden
    name until :meth:`publish`. Left without that, it is removed.

    A write that has failed fails all that follow: whoever swallows the first does not publish half a file.
    """

    closed = False  #: for whom takes it for one of Python's own files

    def __init__(self, disk: Disk, path: Path) -> None:
        self.size_bytes = 0
        self._disk = disk
        self._hidden = hidden_name(path)
        self._hash = sha256()
        self._gathered = bytearray()
        self._fault: BaseException | None = None
        make_folders(disk, path.parent)
        self._descriptor = disk.create(self._hidden, PUBLIC)

    @property
    def sha256(self) -> str:
        """Of all that was written so far."""
        return self._hash.hexdigest()

    def write(self, content: bytes | memoryview) -> int:
        self._check()
        self._hash.update(content)
        self._gathered += content
        self.size_bytes += len(content)
        if len(self._gathered) >= _GATHERED_BYTES:
            self._write_gathered()
        return len(content)

    def tell(self) -> int:
        return self.size_bytes

    def flush(self) -> None:
        """Nothing is durable before :meth:`publish`, and nobody looks at it."""

    def publish(self, path: Path) -> None:
        """Make it durable under a name in the same folder."""
        self._check()
        self._write_gathered()
        self._disk.sync(self._descriptor)
        self._disk.rename(self._hidden, path)
        self._disk.sync_folder(path.parent)

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _write_gathered(self) -> None:
        content, self._gathered = self._gathered, bytearray()
        try:
            self._disk.write(self._descriptor, memoryview(content))
        except BaseException as fault:
            self._fault = fault
            raise

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._disk.close(self._descriptor)
        if fault is not None and self._hidden.exists():  # a full disk needs the room
            with suppress(OSError):
                self._disk.remove(self._hidden)


@contextmanager
def disk_failures(doing: str) -> Iterator[None]:
    """Turn an OSError into the error that stops the run; it is never tried again (see EVIDENCE: failed fsyncs)."""
    try:
        yield
    except OSError as fault:
        raise disk_failed(doing, fault) from fault


def disk_failed(doing: str, fault: OSError) -> DiskFailed:
    reason = fault.strerror or str(fault)
    if fault.errno in _NO_RIGHT and isinstance(fault.filename, str | Path):
        right = missing_right(Path(fault.filename))
        return DiskFailed(f"{doing} failed: {right or f'{reason}: {fault.filename}'}. Nothing more was sent.")
    if fault.errno in EXHAUSTED:
        return DiskFailed(
            f"{doing} failed: {reason}. Nothing more was sent. {MORE_OPEN_FILES}, then run again to go on."
        )
    return DiskFailed(
        f"{doing} failed: {reason}. Nothing more was sent. Free space or repair the disk, then start the same run "
        f"again: every answer that had been written is used."
    )
