"""A lease on an output in a file system that several machines share. There a flock may hold on one machine only.

The lease is a small file. Its holder rewrites it every 20 seconds from a thread. It belongs to its holder while it is
fresh by the file server's clock, which is the same for all machines. After three minutes without a renewal another
process may take it over. A holder that could not renew it in time has lost it, and sends nothing more.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from batchvision.checkpoint.disk import PUBLIC
from batchvision.errors import OutputHeld

LEASE_NAME = "lease"
BEAT_SECONDS = 20.0
#: A lease that was not renewed for so long may be taken over. A file server's failover is shorter.
STALE_SECONDS = 180.0
#: Wait between a takeover and its confirmation, in case two processes take over at the same time.
SETTLE_SECONDS = 2.0

#: File system types that several machines can mount at once.
SHARED = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "beegfs",
        "gpfs",
        "ocfs2",
        "gfs2",
    }
)
#: FUSE types ("fuse.<name>") that belong to one machine.
LOCAL_FUSE = frozenset({"fuseblk", "fusectl", "fuse.portal", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.fuse-overlayfs"})


def is_shared(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether other machines may write to the file system of ``path``. False where the mounts are unknown."""
    return shared_type(path, mounts) is not None


def shared_type(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system of ``path`` if other machines may write to it."""
    kind = _type_of(path.resolve(), mounts)
    return kind if kind in SHARED or (kind.startswith("fuse") and kind not in LOCAL_FUSE) else None


def _type_of(path: Path, mounts: Path) -> str:
    """The type of the deepest mount above ``path``. The last of several mounts in one place counts."""
    best, kind = -1, ""
    with suppress(OSError):
        for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            before, _, after = line.partition(" - ")
            place = Path(_unescaped(before.split(" ")[4]))
            if path.is_relative_to(place) and len(place.parts) >= best:
                best, kind = len(place.parts), after.split(" ")[0]
    return kind


def _unescaped(text: str) -> str:
    for code, sign in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, sign)
    return text


class Lease:
    """A held lease, used beside a flock."""

    def __init__(self, path: Path, holder: dict[str, Any], clock: Callable[[], float]) -> None:
        self._path = path
        self._holder = holder
        self._clock = clock
        self._token = secrets.token_hex(8)
        self._renewed_at = clock()
        self._is_lost = False
        self._pid = os.getpid()
        self._released = threading.Event()

    @classmethod
    def take(
        cls,
        path: Path,
        holder: dict[str, Any],
        *,
        clock: Callable[[], float] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Lease:
        """Take the lease. Raises OutputHeld at once, OSError. ``holder`` (host, pid, boot_id) is written into it."""
        lease = cls(path, holder, clock or time_with_sleep)
        found = _read(path)
        if found is not None:
            if not _has_ended_here(found, holder) and (fresh := lease._fresh_seconds()) > 0:
                raise held(path, found, fresh)
            lease._remove_stale(found)
        lease._create()
        if found is not None:
            sleep(SETTLE_SECONDS)
            lease.renew()
            if not lease.is_held:
                raise held(path, _read(path) or {}, STALE_SECONDS)
        return lease

    @property
    def is_held(self) -> bool:
        return not self._is_lost and self._clock() - self._renewed_at < STALE_SECONDS - BEAT_SECONDS

    # ---------------------------------------------------------------------------- taking

    def _fresh_seconds(self) -> float:
        """Return how long another holder's lease stays valid, by the server's time of a file written now."""
        probe = self._path.with_name(f".{LEASE_NAME}.{self._token}.tmp")
        try:
            _write(probe, {})
            age = probe.stat().st_mtime - self._path.stat().st_mtime
        except FileNotFoundError:
            return 0.0  # it was given back meanwhile
        finally:
            probe.unlink(missing_ok=True)
        return STALE_SECONDS - age

    def _remove_stale(self, found: dict[str, Any]) -> None:
        """Remove a stale lease. Of two processes only one removes it, and a lease that is new by then stays."""
        aside = self._path.with_name(f".{LEASE_NAME}.{self._token}.tmp")
        try:
            self._path.rename(aside)
        except FileNotFoundError:
            return
        removed = _read(aside)
        if removed is not None and removed.get("token") != found.get("token"):
            with suppress(FileExistsError):
                os.link(aside, self._path)
            aside.unlink()
            raise held(self._path, removed, STALE_SECONDS)
        aside.unlink()

    def _create(self) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PUBLIC)
        except FileExistsError:
            raise held(self._path, _read(self._path) or {}, STALE_SECONDS) from None
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._content())
        self._renewed_at = self._clock()

    def _content(self) -> bytes:
        """The same bytes each time, so that a renewal overwrites them in place. The time is the file's own."""
        return json.dumps({**self._holder, "token": self._token}).encode() + b"\n"

    # ---------------------------------------------------------------------------- keeping

    def beat(self) -> None:
        """Renew the lease from now on, until it is released or lost. The thread ends with the process."""
        threading.Thread(target=self._beat, name="batchvision-lease", daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS) and not self._is_lost:
            self.renew()

    def renew(self) -> None:
        """Check that the lease is still ours, and rewrite it. An error loses it only when it lasts."""
        at = self._clock()
        with suppress(OSError):
            found = _read(self._path)
            if found is None or found.get("token") != self._token:
                self._is_lost = True
                return
            if at - self._renewed_at < STALE_SECONDS - BEAT_SECONDS:
                with self._path.open("r+b") as file:
                    file.write(self._content())
                self._renewed_at = at

    def release(self) -> None:
        """Give the lease back. In a forked child the parent keeps it, and its thread's locks stay untouched."""
        if self._pid != os.getpid():
            self._is_lost = True
            return
        self._released.set()
        if self._is_lost:
            return
        self._is_lost = True
        with suppress(OSError):
            if (_read(self._path) or {}).get("token") == self._token:
                self._path.unlink()


def lease_at_work(path: Path) -> dict[str, Any] | None:
    """Return the holder of the lease by this machine's clock: a query writes no file for the server's time."""
    found = _read(path)
    with suppress(FileNotFoundError):
        if found and time.time() - path.stat().st_mtime < STALE_SECONDS:
            return found
    return None


def held(path: Path, holder: dict[str, Any], fresh_seconds: float) -> OutputHeld:
    process = f"process {holder.get('pid', '?')} on {holder.get('host', 'another machine')}"
    return OutputHeld(
        f"{path.parents[2]} is in use by {process}: nothing was sent. Wait until it has ended, or give this run "
        f"another output.path. If that machine is gone, its lease ({path}) ends in {max(1, round(fresh_seconds))} s."
    )


def _has_ended_here(found: dict[str, Any], holder: dict[str, Any]) -> bool:
    """Whether the lease's process ran on this machine and has ended.

    In a restarted container the earlier process may have had this process's number.
    """
    if not holder["boot_id"] or found.get("boot_id") != holder["boot_id"] or not isinstance(found.get("pid"), int):
        return False
    if found["pid"] == holder["pid"]:
        return True
    try:
        os.kill(found["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def time_with_sleep() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(json.dumps(content).encode())


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a lease, {} while it is being written, ``None`` without a lease."""
    try:
        found = json.loads(path.read_bytes() or b"{}")
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
