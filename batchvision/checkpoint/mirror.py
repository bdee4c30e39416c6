"""The disk of an output in an object store: each change is made to the local copy, and then to the store.

At each moment the store holds a state that the local copy had. So recovery from the store is recovery after a power
cut. Three rules keep it true. Bytes of the journal go to the store before any later change of another file. A segment
is removed only after the ``open.log`` that no longer needs it is in the store. Only the holder of the lock writes.

Bytes of the journal that are durable here reach the store within ``sync_seconds``. Where the store is slower, the next
group of records waits. After a failure that lasts, the run ends as with a failing disk. The copy keeps every answer.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.journal import is_segment
from batchvision.checkpoint.local_copy import LocalCopy, StoreListing, is_mirrored, segment_key
from batchvision.checkpoint.object_lock import FoundLock, ObjectLock, held, wait_for_expiry
from batchvision.checkpoint.objects import ListedObject, ObjectChanged, ObjectFolder, Version
from batchvision.checkpoint.open_log import OPEN_LOG_NAME
from batchvision.checkpoint.parts import FAILURES_TABLE
from batchvision.checkpoint.storage import StoreFault
from batchvision.errors import OutputHeld

log = logging.getLogger(__name__)

#: The journal goes to the store when its oldest new byte has this share of ``sync_seconds``.
_SYNC_SHARE = 0.5
#: Files and folders in the order in which a run writes them. The index and the summaries come last.
_ORDER = ("columns.json", "recipes", "results", "attempts", FAILURES_TABLE, OPEN_LOG_NAME)


@dataclass(slots=True)
class _Tail:
    """A segment: bytes that are durable here, bytes in the store, and the segment's objects."""

    synced_bytes: int = 0
    stored_bytes: int = 0
    keys: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, key: str, pieces: Sequence[ListedObject]) -> _Tail:
        """The segment ``key`` as the store has it."""
        stored_bytes = 0
        for piece in pieces:
            if piece.key != segment_key(key, stored_bytes):
                break
            stored_bytes += piece.size_bytes
        return cls(stored_bytes, stored_bytes, [piece.key for piece in pieces])


class MirroredDisk(LocalDisk):
    """Owns the objects of one output while :meth:`hold` lasts. Before it, changes are local."""

    def __init__(
        self, objects: ObjectFolder, copy: LocalCopy, sync_seconds: float, *, group_readable: bool = False
    ) -> None:
        super().__init__(group_readable=group_readable)
        self._objects = objects
        self._copy = copy
        self._sync_seconds = sync_seconds
        self._lock: ObjectLock | None = None
        self._fault: StoreFault | None = None
        self._is_reported = False  #: the fault was raised to the run
        self._versions: dict[str, Version] = {}  # of the whole files in the store
        self._paths: dict[int, Path] = {}  # of open descriptors
        self._tails: dict[Path, _Tail] = {}
        self._putting = threading.RLock()  # the journal's bytes go to the store in order
        self._changed = threading.Condition()
        self._oldest_at: float | None = None  #: since when a byte of the journal is not in the store
        self._is_ended = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._sync_beside, name="batchvision-mirror", daemon=True)

    # ---------------------------------------------------------------------------- holding

    def hold(self, output: Path) -> MirroredDisk:
        """Take the lock. Then bring the copy up to date, or the store where the copy is ahead.

        The copy is ahead if no other process has held the lock since. Raises OutputHeld, OSError, CheckpointDamaged.
        """
        copy, token = self._copy, secrets.token_hex(8)
        tokens, found = copy.tokens, FoundLock.of(self._objects)
        if found is not None and not found.content.is_released and not _has_ended_here(found, tokens):
            found = wait_for_expiry(self._objects, found)
        listing = StoreListing.of(self._objects)
        is_ahead = listing.is_empty if found is None else found.content.token in tokens
        before = [] if found is None else [found.content.token]
        copy.set_tokens(*([*before, token] if is_ahead else []))
        self._lock = ObjectLock.take(self._objects, found, token, self._sync_seconds)
        self._objects.check_write = self._check_lock
        try:
            listing = StoreListing.of(self._objects)
            copy.open_record()
            while not is_ahead and not copy.fetch(self._objects, listing):
                listing = StoreListing.of(self._objects)  # a late write of an earlier holder has ended
            self._begin(listing)
            copy.set_tokens(token)
        except BaseException:
            self.release(releases=False)
            raise
        if found is not None and not found.content.is_released and not is_ahead:
            _report_lost(self._objects, found, listing)
        self._thread.start()
        return self

    def _begin(self, listing: StoreListing) -> None:
        """Put the files of the copy that differ, in the order in which a run writes them. Then delete the rest."""
        self._versions = {key: each.version for key, each in listing.files.items()}
        for key, pieces in listing.segments.items():
            self._tails[self._copy.path(key)] = _Tail.of(key, pieces)
        paths = {self._copy.key(path): path for path in self._copy.files()}
        for path in filter(is_segment, paths.values()):
            self._tails.setdefault(path, _Tail()).synced_bytes = path.stat().st_size
        self.replicate()
        for key in sorted(paths, key=_written_after):
            known = listing.files.get(key)
            if not is_segment(paths[key]) and (known is None or not self._copy.holds(known)):
                self._put(paths[key])
        for key in sorted(listing.files.keys() - paths.keys()):
            self._delete([key])
            del self._versions[key]
        for key in sorted(listing.segments.keys() - paths.keys()):
            self._delete(self._tails.pop(self._copy.path(key)).keys)

    @property
    def is_held(self) -> bool:
        return self._lock is not None and self._lock.is_held

    def release(self, *, releases: bool = True) -> None:
        """Put the rest of the journal, and give the lock back. After a fault of the store the lock expires instead."""
        if self._pid != os.getpid():
            return  # a forked child: the parent keeps the lock
        with suppress(StoreFault, OutputHeld):
            self.replicate()
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        if self._lock is not None:
            self._lock.end(releases=releases and self._fault is None)
        self._copy.close()

    # ---------------------------------------------------------------------------- operations of the disk

    def create(self, path: Path, mode: int) -> int:
        descriptor = super().create(path, mode)
        self._paths[descriptor] = path
        return descriptor

    def close(self, descriptor: int) -> None:
        self._paths.pop(descriptor, None)
        super().close(descriptor)

    def sync(self, descriptor: int) -> None:
        super().sync(descriptor)
        path = self._paths.get(descriptor)
        if path is None or not is_mirrored(path):
            return
        if is_segment(path):
            self._note_synced(path, os.fstat(descriptor).st_size)
        else:
            self._change(partial(self._put, path))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self._paths.update({descriptor: new for descriptor, path in self._paths.copy().items() if path == old})
        if not is_mirrored(new):
            return
        self.sync_folder(new.parent)  # the store may not be ahead of the copy
        if is_segment(new):
            self._note_synced(new, new.stat().st_size)
        else:
            self._change(partial(self._put, new))

    def remove(self, path: Path) -> None:
        if self._fault is not None and is_segment(path):
            return  # the next start puts it, before the files that were made of it, and removes it
        with self._putting:  # which reads segments
            super().remove(path)
            tail = self._tails.pop(path, None)
        key = self._copy.key(path)
        if tail is not None:
            self._change(partial(self._delete, tail.keys))
        elif self._versions.pop(key, None) is not None:
            self._change(partial(self._delete, [key]))

    # ---------------------------------------------------------------------------- the store

    def replicate(self) -> None:
        """Put the durable bytes of the journal. Raises StoreFault, OutputHeld."""
        with self._putting:
            began = time.monotonic()
            self._check_lock()
            if self._fault is not None:
                raise self._fault
            try:
                for path, tail in sorted(self._tails.copy().items(), key=lambda each: each[0]):
                    self._put_tail(path, tail)
            except OSError as fault:
                raise self._failed(fault) from fault
            with self._changed:
                is_behind = any(tail.stored_bytes < tail.synced_bytes for tail in self._tails.copy().values())
                self._oldest_at = began if is_behind else None

    def _put_tail(self, path: Path, tail: _Tail) -> None:
        start, stop = tail.stored_bytes, tail.synced_bytes
        if start >= stop:
            return
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(stop - start)
        key = segment_key(self._copy.key(path), start)
        tail.keys.append(key)
        self._store(key, content, None)
        tail.stored_bytes = stop

    def _put(self, path: Path) -> None:
        """Put a file whole, after the journal."""
        key = self._copy.key(path)
        self.replicate()
        self._versions[key] = self._store(key, path.read_bytes(), self._versions.get(key))
        self._copy.note(key, self._versions[key])

    def _store(self, key: str, content: bytes, expected: Version | None) -> Version:
        try:
            return self._objects.put(key, content, expected)
        except ObjectChanged:
            raise StoreFault(
                f"{self._objects.url}/{key} is not what this output's runs wrote: another program has changed it"
            ) from None

    def _delete(self, keys: Sequence[str]) -> None:
        """The last object first: the rest of a segment is still its beginning."""
        self._objects.delete(reversed(keys))

    def _change(self, change: Callable[[], None]) -> None:
        """Change the store. Its first fault is raised once. Later changes stay in the copy. Raises OutputHeld."""
        if self._lock is None or self._is_reported:
            return
        try:
            if self._fault is None:
                self._check_lock()
                change()
        except OSError as fault:
            self._failed(fault)
        if self._fault is not None:
            with self._changed:
                is_news, self._is_reported = not self._is_reported, True
            if is_news:
                raise self._fault

    def _check_lock(self) -> None:
        if self._lock is not None and not self._lock.is_held:
            raise held(self._objects, None)

    def _failed(self, fault: OSError) -> StoreFault:
        """Note the first fault. Returns it with the next step."""
        with self._changed:
            if self._fault is None:
                self._fault = StoreFault(
                    f"{fault}. Nothing more was sent. Every answer is in the local copy, {self._copy.output}: start "
                    "the same run again on this machine when the store takes writes, and it puts them there"
                )
            return self._fault

    # ---------------------------------------------------------------------------- the open segment

    def _note_synced(self, path: Path, synced_bytes: int) -> None:
        """Note durable bytes of a segment. If bytes have waited for ``sync_seconds``, put them before returning."""
        with self._changed:
            self._tails.setdefault(path, _Tail()).synced_bytes = synced_bytes
            if self._oldest_at is None:
                self._oldest_at = time.monotonic()
                self._changed.notify_all()
            is_late = time.monotonic() - self._oldest_at > self._sync_seconds
        if is_late or self._fault is not None:
            self._change(self.replicate)

    def _sync_beside(self) -> None:
        while self._wait_for_bytes():
            with suppress(StoreFault, OutputHeld):  # the next write of the run raises it
                self.replicate()

    def _wait_for_bytes(self) -> bool:
        """Return when bytes have waited long enough. False: it is over."""
        with self._changed:
            while not self._is_ended and self._fault is None and self.is_held:
                oldest_at = self._oldest_at
                left = None if oldest_at is None else oldest_at + _SYNC_SHARE * self._sync_seconds - time.monotonic()
                if left is not None and left <= 0:
                    return True
                self._changed.wait(left)
        return False


def _has_ended_here(found: FoundLock, tokens: list[str]) -> bool:
    """Whether the holder worked on this copy. Its process has ended, because the local lock is ours."""
    return found.content.token in tokens and found.content.host == socket.gethostname()


def _written_after(key: str) -> tuple[int, str]:
    """The place of a file in the order in which a run writes: each needs those before it."""
    names = key.split("/")
    return next((place for place, name in enumerate(_ORDER) if name in names), len(_ORDER)), key


def _report_lost(objects: ObjectFolder, found: FoundLock, listing: StoreListing) -> None:
    """State the time for which answers may be bought again."""
    written = [each.modified_at for pieces in listing.segments.values() for each in pieces]
    last = f"{max(written):%Y-%m-%d %H:%M:%S} UTC" if written else "no journal"
    log.warning(
        "the last run on %s, process %d on %s, did not end here. The store has its records until %s, and its lock was "
        "renewed last at %s UTC. Answers of at most %g s after these records are not known here: their rows may be "
        "bought again",
        objects.url,
        found.content.pid,
        found.content.host,
        last,
        f"{found.renewed_at:%Y-%m-%d %H:%M:%S}",
        found.content.sync_seconds,
    )
