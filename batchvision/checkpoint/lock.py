"""One run at a time on an output (and shard).

The kernel's flock on a file is the lock, so a stale file locks nothing. The file's content only names the holder for
messages. A forked child releases its copy at once. A spawned child gets no copy. A file system that several machines
share needs a lease too (``lease.py``).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from weakref import WeakSet

from batchvision.checkpoint.disk import PUBLIC, LocalDisk, OpenedFile, disk_failures, make_folders, output_gone
from batchvision.checkpoint.lease import LEASE_NAME, Lease, is_shared, lease_at_work
from batchvision.checkpoint.storage import Disk, Hold
from batchvision.errors import OutputHeld

_TRIES = 10  #: Locking is tried so often while the folder is being removed.
#: Errors of file systems without flock.
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
#: The folder inside the output for everything but tables, recipes and summaries.
STATE_FOLDER = ".batchvision"
LOCK_NAME = "lock"


class Holder(NamedTuple):
    """The process that holds an output, or held it last."""

    host: str
    pid: int
    boot_id: str

    @classmethod
    def this_process(cls) -> Holder:
        boot_id = ""
        with suppress(OSError):
            boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return cls(socket.gethostname(), os.getpid(), boot_id)

    @classmethod
    def written_in(cls, path: Path) -> Holder | None:
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        return None

    @property
    def has_ended(self) -> bool:
        """Whether the process has certainly ended: it ran on this machine and does not exist."""
        here = Holder.this_process()
        if self.host != here.host:
            return False
        if self.boot_id != here.boot_id:
            return True
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            return False
        return False


class OutputLock:
    """A held output (and shard): a flock, and a hold against other machines. A context manager."""

    def __init__(self, output: Path, shard: str, disk: Disk, descriptor: int, holds: Sequence[Hold] = ()) -> None:
        self.output = output
        self.shard = shard
        self.file = OpenedFile.at(lock_path(output, shard), descriptor)
        self.disk = disk  #: with which it was taken
        self._holds = holds
        self._descriptor: int | None = descriptor  #: the kernel's lock ends with it
        self._pid = os.getpid()
        _held.add(self)

    @classmethod
    def take(cls, output: Path, shard: str = "0of1", disk: Disk | None = None) -> OutputLock:
        """Take the lock. Raises OutputHeld at once, with the name of the holder."""
        path = lock_path(output, shard)
        for _ in range(_TRIES):
            lock = cls._take(output, shard, path, disk or LocalDisk())
            if lock.file.is_in_place():
                return lock
            lock.release()  # the folder was removed between opening the file and locking it
        raise output_gone(output, path)

    @classmethod
    def _take(cls, output: Path, shard: str, path: Path, disk: Disk) -> OutputLock:
        with disk_failures(f"making {path.parent}"):
            make_folders(disk, path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PUBLIC)
        holds = list[Hold]()
        try:
            with disk_failures(f"locking {path}"):
                shared = is_shared(path.parent)
                _lock_at_once(descriptor, path, output, shared=shared)
                _write_holder(descriptor)
                if shared:
                    lease = Lease.take(path.with_name(LEASE_NAME), Holder.this_process()._asdict())
                    holds.append(lease)
                    lease.beat()
            with disk_failures(f"opening {output}"):
                if (held := disk.hold(output)) is not None:
                    holds.append(held)
        except BaseException:
            for hold in holds:
                hold.release()
            os.close(descriptor)
            raise
        return cls(output, shard, disk, descriptor, holds)

    @property
    def folder(self) -> Path:
        """The folder of this shard's journal."""
        return self.output / STATE_FOLDER / self.shard

    @property
    def is_held(self) -> bool:
        """Whether this process holds the output: False in a forked child, and after a lease was lost."""
        return all(hold.is_held for hold in self._holds) and self._descriptor is not None and self._pid == os.getpid()

    def release(self) -> None:
        """Release the output. A second call does nothing. In a forked child the parent keeps its lock."""
        for hold in reversed(self._holds):
            hold.release()
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)  # LOCK_UN would free the parent's lock too

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_path(output: Path, shard: str) -> Path:
    return output / STATE_FOLDER / shard / LOCK_NAME


def holder_at_work(output: Path, shard: str) -> Holder | None:
    """Return the process that holds the output now.

    The kernel is asked only where that process may be alive, so that a query does not keep a run from starting.
    """
    holder = Holder.written_in(lock_path(output, shard))
    if holder is None or holder.has_ended:
        return None
    return holder if is_held(output, shard) else None


def is_held(output: Path, shard: str) -> bool:
    """Whether any process, this one included, holds the output (and shard) now, by flock or lease."""
    path = lock_path(output, shard)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as fault:
        if fault.errno not in NO_FLOCK:
            return True
    finally:
        os.close(descriptor)
    return lease_at_work(path.with_name(LEASE_NAME)) is not None


def _lock_at_once(descriptor: int, path: Path, output: Path, *, shared: bool = False) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        if shared and fault.errno in NO_FLOCK:
            return  # only the lease decides
        if not isinstance(fault, BlockingIOError):
            raise
        holder = Holder.written_in(path)
        process = f"process {holder.pid} on {holder.host}" if holder else "another process"
        raise OutputHeld(
            f"{output} is in use by {process}: nothing was sent. Wait until it has ended (`batchvision status "
            f"{output}` shows how far it is), or give this run another output.path."
        ) from None


def _write_holder(descriptor: int) -> None:
    """Name the holder for messages. Nothing depends on it, so it needs no fsync and may fail."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(Holder.this_process()._asdict()).encode() + b"\n", 0)


#: Locks of this process. Global, because a forked child must release the descriptors that it inherits.
_held: WeakSet[OutputLock] = WeakSet()


def _release_in_child() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_release_in_child)
