"""Snappy's raw form, unpacked piece by piece: the libraries there are unpack a page of Parquet only whole.

Rule: no more is held than a window and one piece. Copies reach back 64 KiB, as every encoder writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

WINDOW_BYTES = 64 * 1024
_PIECE_BYTES = 256 * 1024


def unpacked(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """The content in pieces. ``read`` gives exactly so many bytes; ``size``: of the content as the page names it.

    Raises ValueError for what is no such stream.
    """
    if _varint(read) != size:
        raise ValueError("a packed page names another size than its header")
    out, left = bytearray(), size
    while left > 0:
        tag = read(1)[0]
        if tag & 3:
            length, offset = _copy(tag, read)
            if not 0 < offset <= len(out):
                raise ValueError("a packed page refers too far back")
            left -= length
            while length > 0:  # a copy may overlap what it writes
                piece = out[len(out) - offset :][:length]
                out += piece
                length -= len(piece)
        else:
            length = tag >> 2
            if length >= 60:
                length = int.from_bytes(read(length - 59), "little")
            length += 1
            left -= length
            while length > _PIECE_BYTES and left >= 0:
                out += read(_PIECE_BYTES)
                length -= _PIECE_BYTES
                yield from _ready(out)
            out += read(length) if left >= 0 else b""
        if left < 0:
            raise ValueError("a packed page holds more than it names")
        yield from _ready(out)
    yield bytes(out)


def _ready(out: bytearray) -> Iterator[bytes]:
    """What lies before the window, once it is worth a piece; it is taken out."""
    if len(out) >= WINDOW_BYTES + _PIECE_BYTES:
        yield bytes(out[:-WINDOW_BYTES])
        del out[:-WINDOW_BYTES]


def _copy(tag: int, read: Callable[[int], bytes]) -> tuple[int, int]:
    """Length and offset."""
    if tag & 3 == 1:
        return (tag >> 2 & 7) + 4, (tag >> 5) << 8 | read(1)[0]
    return (tag >> 2) + 1, int.from_bytes(read(2 if tag & 3 == 2 else 4), "little")


def _varint(read: Callable[[int], bytes]) -> int:
    value = 0
    for shift in range(0, 35, 7):
        byte = read(1)[0]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("a size too long")
