"""A lease on an output whose file system is shared by machines: where a flock may be this machine's alone.

The lease is a small file that its holder rewrites every 20 seconds, from a thread of its own. The rule: it is another's
as long as it is fresh *by the file server's clock*, the only one all machines share; when it has not been renewed for
three minutes, it is taken over. Who finds that it is no longer its own, or could not renew it in time (a machine that
slept, a server that was away), has lost it and sends nothing more.
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
#: Longer than servers are away when they fail over, and than a laptop's lid is closed by accident.
STALE_SECONDS = 180.0
#: Between taking over a stale lease and believing it: another may have had the same thought.
SETTLE_SECONDS = 2.0

#: Types of file system that several machines can mount at once.
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
#: FUSE says "fuse" or "fuse.<what>"; these alone are known to be of one machine.
LOCAL_FUSE = frozenset({"fuseblk", "fusectl", "fuse.portal", "fuse.gvfsd-fuse", "fuse.lxcfs", "fuse.fuse-overlayfs"})


def is_shared(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether ``path`` is on a file system that other machines may write to. Where nobody tells: no."""
    kind = _type_of(path.resolve(), mounts)
    return kind in SHARED or (kind.startswith("fuse") and kind not in LOCAL_FUSE)


def _type_of(path: Path, mounts: Path) -> str:
    """The type of the deepest mount that ``path`` is in; of several in one place, the last."""
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
    """A held lease. Used beside a flock, never instead of one: on one machine the flock has decided already."""

    def __init__(self, path: Path, holder: dict[str, Any], clock: Callable[[], float]) -> None:
        self._path = path
        self._holder = holder
        self._clock = clock
        self._token = secrets.token_hex(8)
        self._renewed_at = clock()
        self._is_lost = False
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
        """Take it, or raise OutputHeld at once. ``holder`` (host, pid, boot_id) is told to others. Raises OSError."""
        lease = cls(path, holder, clock or _time_awake_or_not)
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
        """For how much longer another's lease must be respected. Both times are the server's: of the lease, and of a
        file that is written just now."""
        probe = self._path.with_name(f".{LEASE_NAME}.{self._token}.tmp")
        try:
            _write(probe, {})
            age = probe.stat().st_mtime - self._path.stat().st_mtime
        except FileNotFoundError:
            return 0.0  # given back just now
        finally:
            probe.unlink(missing_ok=True)
        return STALE_SECONDS - age

    def _remove_stale(self, found: dict[str, Any]) -> None:
        """Of two who take over at once, only one removes what both have seen; a lease that is new by now stays."""
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
        """Always the same bytes, so that a beat can write over them in place; the time is the file's own."""
        return json.dumps({**self._holder, "token": self._token}).encode() + b"\n"

    # ---------------------------------------------------------------------------- keeping

    def beat(self) -> None:
        """Renew it from now on, until it is released or lost. The thread dies with the process."""
        threading.Thread(target=self._beat, name="batchvision-lease", daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT_SECONDS) and not self._is_lost:
            self.renew()

    def renew(self) -> None:
        """One beat: look whether it is still ours, and rewrite it. An error is no loss yet; time will tell."""
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

    def forget(self) -> None:
        """In a forked child: it is the parent's, and so is the thread, whose locks are not to be touched here."""
        self._is_lost = True

    def release(self) -> None:
        """Give it back."""
        self._released.set()
        if self._is_lost:
            return
        self._is_lost = True
        with suppress(OSError):
            if (_read(self._path) or {}).get("token") == self._token:
                self._path.unlink()


def lease_at_work(path: Path) -> dict[str, Any] | None:
    """Who holds the lease now, by this machine's clock: good enough for whoever only looks and must write nothing."""
    found = _read(path)
    with suppress(FileNotFoundError):
        if found and time.time() - path.stat().st_mtime < STALE_SECONDS:
            return found
    return None


def held(path: Path, holder: dict[str, Any], fresh_seconds: float) -> OutputHeld:
    who = f"process {holder.get('pid', '?')} on {holder.get('host', 'another machine')}"
    return OutputHeld(
        f"{path.parents[2]} is in use by {who}: nothing was sent. Wait until it has ended, or give this run another "
        f"output.path. If that machine is gone, its lease ({path}) ends in {max(1, round(fresh_seconds))} s."
    )


def _has_ended_here(found: dict[str, Any], holder: dict[str, Any]) -> bool:
    """Whether the lease is of a process of this machine that is no more; in a container that was started again, the
    process before us may have had our very number."""
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


def _time_awake_or_not() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_bytes(json.dumps(content).encode())


def _read(path: Path) -> dict[str, Any] | None:
    """What a lease says; {} for one that says nothing (it is being written), None where there is none."""
    try:
        found = json.loads(path.read_bytes() or b"{}")
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
