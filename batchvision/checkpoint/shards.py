"""Which shards of one output may run at the same time: those of one division, each once.

The rule: a shard's lock is taken, and another shard's journal recovered, only under one mutex of the output. So a lock
that is held while the mutex is free belongs to a run at work, and never to the recovery of a dead one.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from batchvision.checkpoint.disk import PUBLIC, LocalDisk, disk_failures, make_folders
from batchvision.checkpoint.lock import NO_FLOCK, STATE_FOLDER, Holder, OutputLock, is_held, lock_path
from batchvision.checkpoint.parts import FAILURES_TABLE, part_paths
from batchvision.checkpoint.storage import Disk
from batchvision.errors import JobInvalid, OutputHeld
from batchvision.records import Shard
from batchvision.wording import counted

MUTEX_NAME = "shards.lock"
DIVISION_NAME = "shards.json"


def lock_shard(output: Path, shard: Shard, disk: Disk | None = None) -> OutputLock:
    """Hold a shard. Raises OutputHeld where a run holds it, or a shard of another division."""
    with mutex(output, disk):
        lock = OutputLock.take(output, shard.name, disk)
        try:
            _refuse_other_divisions(output, shard)
        except BaseException:
            lock.release()
            raise
        return lock


def remember_division(lock: OutputLock, *, is_recut: bool) -> None:
    """Remember the number of shards of an output. ``is_recut``: consent to another number than before.

    The caller holds a shard, so no shard of another division is at work. Raises JobInvalid without consent, DiskFailed.
    An output of an earlier version that has several divisions remembers none.
    """
    path, own = lock.output / STATE_FOLDER / DIVISION_NAME, Shard.named(lock.shard)
    if path.exists():
        known: int | None = json.loads(path.read_bytes())["shards"]
    else:
        is_whole = {shard.of for shard in shards_of(lock.output)} - {own.of} == {1}
        known = 1 if is_whole else None
    if known is not None and known != own.of and not is_recut:
        before, now = counted(known, "shard"), counted(own.of, "shard")
        raise JobInvalid(
            f"{lock.output} is divided into {before}, and this run divides it into {now}: type --recut to go on with "
            f"{now}; answers stay, and open work moves to the shard that has its row. Or run it as before: "
            + (f"--shard I/{known}" if known > 1 else "without --shard")
        )
    if own.of != known and (own.of > 1 or known is not None):
        with disk_failures(f"writing {path}"):
            lock.disk.put(path, json.dumps({"shards": own.of}).encode() + b"\n", owner=lock.shard)


@contextmanager
def all_locked(output: Path, disk: Disk | None = None) -> Iterator[list[OutputLock]]:
    """Hold every shard of an output. Raises OutputHeld where a run is at work on any of them."""
    with ExitStack() as held:
        with mutex(output, disk):
            names = [shard.name for shard in shards_of(output)] or [Shard().name]
            locks = [held.enter_context(OutputLock.take(output, name, disk)) for name in names]
        yield locks


@contextmanager
def mutex(output: Path, disk: Disk | None = None) -> Iterator[None]:
    """One process at a time; the kernel lets go of it when that process dies. Waits while another recovers journals."""
    path = output / STATE_FOLDER / MUTEX_NAME
    with disk_failures(f"making {path.parent}"):
        make_folders(disk or LocalDisk(), path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PUBLIC)
    try:
        with disk_failures(f"locking {path}"):
            _wait_for(descriptor)
        yield
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as fault:
        if fault.errno not in NO_FLOCK:
            raise  # without flock the lease of each shard decides alone


def shards_of(output: Path) -> list[Shard]:
    """The shards that have a journal's folder, or failed rows, in the order of their names."""
    folders = {path.name for path in (output / STATE_FOLDER).glob("*of*") if path.is_dir()}
    failures = {path.stem.removeprefix("part-") for path in part_paths(output, FAILURES_TABLE)}
    return [shard for name in sorted(folders | failures) if (shard := _shard_named(name)) is not None]


def _shard_named(name: str) -> Shard | None:
    try:
        shard = Shard.named(name)
    except ValueError:
        return None
    return shard if shard.name == name else None


def _refuse_other_divisions(output: Path, shard: Shard) -> None:
    for other in shards_of(output):
        if other.of != shard.of and is_held(output, other.name):
            holder = Holder.written_in(lock_path(output, other.name))
            who = f"process {holder.pid} on {holder.host}" if holder else "another process"
            why = "both have rows in common" if shard.overlaps(other) else "they would not share caps and rates"
            beside = f", or start another shard I/{other.of} beside it" if other.of > 1 else ""
            raise OutputHeld(
                f"{output} is in use by {who} as shard {other}, and {shard} is of another division ({why}): nothing "
                f"was sent. Wait until it has ended{beside}."
            )
