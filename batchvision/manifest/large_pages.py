"""Columns of bytes whose pages are larger than a batch (images), read value by value.

pyarrow unpacks a page, and a dictionary, only whole; writers put a thousand images into one. Here a page is unpacked
piece by piece; a dictionary goes to a temporary file.

Rule: no more is held than one value, the window of the unpacking, and the places of a dictionary's values.
"""

from __future__ import annotations

import io
import tempfile
import zlib
from array import array
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice, repeat
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

from batchvision.errors import JobInvalid
from batchvision.manifest.footer import Chunk
from batchvision.manifest.pages import BY_DICTIONARY, Page, pages_of
from batchvision.manifest.snappy import unpacked

_BLOCK_BYTES = 1024 * 1024
_PLAIN = 0
_STREAMED = ("gzip", "brotli", "zstd")  #: codecs that pyarrow unpacks piece by piece
_READABLE = frozenset({"", "snappy", *_STREAMED})


class Cell(NamedTuple):
    """One row's value; None where ``level``, how far down the row is defined, does not reach it."""

    level: int
    value: bytes | None


def is_readable(chunk: Chunk, pages: list[Page]) -> bool:
    """Whether the column can be read here: bytes, plain or by a dictionary, packed in a way that comes in pieces."""
    encodings = {page.encoding for page in pages if not page.is_dictionary}
    return chunk.holds_bytes and chunk.codec in _READABLE and encodings <= {_PLAIN, *BY_DICTIONARY}


def cells_of(path: Path, chunk: Chunk, deepest: int) -> Iterator[Cell]:
    """Every row of a column chunk without lists, in order. ``deepest``: the level of a value.

    Raises JobInvalid at damage.
    """
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(path.open("rb"))
            dictionary: _Dictionary | None = None
            for page in pages_of(path, raw, chunk):
                _check(raw, page)
                if page.is_dictionary:
                    dictionary = stack.enter_context(_Dictionary())
                    dictionary.fill(_content(raw, page, chunk.codec or ""), page)
                else:
                    yield from _cells(raw, page, chunk.codec or "", deepest, dictionary)
    except (LookupError, TypeError, ValueError, zlib.error, pa.ArrowException) as error:
        raise JobInvalid(f"{path.name} is damaged: the column {chunk.path!r} cannot be read ({error}).") from error
    except OSError as error:
        if error.errno is None:  # of a codec
            raise JobInvalid(f"{path.name} is damaged: the column {chunk.path!r} cannot be read.") from error
        raise JobInvalid(f"{path.name}: {error.strerror}, while the column {chunk.path!r} was read.") from error


# ---------------------------------------------------------------------------------- bytes


class _Slice(io.RawIOBase):
    """A stretch of a file."""

    def __init__(self, raw: BinaryIO, start: int, size: int) -> None:
        self._raw, self._at, self._left = raw, start, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any buffer
        count = min(len(buffer), self._left)
        self._raw.seek(self._at)
        content = self._raw.read(count)
        buffer[: len(content)] = content
        self._at += len(content)
        self._left -= len(content)
        return len(content)


class _Bytes:
    """Pieces, taken in the sizes that are wanted."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def take(self, count: int) -> bytes:
        """Raises ValueError where there are no so many."""
        if count <= len(self._piece):
            taken, self._piece = self._piece[:count], self._piece[count:]
            return bytes(taken)
        parts, missing = [bytes(self._piece)], count - len(self._piece)
        for piece in self._pieces:
            parts.append(piece[:missing])
            self._piece = memoryview(piece)[missing:]
            missing -= len(parts[-1])
            if missing <= 0:
                return b"".join(parts)
        raise ValueError("a page ends early")

    def rest(self) -> Iterator[bytes]:
        """What is left of the piece, and then the others."""
        yield bytes(self._piece)
        self._piece = memoryview(b"")
        yield from self._pieces


def _check(raw: BinaryIO, page: Page) -> None:
    """Raises ValueError where the page is not what it was when it was written."""
    if page.checksum is None:
        return
    found, stretch = 0, _Slice(raw, page.offset, page.packed_bytes)
    while block := stretch.read(_BLOCK_BYTES):
        found = zlib.crc32(block, found)
    if found != page.checksum:
        raise ValueError("a page does not match its checksum")


def _content(raw: BinaryIO, page: Page, codec: str) -> _Bytes:
    """What the page holds behind its levels, where they lie apart."""
    start, size = page.offset + page.apart_bytes, page.packed_bytes - page.apart_bytes
    stretch = io.BufferedReader(_Slice(raw, start, size), _BLOCK_BYTES)
    if not codec or not page.is_packed:
        return _Bytes(iter(lambda: stretch.read(_BLOCK_BYTES), b""))
    if codec == "snappy":
        return _Bytes(unpacked(lambda count: _exactly(stretch, count), page.unpacked_bytes - page.apart_bytes))
    stream = pa.CompressedInputStream(pa.PythonFile(stretch, "r"), codec)
    return _Bytes(iter(lambda: stream.read(_BLOCK_BYTES), b""))


def _exactly(stretch: BinaryIO | io.BufferedReader, count: int) -> bytes:
    content = stretch.read(count)
    if len(content) < count:
        raise ValueError("a page ends early")
    return content


# ---------------------------------------------------------------------------------- values


class _Dictionary:
    """The values of a dictionary, in a temporary file."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._ends = array("Q", [0])

    def fill(self, content: _Bytes, page: Page) -> None:
        for _ in range(page.values):
            value = _value(content, page)
            self._file.write(value)
            self._ends.append(self._ends[-1] + len(value))

    def __enter__(self) -> _Dictionary:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getitem__(self, place: int) -> bytes:
        start, end = self._ends[place], self._ends[place + 1]
        self._file.seek(start)
        return self._file.read(end - start)


def _value(content: _Bytes, page: Page) -> bytes:
    length = int.from_bytes(content.take(4), "little")
    if length > page.unpacked_bytes:
        raise ValueError("a value is longer than its page")
    return content.take(length)


def _cells(raw: BinaryIO, page: Page, codec: str, deepest: int, dictionary: _Dictionary | None) -> Iterator[Cell]:
    content = _content(raw, page, codec)
    levels: Iterator[int] = repeat(0, page.values)
    if deepest and page.apart_bytes:
        raw.seek(page.offset + page.apart_bytes - page.level_bytes)
        levels = _numbers(_Bytes(iter([raw.read(page.level_bytes)])), deepest.bit_length())
    elif deepest and not page.has_levels_apart:
        length = int.from_bytes(content.take(4), "little")
        if length > page.unpacked_bytes:
            raise ValueError("levels are longer than their page")
        levels = _numbers(_Bytes(iter([content.take(length)])), deepest.bit_length())
    places: Iterator[int] | None = None
    if page.encoding in BY_DICTIONARY:
        places = _places(content)
    for level in _just(levels, page.values):
        if level < deepest:
            yield Cell(level, None)
        elif places is None:
            yield Cell(level, _value(content, page))
        elif dictionary is None:
            raise ValueError("a page without the dictionary that it refers to")
        else:
            yield Cell(level, dictionary[next(places)])


def _just(levels: Iterator[int], count: int) -> Iterator[int]:
    given = 0
    for level in islice(levels, count):
        given += 1
        yield level
    if given < count:
        raise ValueError("a page has fewer levels than values")


def _places(content: _Bytes) -> Iterator[int]:
    """Of a page's values in the dictionary. They are numbers: a page of them is small."""
    width = content.take(1)
    return _numbers(content, width[0])


def _numbers(content: _Bytes, width: int) -> Iterator[int]:
    """Parquet's hybrid of runs and packed bits. Raises ValueError at its end."""
    if width > 32:
        raise ValueError("numbers too wide")
    while True:
        header = shift = 0
        while True:
            byte = content.take(1)[0]
            header |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 35:
                raise ValueError("a run too long")
        if header & 1:
            for _ in range(header >> 1):
                yield from _eight(content.take(width), width)
        else:
            yield from repeat(int.from_bytes(content.take((width + 7) // 8), "little"), header >> 1)


def _eight(packed: bytes, width: int) -> list[int]:
    """Eight numbers of ``width`` bits each."""
    if not width:
        return [0] * 8
    bits = np.unpackbits(np.frombuffer(packed, np.uint8), bitorder="little").reshape(8, width)
    powers = np.int64(1) << np.arange(width, dtype=np.int64)
    return list((bits * powers).sum(axis=1).tolist())
