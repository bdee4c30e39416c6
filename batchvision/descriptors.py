"""How many files this process may have open, and how many connections fit in there.

Rule: a process at its limit of open files is no fault of a row and no fault of the disk.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

#: Errors of a process, or a machine, that has too many files open.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
#: Files that are open beside the connections: images being read or downloaded, decoders' pipes, journal and parts.
SPARE_FILES = 96
#: Taken as open where the system does not tell.
_PROBABLY_OPEN = 32


def room_for_connections(wanted: int) -> int:
    """Raise the soft limit of open files so far that ``wanted`` connections fit, if the hard limit allows it.

    Returns how many of them fit. It may be 0.
    """
    needed = _open_files() + SPARE_FILES + wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_less(soft, needed):
        goal = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if not _is_less(soft, needed) else max(0, wanted - (needed - soft))


def _is_less(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed


def _open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder))  # noqa: PTH208 - it holds numbers, not files to work with
    return _PROBABLY_OPEN
