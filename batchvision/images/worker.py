"""A decoding process: read images from standard input, convert one at a time, answer on standard output.

The process has no key in its environment and may write no file. The kernel bounds its memory and time. A decoder that
crashes costs one row. Memory that decoders keep does not count against later images.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import AvifImagePlugin

from batchvision.errors import ImageTooLarge, ImageUnreadable
from batchvision.images.convert import NeedsMemory, convert, thumbnail
from batchvision.images.decoder_messages import (
    READY,
    TASK_BYTES,
    DecoderEnding,
    DecoderReply,
    DecoderTask,
    pack_reply,
    unpack_task,
)
from batchvision.images.formats import ImageFormat

#: Memory of one image beside other images, and alone.
SHARED_BYTES = 256 * 1024 * 1024
ALONE_BYTES = 512 * 1024 * 1024
#: Memory that the estimate of an image does not cover.
SPARE_BYTES = 32 * 1024 * 1024
#: A process is replaced after its answer when decoders have kept more memory than this.
KEPT_BYTES = 128 * 1024 * 1024
#: The process ends itself this long after it was given an image: no hung decoder outlives a killed run.
LAST_SECONDS = 120.0
_NICENESS = 5  # requests and the journal come first


def main() -> None:
    """Serve until the input ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the run ends this process by closing its input
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of a decoder must not mix with the answers
    os.nice(_NICENESS)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # the stacks of a decoder's threads would count as memory
    bound = _Bound()
    _say(answers, READY)
    while len(raw := sys.stdin.buffer.read(TASK_BYTES)) == TASK_BYTES:
        task = unpack_task(raw)
        signal.setitimer(signal.ITIMER_REAL, LAST_SECONDS)  # SIGALRM's default: the end
        if task.header.format is ImageFormat.HEIC:
            _load_heic()
        bound.set(_memory_for(task))
        reply, content = _serve(task, sys.stdin.buffer)
        _say(answers, pack_reply(reply._replace(is_last=bound.is_used_up)), content)
        signal.setitimer(signal.ITIMER_REAL, 0)
    os._exit(0)


def _memory_for(task: DecoderTask) -> int:
    return ALONE_BYTES if task.is_alone else SHARED_BYTES


def _load_heic() -> None:
    """Load the decoder of the extra before the memory is bounded: its code does not count as memory of an image."""
    with suppress(ImportError):
        import pillow_heif.options

        pillow_heif.options.DECODE_THREADS = 1


class _Held(NamedTuple):
    """Memory of this process in bytes: mapped, and its writable part ``data``."""

    mapped: int
    data: int


class _Bound:
    """The kernel's limit on the memory that each image adds to this process."""

    def __init__(self) -> None:
        import resource

        self._resource = resource
        self._first = _held()
        for kind in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            resource.setrlimit(kind, (0, 0))

    @property
    def is_used_up(self) -> bool:
        """Whether decoders have kept so much memory that the process must be replaced."""
        return _held().data - self._first.data > KEPT_BYTES

    def set(self, memory_bytes: int) -> None:
        kinds, held = self._resource, _held()
        # mapped memory that is only reserved (thread arenas) counts as address space, not as data
        for kind, wanted in (
            (kinds.RLIMIT_DATA, held.data + memory_bytes + SPARE_BYTES),
            (kinds.RLIMIT_AS, held.mapped + memory_bytes + SHARED_BYTES),
        ):
            hard = kinds.getrlimit(kind)[1]
            try:
                kinds.setrlimit(kind, (wanted if hard == kinds.RLIM_INFINITY else min(wanted, hard), hard))
            except (ValueError, OSError):  # this system lacks the limit
                continue


def _held() -> _Held:
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return _Held(128 * 1024 * 1024, 128 * 1024 * 1024)
    mapped, data = (int(pages[place]) * os.sysconf("SC_PAGE_SIZE") for place in (0, 5))
    return _Held(mapped, data or mapped)


def _serve(task: DecoderTask, given: BinaryIO) -> tuple[DecoderReply, bytes]:
    try:
        content = given.read(task.length)
        work = thumbnail if task.is_thumbnail else convert
        ready = work(content, task.header, task.preparation, _memory_for(task) - SPARE_BYTES - len(content))
    except NeedsMemory as error:
        return _message(DecoderEnding.TOO_LARGE if task.is_alone else DecoderEnding.NEEDS_MEMORY, error)
    except ImageTooLarge as error:
        return _message(DecoderEnding.TOO_LARGE, error)
    except MemoryError:
        return _message(DecoderEnding.TOO_LARGE, MemoryError("the image does not fit into memory when decoded"))
    except ImageUnreadable as error:
        return _message(DecoderEnding.UNREADABLE, error)
    size = ready.width, ready.height, len(ready.content)
    return DecoderReply(DecoderEnding.CONVERTED, *size, ready.pages, ready.channels), ready.content


def _message(ending: DecoderEnding, error: Exception) -> tuple[DecoderReply, bytes]:
    message = str(error)[:2000].encode("utf-8", "replace")
    return DecoderReply(ending, 0, 0, len(message)), message


def _say(answers: BinaryIO, *parts: bytes) -> None:
    for part in parts:
        answers.write(part)
    answers.flush()
