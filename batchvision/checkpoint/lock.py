"""One run at a time on an output (and shard): a flock that dies with the process that took it.

The rule: the lock is the kernel's, never the file's content, so a stale file holds nothing. Who holds it is written
inside only to be told. A child that was forked lets go of its copy at once; one that was spawned never gets it. On a
file system that other machines share, a lease stands beside it (``lease.py``).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from weakref import WeakSet

from batchvision.checkpoint.disk import PUBLIC, LocalDisk, disk_failures, make_folders
from batchvision.checkpoint.identity import Identity, output_gone
from batchvision.checkpoint.lease import LEASE_NAME, Lease, is_shared, lease_at_work
from batchvision.checkpoint.storage import JournalFiles
from batchvision.errors import OutputHeld

_LOOKS = 10  #: at a folder that somebody removes again and again
#: How a file system without flock says so.
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
#: Where all that is not a result lives, inside the output.
STATE_FOLDER = ".batchvision"
LOCK_NAME = "lock"


class Holder(NamedTuple):
    """The process that holds, or was the last to hold, an output."""

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
        """Whether it is certain that the process is no more: it was of this machine, and is not there."""
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
    """A held output (and shard). A context manager; :meth:`release` may be called twice."""

    def __init__(self, output: Path, shard: str, descriptor: int, lease: Lease | None = None) -> None:
        self.output = output
        self.shard = shard
        self._descriptor: int | None = descriptor
        self._lease = lease
        self._pid = os.getpid()
        self._identity = Identity.of(descriptor)
        _held.add(self)

    @classmethod
    def take(cls, output: Path, shard: str = "0of1", files: JournalFiles | None = None) -> OutputLock:
        """Take the lock, or raise OutputHeld at once with the name of who has it."""
        path = lock_path(output, shard)
        for _ in range(_LOOKS):
            lock = cls._take(output, shard, path, files or LocalDisk())
            if lock.is_in_place:
                return lock
            lock.release()  # the folder was removed between opening the file and locking it
        raise output_gone(output, path)

    @classmethod
    def _take(cls, output: Path, shard: str, path: Path, files: JournalFiles) -> OutputLock:
        with disk_failures(f"making {path.parent}"):
            make_folders(files, path.parent)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PUBLIC)
        lease: Lease | None = None
        try:
            with disk_failures(f"locking {path}"):
                shared = is_shared(path.parent)
                _lock_at_once(descriptor, path, output, shared=shared)
                _write_holder(descriptor)
                if shared:
                    lease = Lease.take(path.with_name(LEASE_NAME), Holder.this_process()._asdict())
                    lease.beat()
        except BaseException:
            os.close(descriptor)
            raise
        return cls(output, shard, descriptor, lease)

    @property
    def folder(self) -> Path:
        """Where this shard's journal lives."""
        return self.output / STATE_FOLDER / self.shard

    @property
    def is_held(self) -> bool:
        """Whether this process holds it: a forked child's copy of the object holds nothing, nor does a lease that could
        not be renewed in time."""
        is_own = self._descriptor is not None and self._pid == os.getpid()
        return is_own and (self._lease is None or self._lease.is_held)

    @property
    def is_in_place(self) -> bool:
        """Whether the lock's name still leads to the file that is locked. Raises OSError where nobody can tell."""
        return self._identity.is_at(lock_path(self.output, self.shard))

    def check_in_place(self) -> None:
        """Raises DiskFailed where the output was removed or replaced: what is there now is not this run's."""
        path = lock_path(self.output, self.shard)
        with disk_failures(f"looking for {path}"):
            if not self.is_in_place:
                raise output_gone(self.output, path)

    def release(self) -> None:
        """Closing lets go of the lock; LOCK_UN is never used, as in a child it would free the parent's."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        if self._lease is not None and self._pid != os.getpid():
            self._lease.forget()
        elif self._lease is not None:
            self._lease.release()
        os.close(descriptor)

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def lock_path(output: Path, shard: str) -> Path:
    return output / STATE_FOLDER / shard / LOCK_NAME


def holder_at_work(output: Path, shard: str) -> Holder | None:
    """The process that holds the output now. Asks the kernel only where that process may be alive, so that whoever
    looks does not stand in the way of a run that is about to start; where the kernel knows of nobody, a lease may."""
    holder = Holder.written_in(lock_path(output, shard))
    if holder is None or holder.has_ended:
        return None
    return holder if is_held(output, shard) else None


def is_held(output: Path, shard: str) -> bool:
    """Whether a process, this one included, holds the output (and shard) now: the kernel says so, or a lease."""
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
            return  # the lease alone decides
        if not isinstance(fault, BlockingIOError):
            raise
        holder = Holder.written_in(path)
        who = f"process {holder.pid} on {holder.host}" if holder else "another process"
        raise OutputHeld(
            f"{output} is in use by {who}: nothing was sent. Wait until it has ended (`batchvision status {output}` "
            f"shows how far it is), or give this run another output.path."
        ) from None


def _write_holder(descriptor: int) -> None:
    """Only to be told to others: nothing depends on it, so it needs no fsync and a failure is no matter."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(Holder.this_process()._asdict()).encode() + b"\n", 0)


_held: WeakSet[OutputLock] = WeakSet()


def _let_go_in_child() -> None:
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_let_go_in_child)
