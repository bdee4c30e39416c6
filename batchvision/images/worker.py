"""A decoding process: reads images from its standard input, converts one at a time, answers on its standard output.

Rule: it trusts no image and needs nothing: no key in its environment, no file it may write, memory and time bounded by
the kernel. Whatever a decoder does to it costs one row.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import BinaryIO

from batchvision.errors import ImageTooLarge, ImageUnreadable
from batchvision.images.convert import NeedsRoom, convert
from batchvision.images.parcels import READY, TASK_BYTES, Ending, Reply, Task, pack_reply, unpack_task

#: What one image may take while others are decoded beside it, and while it is alone.
SHARED_BYTES = 256 * 1024 * 1024
ALONE_BYTES = 512 * 1024 * 1024
#: Room kept free when the need of an image is estimated: what the estimate does not see.
SPARE_BYTES = 32 * 1024 * 1024
#: The process ends itself this long after it was given an image: no hung decoder outlives a killed run.
LAST_SECONDS = 120.0
_NICENESS = 5  # requests and the journal come first


def main() -> None:
    """Serve until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the run decides when we end: it closes our input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a decoder prints is no answer
    os.nice(_NICENESS)
    bound = _Bound()
    _say(answers, READY)
    while len(raw := sys.stdin.buffer.read(TASK_BYTES)) == TASK_BYTES:
        task = unpack_task(raw)
        signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)  # SIGALRM's default: the end
        bound.set(_room(task))
        reply, content = _serve(task, sys.stdin.buffer)
        _say(answers, pack_reply(reply), content)
        signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(0)


def _room(task: Task) -> int:
    return ALONE_BYTES if task.is_alone else SHARED_BYTES


class _Bound:
    """The kernel's limit on this process's memory, over what it held when it began."""

    def __init__(self) -> None:
        import resource

        self._resource = resource
        self._base = _bytes_held()
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            resource.setrlimit(kind, (0, 0))

    def set(self, room_bytes: int) -> None:
        kinds = self._resource
        # mapped memory that is only reserved (thread arenas) counts as address space, not as data
        for kind, spare in ((kinds.RLIMIT_DATA, 0), (kinds.RLIMIT_AS, SHARED_BYTES)):
            hard = kinds.getrlimit(kind)[1]
            wanted = self._base + room_bytes + spare
            if hard != kinds.RLIM_INFINITY:
                wanted = min(wanted, hard)
            try:
                kinds.setrlimit(kind, (wanted, hard))
            except (ValueError, OSError):  # a system that knows no such limit
                continue


def _bytes_held() -> int:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return 128 * 1024 * 1024
    return int(pages[0]) * os.sysconf("SC_PAGE_SIZE")


def _serve(task: Task, given: BinaryIO) -> tuple[Reply, bytes]:
    try:
        content = given.read(task.length)
        ready = convert(content, task.header, task.preparation, _room(task) - SPARE_BYTES - len(content))
    except NeedsRoom as error:
        return _words(Ending.TOO_LARGE if task.is_alone else Ending.NEEDS_ROOM, error)
    except ImageTooLarge as error:
        return _words(Ending.TOO_LARGE, error)
    except MemoryError:
        return _words(Ending.TOO_LARGE, MemoryError("the image does not fit into memory when decoded"))
    except ImageUnreadable as error:
        return _words(Ending.UNREADABLE, error)
    return Reply(Ending.CONVERTED, ready.width, ready.height, len(ready.content)), ready.content


def _words(ending: Ending, error: Exception) -> tuple[Reply, bytes]:
    words = str(error)[:2000].encode("utf-8", "replace")
    return Reply(ending, 0, 0, len(words)), words


def _say(answers: BinaryIO, *parts: bytes) -> None:
    for part in parts:
        answers.write(part)
    answers.flush()
