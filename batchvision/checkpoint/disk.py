"""The local file system as storage of an output.

A file appears under its name only when its bytes are durable. A name is durable after a sync of its folder.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from batchvision.checkpoint.rights import missing_right
from batchvision.checkpoint.storage import Hold, JournalFiles, StoreFault
from batchvision.descriptors import EXHAUSTED
from batchvision.errors import MORE_OPEN_FILES, DiskFailed

#: Mode of journals, which hold answers before they are checked.
PRIVATE = 0o600
#: Mode of every other file, before the umask.
PUBLIC = 0o666
_GROUP_READS = 0o040
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ELOOP)
_NO_RIGHT = (errno.EACCES, errno.EPERM)
#: Errors of file systems without F_FULLFSYNC (network drives, FAT).
_NO_FULLFSYNC = (errno.ENOTSUP, errno.ENOTTY, errno.EINVAL)
#: A :class:`GrowingFile` writes so many bytes at once.
_GATHERED_BYTES = 1024 * 1024


class WholeFiles:
    """A ``PartStore`` made of a local disk's ``JournalFiles`` operations."""

    def hold(self, output: Path) -> Hold | None:
        """Nothing to do: a file system that machines share has a lease (``lease.py``)."""
        return None

    def replicate(self) -> None:
        """Nothing to do."""

    def put(self: JournalFiles, path: Path, content: bytes | memoryview, owner: str = "") -> None:
        self.close(start_file(self, path, (content,), PUBLIC, owner))

    def note(self, path: Path, content: bytes) -> None:
        hidden = hidden_name(path)
        hidden.write_bytes(content)
        hidden.replace(path)

    def replace_if(self, path: Path, content: bytes, expected: bytes | None) -> bool:
        """Compare, then replace. On a local disk the caller holds a lock."""
        if self.get(path) != expected:
            return False
        self.put(path, content)  # type: ignore[misc]  # a mixin: its class has the operations
        return True

    def growing(self: JournalFiles, path: Path) -> GrowingFile:
        return GrowingFile(self, path)

    def get(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def list(self, folder: Path, pattern: str) -> list[Path]:
        return sorted(folder.glob(pattern))

    def delete(self: JournalFiles, paths: Iterable[Path]) -> None:
        folders: dict[Path, None] = {}
        for path in paths:
            self.remove(path)
            folders[path.parent] = None
        for folder in folders:
            self.sync_folder(folder)


class LocalDisk(WholeFiles):
    """The disk of this machine. ``group_readable``: the files' group may read private files too."""

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
    """Return when a file or folder is durable. Raises OSError.

    On macOS fsync leaves bytes in the drive's cache, and F_FULLFSYNC does not. Some file systems refuse it.
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


class OpenedFile(NamedTuple):
    """A path, and the device and inode of the file that this run has opened there.

    A folder may be removed or replaced meanwhile. The writer checks the lock and the journal by their full paths, after
    each sync and before the acknowledgement.
    """

    path: Path
    device: int
    inode: int

    @classmethod
    def at(cls, path: Path, descriptor: int) -> OpenedFile:
        found = os.fstat(descriptor)
        return cls(path, found.st_dev, found.st_ino)

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file. Raises OSError where the file system does not answer."""
        try:
            found = self.path.stat()
        except OSError as fault:
            if fault.errno in _GONE:
                return False
            raise
        return (found.st_dev, found.st_ino) == (self.device, self.inode)

    def check_in_place(self, output: Path) -> None:
        """Raise DiskFailed where the output was removed or replaced. Blocking."""
        with disk_failures(f"looking for {self.path}"):
            if not self.is_in_place():
                raise output_gone(output, self.path)


# ---------------------------------------------------------------------------------- composed operations


def make_folders(files: JournalFiles, path: Path) -> None:
    """Make ``path`` and its missing parents. Each is durable in its own parent before the next is made."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    for folder in reversed(missing):
        with suppress(FileExistsError):  # another shard was faster
            files.make_folder(folder)
        files.sync_folder(folder.parent)


def hidden_name(path: Path, owner: str = "") -> Path:
    """The name of a file that is not complete yet: in the same folder, and hidden from globs.

    ``owner`` names the writer where several may write the same file.
    """
    return path.with_name(f".{path.name}.{owner}.tmp" if owner else f".{path.name}.tmp")


def start_file(
    files: JournalFiles, path: Path, pieces: Iterable[bytes | memoryview], mode: int, owner: str = ""
) -> int:
    """Store a file whole and return its descriptor, so that it can grow.

    After a crash there is the old file or the new one.
    """
    make_folders(files, path.parent)
    hidden = hidden_name(path, owner)
    descriptor = files.create(hidden, mode)
    try:
        for piece in pieces:
            files.write(descriptor, piece)
        files.sync(descriptor)
        files.rename(hidden, path)
        files.sync_folder(path.parent)
    except BaseException as fault:
        with suppress(OSError):
            files.close(descriptor)
        if isinstance(fault, OSError):  # a full disk needs the space
            with suppress(OSError):
                files.remove(hidden)
        raise
    return descriptor


class GrowingFile:
    """A file for a Parquet writer. Without :meth:`publish` it is removed.

    A failed write fails every later call: pyarrow may swallow the first error, and no half file is published.
    """

    closed = False  #: part of Python's file interface

    def __init__(self, files: JournalFiles, path: Path) -> None:
        self.size_bytes = 0
        self._files = files
        self._hidden = hidden_name(path)
        self._hash = sha256()
        self._gathered = bytearray()
        self._fault: BaseException | None = None
        make_folders(files, path.parent)
        self._descriptor = files.create(self._hidden, PUBLIC)

    @property
    def sha256(self) -> str:
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
        """Do nothing: no byte is durable before :meth:`publish`."""

    def publish(self, path: Path) -> None:
        """Make the file durable under a name in the same folder."""
        self._check()
        self._write_gathered()
        self._files.sync(self._descriptor)
        self._files.rename(self._hidden, path)
        self._files.sync_folder(path.parent)

    def _check(self) -> None:
        if self._fault is not None:
            raise self._fault

    def _write_gathered(self) -> None:
        content, self._gathered = self._gathered, bytearray()
        try:
            self._files.write(self._descriptor, memoryview(content))
        except BaseException as fault:
            self._fault = fault
            raise

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._files.close(self._descriptor)
        if self._hidden.exists():
            with suppress(OSError):
                self._files.remove(self._hidden)


@contextmanager
def disk_failures(doing: str) -> Iterator[None]:
    """Turn an OSError into the error that stops the run."""
    try:
        yield
    except OSError as fault:
        raise disk_failed(doing, fault) from fault


def disk_failed(doing: str, fault: OSError) -> DiskFailed:
    if isinstance(fault, StoreFault):
        return DiskFailed(f"{doing} failed: {fault}")
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


def output_gone(output: Path, path: Path) -> DiskFailed:
    """The error for a removed or replaced lock or journal."""
    return DiskFailed(
        f"{output} was removed or replaced while the run went on: {path.name} is not the file that this run has "
        "opened. Nothing more was sent; answers that were in flight, or not yet in the tables, went with the folder. "
        "Put it back from a copy if there is one, then start the same run again."
    )
