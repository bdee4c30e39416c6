"""The measured process: its core, its open files, its CPU time and its memory."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path


def cores() -> tuple[int | None, int | None]:
    """One core for the client and one for the server, or None on other systems than Linux."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    own = sorted(os.sched_getaffinity(0))
    return (own[0], own[-1]) if len(own) > 1 else (None, None)


def at_home(core: int | None) -> None:
    """Stay on ``core``, with all threads still to come."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def many_files(wanted: int = 16_384) -> None:
    """Raise the soft limit of open files: thousands of connections are held."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def cpu_seconds() -> float:
    """User and system time of this process, its threads, and the children it has waited for."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def memory_mib(field: str = "VmHWM") -> float:
    """``VmHWM`` is the peak memory of this process, ``VmRSS`` its memory now. Systems without /proc give the peak.

    ``ru_maxrss`` starts at the parent's peak on Linux, so it is not used there.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024 if sys.platform.startswith("linux") else peak / 1024 / 1024
