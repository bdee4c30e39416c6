"""How an image and its conversion travel between a run and its decoding processes: length first, then bytes.

Rule: nothing here is unpickled or evaluated; what a decoding process says is read as numbers, a short text or a JPEG.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from batchvision.images.formats import ImageFormat, ImageHeader
from batchvision.records import ImagePreparation

#: What a new process says once it can convert.
READY = b"batchvision images 1\n"
#: format, orientation, may it have all the memory, bytes that follow, max_bytes, max_side (0: none), max_pixels,
#: background, page (0: the first)
_TASK = struct.Struct("!BB?QQQQBI")
#: how it ended, width, height, bytes that follow, pages and channels of the source, is it the process's last
_REPLY = struct.Struct("!BIIQII?")
TASK_BYTES, REPLY_BYTES = _TASK.size, _REPLY.size
_FORMATS = tuple(ImageFormat)
_BACKGROUNDS = ("auto", "white", "black")
_MOST = 2**64 - 1


class Ending(IntEnum):
    """How the conversion of one image ended."""

    CONVERTED = 0  #: a JPEG follows
    UNREADABLE = 1  #: words follow, as with the next
    TOO_LARGE = 2
    NEEDS_ROOM = 3  #: it can be done with all the memory there is, and with no other image beside it


class Task(NamedTuple):
    """What is to be converted; the image's own bytes follow."""

    header: ImageHeader
    preparation: ImagePreparation
    is_alone: bool
    length: int


class Reply(NamedTuple):
    """What came of it; a JPEG or words follow."""

    ending: Ending
    width: int
    height: int
    length: int
    pages: int = 1
    channels: int = 0
    is_last: bool = False  #: the process holds too much memory to go on


def pack_task(task: Task) -> bytes:
    wanted = task.preparation
    return _TASK.pack(
        _FORMATS.index(task.header.format),
        task.header.orientation,
        task.is_alone,
        task.length,
        min(wanted.max_bytes, _MOST),
        min(wanted.max_side or 0, _MOST),
        min(wanted.max_pixels, _MOST),
        _BACKGROUNDS.index(wanted.background),
        wanted.page if isinstance(wanted.page, int) else 0,
    )


def unpack_task(raw: bytes) -> Task:
    number, orientation, is_alone, length, max_bytes, max_side, max_pixels, background, page = _TASK.unpack(raw)
    return Task(
        ImageHeader(_FORMATS[number], orientation=orientation),
        ImagePreparation(
            max_bytes=max_bytes,
            max_side=max_side or None,
            max_pixels=max_pixels,
            background=_BACKGROUNDS[background],
            page=page or "first",
        ),
        is_alone,
        length,
    )


def pack_reply(reply: Reply) -> bytes:
    return _REPLY.pack(*reply)


def unpack_reply(raw: bytes) -> Reply:
    """Raises ValueError for what no decoding process of ours says."""
    ending, *numbers = _REPLY.unpack(raw)
    return Reply(Ending(ending), *numbers)
