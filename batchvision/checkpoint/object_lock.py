"""The lock of an output in an object store: one object, replaced by compare-and-swap, with an expiry.

Its holder replaces it every ``BEAT_SECONDS`` from a thread. Another process takes it over when its version has not
changed for ``EXPIRY_SECONDS`` of that process's own waiting time. So the clocks of two machines are never compared. A
holder stops ``SURE_SECONDS`` after the start of its last renewal, which is earlier.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from batchvision.checkpoint.lease import time_with_sleep
from batchvision.checkpoint.lock import Holder
from batchvision.checkpoint.objects import ObjectChanged, ObjectFolder, Version
from batchvision.checkpoint.storage import StoreFault
from batchvision.errors import OutputHeld

log = logging.getLogger(__name__)

LOCK_KEY = ".batchvision/lock.json"
BEAT_SECONDS = 10.0
SURE_SECONDS = 75.0
EXPIRY_SECONDS = 150.0
#: A waiting process looks at the lock so often.
LOOK_SECONDS = 1.0


class LockContent(NamedTuple):
    """``token``: of one holder. ``beat`` makes each renewal another version."""

    token: str
    host: str
    pid: int
    sync_seconds: float
    is_released: bool = False
    beat: int = 0

    def written(self) -> bytes:
        return json.dumps(self._asdict()).encode() + b"\n"

    @classmethod
    def read(cls, content: bytes) -> LockContent:
        """Raises StoreFault where the object holds anything else."""
        try:
            return cls(**json.loads(content))
        except (ValueError, TypeError) as fault:
            raise StoreFault(f"the object {LOCK_KEY} is not a lock of batchvision") from fault


class FoundLock(NamedTuple):
    """The lock as a process finds it."""

    content: LockContent
    version: Version
    renewed_at: datetime  #: by the store's clock

    @classmethod
    def of(cls, objects: ObjectFolder) -> FoundLock | None:
        found = objects.get(LOCK_KEY)
        return None if found is None else cls(LockContent.read(found.content), found.version, found.modified_at)


class ObjectLock:
    """A held lock. Raises StoreFault, OutputHeld."""

    def __init__(self, objects: ObjectFolder, content: LockContent, version: Version | None) -> None:
        self.token = content.token
        self._objects = objects
        self._content = content
        self._is_lost = False
        self._pid = os.getpid()
        self._ended = threading.Event()
        self._renewed_at = time_with_sleep()
        self._version = self._put(version)
        self._thread = threading.Thread(target=self._beat, name="batchvision-lock", daemon=True)

    @classmethod
    def take(cls, objects: ObjectFolder, found: FoundLock | None, token: str, sync_seconds: float) -> ObjectLock:
        """Replace the lock ``found``, which is free: released, expired, or of a process of this machine that has ended.

        Raises OutputHeld where another process was faster.
        """
        holder = Holder.this_process()
        try:
            lock = cls(
                objects,
                LockContent(token, holder.host, holder.pid, sync_seconds),
                None if found is None else found.version,
            )
        except ObjectChanged:
            raise held(objects, FoundLock.of(objects)) from None
        lock._thread.start()
        return lock

    @property
    def is_held(self) -> bool:
        if self._is_lost or self._pid != os.getpid():
            return False
        return time_with_sleep() - self._renewed_at < SURE_SECONDS

    def _put(self, expected: Version | None) -> Version:
        at = time_with_sleep()
        version = self._objects.put(LOCK_KEY, self._content.written(), expected)
        self._renewed_at = at
        return version

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS) and not self._is_lost:
            self.renew()

    def renew(self) -> None:
        """Replace the lock by its next version. A store that is away loses the lock only when that lasts."""
        if time_with_sleep() - self._renewed_at >= SURE_SECONDS:
            self._is_lost = True
            return
        self._content = self._content._replace(beat=self._content.beat + 1)
        try:
            self._version = self._put(self._version)
        except (ObjectChanged, OutputHeld):
            self._is_lost = True
        except StoreFault as fault:
            log.warning("the lock was not renewed: %s", fault)

    def end(self, *, releases: bool) -> None:
        """Stop renewing. ``releases``: the next process need not wait for the expiry."""
        self._ended.set()
        self._thread.join()
        if releases and self.is_held:
            self._content = self._content._replace(is_released=True)
            with suppress(StoreFault, ObjectChanged, OutputHeld):
                self._put(self._version)
        self._is_lost = True


def wait_for_expiry(objects: ObjectFolder, found: FoundLock) -> FoundLock | None:
    """Return the lock when it is free. Raises OutputHeld as soon as its holder renews it."""
    log.warning(
        "%s is locked by %s. Waiting for up to %g s to see whether it is at work",
        objects.url,
        _named(found),
        EXPIRY_SECONDS,
    )
    since = time_with_sleep()
    while time_with_sleep() - since < EXPIRY_SECONDS:
        time.sleep(LOOK_SECONDS)
        now = FoundLock.of(objects)
        if now is None or now.content.is_released:
            return now
        if now.version != found.version:
            raise held(objects, now)
    return found


def held(objects: ObjectFolder, found: FoundLock | None) -> OutputHeld:
    return OutputHeld(
        f"{objects.url} is in use by {_named(found)}: nothing was sent. Wait until it has ended, or give this run "
        f"another output.path. If that machine is gone, its lock ends {EXPIRY_SECONDS:g} s after its last renewal."
    )


def _named(found: FoundLock | None) -> str:
    return "another process" if found is None else f"process {found.content.pid} on {found.content.host}"
