"""What a Parquet file's pages claim to become, read from their headers before anything is decoded.

Rule: a small file takes no more memory than a large one. How many rows are decoded at once is decided by what pages
can hold at most, whatever the footer says; pages that blow up are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchvision.errors import JobInvalid
from batchvision.manifest.footer import Chunk, RowGroup
from batchvision.manifest.thrift import Compact

#: A page that is larger, and was packed to less than a hundredth, is a bomb; pages of images are large, and pack badly.
LARGE_PAGE_BYTES = 64 * 1024 * 1024
MOST_PACKED = 100
#: No page, and no page's decoded cells, may be larger.
MOST_PAGE_BYTES = 1024 * 1024 * 1024

_HEADER_BYTES = 16 * 1024
_MOST_HEADER_BYTES = 16 * 1024 * 1024
_DICTIONARY_PAGE = 2
BY_DICTIONARY = (2, 8)  # PLAIN_DICTIONARY, RLE_DICTIONARY
_BY_PREFIX = 7  # DELTA_BYTE_ARRAY: a cell may repeat all of the one before
_LENGTH = struct.Struct("<I")


class Page(NamedTuple):
    """A page's header. ``encoding`` of a dictionary's own page is that of its values."""

    offset: int  #: of its content
    is_dictionary: bool
    unpacked_bytes: int
    packed_bytes: int
    values: int
    encoding: int
    checksum: int | None = None
    has_levels_apart: bool = False  #: version 2: the levels lie before what is packed
    apart_bytes: int = 0  #: of all levels, where they lie apart
    level_bytes: int = 0  #: of the last of them, which say where a value is
    is_packed: bool = True


def rows_at_once(path: Path, file: pq.ParquetFile, group: RowGroup, columns: Set[str], batch_bytes: int) -> int:
    """How many rows of a row group decode to no more than about ``batch_bytes`` in any of ``columns``; at least one.

    Raises JobInvalid where a page is a bomb or its header cannot be read.
    """
    most = rows = max(1, group.rows)
    with path.open("rb") as raw:
        for index, chunk in enumerate(group.chunks):
            if chunk.column not in columns:
                continue
            is_flat = file.schema.column(index).max_repetition_level == 0
            pages = pages_of(path, raw, chunk)
            longest = _longest_value(raw, pages, chunk)
            for page in pages:
                _reject_bomb(path, chunk.path, page, longest)
                most = min(most, _rows_of(page, longest, batch_bytes, rows if not is_flat else None))
    return max(1, most)


def pages_of(path: Path, raw: BinaryIO, chunk: Chunk) -> list[Page]:
    """The headers of a column chunk's pages, in order. Raises JobInvalid where one cannot be read."""
    try:
        return list(_pages(raw, chunk))
    except (LookupError, TypeError, ValueError) as error:  # a field is missing, or of another kind
        raise JobInvalid(f"{path.name} is damaged: a page of {chunk.path!r} has no header.") from error


def reject_bombs(path: Path, column: str, pages: list[Page]) -> None:
    """JobInvalid where a page of a column that is read value by value is a bomb."""
    for page in pages:
        _reject_bomb(path, column, page, 0)


def _rows_of(page: Page, longest: int, batch_bytes: int, rows_of_lists: int | None) -> int:
    """Of how many rows like this page's the cells fit; a page of lists does not say how many rows it has."""
    if page.is_dictionary or not page.values:
        return 2**31
    of_page = max(1, _decoded_bytes(page, longest))
    rows = page.values if rows_of_lists is None else min(page.values, rows_of_lists)
    return rows * batch_bytes // of_page


def _decoded_bytes(page: Page, longest: int) -> int:
    """At most."""
    if page.encoding in BY_DICTIONARY:
        return page.values * (longest + 4)
    if page.encoding == _BY_PREFIX:
        return page.values * page.unpacked_bytes
    return page.unpacked_bytes + 4 * page.values


def _reject_bomb(path: Path, column: str, page: Page, longest: int) -> None:
    is_bomb = page.unpacked_bytes > max(LARGE_PAGE_BYTES, MOST_PACKED * page.packed_bytes)
    if is_bomb or page.unpacked_bytes > MOST_PAGE_BYTES:
        raise JobInvalid(
            f"{path.name}: a page of {column!r} unpacks from {page.packed_bytes:,} to {page.unpacked_bytes:,} bytes. "
            "Write the file again with smaller pages if this is meant."
        )
    if longest > MOST_PAGE_BYTES:
        raise JobInvalid(f"{path.name}: a cell of {column!r} has {longest:,} bytes.")


def _longest_value(raw: BinaryIO, pages: list[Page], chunk: Chunk) -> int:
    """The longest value of a column's dictionary, 8 where its values are numbers or it has none."""
    page = next((page for page in pages if page.is_dictionary), None)
    if page is None or not chunk.holds_bytes:
        return 8
    if page.unpacked_bytes > LARGE_PAGE_BYTES:
        return page.unpacked_bytes
    raw.seek(page.offset)
    content = raw.read(page.packed_bytes)
    if chunk.codec != "":
        try:
            content = pa.decompress(content, page.unpacked_bytes, codec=chunk.codec, asbytes=True)
        except (TypeError, pa.ArrowException, OSError, ValueError):
            return page.unpacked_bytes
    return min(_longest_of(content), page.unpacked_bytes)


def _longest_of(content: bytes) -> int:
    """Of values that stand each behind its length; where all have the same, as numbers and URLs often do, it is seen
    at once."""
    if len(content) < 4:
        return 0
    longest: int = _LENGTH.unpack_from(content)[0]
    stride = 4 + longest
    if len(content) % stride == 0:
        lengths = np.ndarray(len(content) // stride, "<u4", content, strides=(stride,))
        if (lengths == longest).all():
            return longest
    unpack, at, end = _LENGTH.unpack_from, stride, len(content) - 4
    while at <= end:
        (length,) = unpack(content, at)
        if length > longest:
            longest = length
        at += 4 + length
    return longest


# ---------------------------------------------------------------------------------- headers


def _pages(raw: BinaryIO, chunk: Chunk) -> Iterator[Page]:
    """Every page of a column chunk, in order."""
    at, end = chunk.start, chunk.start + chunk.packed_bytes
    values = 0
    while at < end and values < chunk.values:
        size, fields = _header(raw, at)
        page = _page(at + size, fields)
        if page is not None:
            yield page
            values += 0 if page.is_dictionary else page.values
        at += size + max(0, fields[3])


def _page(offset: int, fields: dict[int, Any]) -> Page | None:
    """None: a page of another kind, which readers pass over."""
    unpacked, packed = fields[2], fields[3]
    checksum = fields[4] & 0xFFFF_FFFF if 4 in fields else None
    if fields[1] == _DICTIONARY_PAGE:
        page = Page(offset, True, unpacked, packed, fields[7][1], fields[7][2], checksum)
    elif 5 in fields:
        page = Page(offset, False, unpacked, packed, fields[5][1], fields[5][2], checksum)
    elif 8 in fields:
        second = fields[8]
        apart = second[5] + second[6]
        page = Page(
            offset, False, unpacked, packed, second[1], second[4], checksum, True, apart, second[5], second.get(7, True)
        )
    else:
        return None
    if min(page.unpacked_bytes, page.packed_bytes, page.values, page.apart_bytes, page.level_bytes) < 0:
        raise ValueError("a page of less than nothing")
    return page


def _header(raw: BinaryIO, at: int) -> tuple[int, dict[int, Any]]:
    """The size of the header at ``at``, and its fields. Statistics in it may be long."""
    size = _HEADER_BYTES
    while True:
        raw.seek(at)
        content = raw.read(size)
        reader = Compact(content)
        try:
            fields = reader.struct()
        except IndexError:
            if len(content) < size or size >= _MOST_HEADER_BYTES:
                raise
            size *= 8
            continue
        return reader.at, fields
