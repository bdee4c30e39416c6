"""The limit of open files of this process, and the number of connections that it allows.

A process at this limit is neither a fault of a row nor a fault of the disk.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

#: Errors of a process, or of a machine, with too many open files.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE})
#: Open files beside the connections: images, pipes of decoding processes, journal and parts.
SPARE_FILES = 96
#: Assumed number of open files where the system does not list them.
_PROBABLY_OPEN = 32


def room_for_connections(wanted: int) -> int:
    """Raise the soft limit of open files for ``wanted`` connections, as far as the hard limit allows it.

    Returns the number of connections that fit, which may be 0.
    """
    needed = _open_files() + SPARE_FILES + wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _is_less(soft, needed):
        goal = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(OSError, ValueError):  # macOS allows less than its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (goal, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return wanted if not _is_less(soft, needed) else max(0, wanted - (needed - soft))


def _is_less(limit: int, needed: int) -> bool:
    return limit != resource.RLIM_INFINITY and limit < needed


def _open_files() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(folder))  # noqa: PTH208 - the entries are numbers
    return _PROBABLY_OPEN
