"""Messages between a run and its decoding processes: a fixed head with a length, then bytes.

Nothing is unpickled or evaluated. An answer is read as numbers, a short text or a JPEG.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from batchvision.images.formats import ImageFormat, ImageHeader
from batchvision.records import ImagePreparation

#: First output of a process, when it can convert.
READY = b"batchvision images 1\n"
#: Fields: format, orientation, is_alone, length of the content, max_bytes, max_side (0: unlimited), max_pixels,
#: background, page (0: the first), is_thumbnail.
_TASK = struct.Struct("!BB?QQQQBI?")
#: Fields: ending, width, height, length of the content, pages, channels, is_last.
_REPLY = struct.Struct("!BIIQII?")
TASK_BYTES, REPLY_BYTES = _TASK.size, _REPLY.size
_FORMATS = tuple(ImageFormat)
_BACKGROUNDS = ("auto", "white", "black")
_MAX = 2**64 - 1


class DecoderEnding(IntEnum):
    """How the conversion of one image ended."""

    CONVERTED = 0  #: the image follows
    UNREADABLE = 1  #: a message follows
    TOO_LARGE = 2  #: a message follows
    NEEDS_MEMORY = 3  #: a message follows: the image needs all memory, with no other image beside it


class DecoderTask(NamedTuple):
    """An image to convert. Its bytes follow."""

    header: ImageHeader
    preparation: ImagePreparation
    is_alone: bool
    length: int
    is_thumbnail: bool = False  #: a small WebP is wanted, not a JPEG


class DecoderReply(NamedTuple):
    """The result of a task. An image or a message follows."""

    ending: DecoderEnding
    width: int
    height: int
    length: int
    pages: int = 1
    channels: int = 0
    is_last: bool = False  #: the process holds too much memory for another task


def pack_task(task: DecoderTask) -> bytes:
    wanted = task.preparation
    return _TASK.pack(
        _FORMATS.index(task.header.format),
        task.header.orientation,
        task.is_alone,
        task.length,
        min(wanted.max_bytes, _MAX),
        min(wanted.max_side or 0, _MAX),
        min(wanted.max_pixels, _MAX),
        _BACKGROUNDS.index(wanted.background),
        wanted.page if isinstance(wanted.page, int) else 0,
        task.is_thumbnail,
    )


def unpack_task(raw: bytes) -> DecoderTask:
    number, orientation, is_alone, length, *limits, background, page, is_thumbnail = _TASK.unpack(raw)
    max_bytes, max_side, max_pixels = limits
    return DecoderTask(
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
        is_thumbnail,
    )


def pack_reply(reply: DecoderReply) -> bytes:
    return _REPLY.pack(*reply)


def unpack_reply(raw: bytes) -> DecoderReply:
    """Raises ValueError for bytes that are no reply."""
    ending, *numbers = _REPLY.unpack(raw)
    return DecoderReply(DecoderEnding(ending), *numbers)
