"""What a Parquet file's pages claim to become, read from their headers before anything is decoded.

Rule: a small file takes no more memory than a large one. How many rows are decoded at once is decided by what pages
can hold at most, whatever the footer says; pages that blow up are refused. Headers are thrift's compact form.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from batchvision.errors import JobInvalid

#: A page that is larger, and was packed to less than a hundredth, is a bomb; pages of images are large, and pack badly.
LARGE_PAGE_BYTES = 64 * 1024 * 1024
MOST_PACKED = 100
#: No page, and no page's decoded cells, may be larger.
MOST_PAGE_BYTES = 1024 * 1024 * 1024

_HEADER_BYTES = 16 * 1024
_MOST_HEADER_BYTES = 16 * 1024 * 1024
_DICTIONARY_PAGE = 2
_BY_DICTIONARY = (2, 8)  # PLAIN_DICTIONARY, RLE_DICTIONARY
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


def rows_at_once(path: Path, file: pq.ParquetFile, group: int, columns: list[str], batch_bytes: int) -> int:
    """How many rows of a row group decode to no more than about ``batch_bytes`` in any of ``columns``; at least one.

    Raises JobInvalid where a page is a bomb or its header cannot be read.
    """
    chunks, names = file.metadata.row_group(group), set(columns)
    rows = max(1, int(chunks.num_rows))
    most: int = rows
    with path.open("rb") as raw:
        for index in range(chunks.num_columns):
            chunk = chunks.column(index)
            if chunk.path_in_schema.split(".")[0] not in names:
                continue
            is_flat = file.schema.column(index).max_repetition_level == 0
            try:
                pages = list(_pages(raw, chunk))
            except (LookupError, TypeError, ValueError) as error:  # a field is missing, or of another kind
                raise JobInvalid(
                    f"{path.name} is damaged: a page of {chunk.path_in_schema!r} has no header."
                ) from error
            longest = _longest_value(raw, pages, chunk)
            for page in pages:
                _reject_bomb(path, chunk.path_in_schema, page, longest)
                most = min(most, _rows_of(page, longest, batch_bytes, rows if not is_flat else None))
    return max(1, most)


def _rows_of(page: Page, longest: int, batch_bytes: int, rows_of_lists: int | None) -> int:
    """Of how many rows like this page's the cells fit; a page of lists does not say how many rows it has."""
    if page.is_dictionary or not page.values:
        return 2**31
    of_page = max(1, _decoded_bytes(page, longest))
    rows = page.values if rows_of_lists is None else min(page.values, rows_of_lists)
    return rows * batch_bytes // of_page


def _decoded_bytes(page: Page, longest: int) -> int:
    """At most."""
    if page.encoding in _BY_DICTIONARY:
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


def _longest_value(raw: BinaryIO, pages: list[Page], chunk: Any) -> int:
    """The longest value of a column's dictionary, 8 where its values are numbers or it has none."""
    page = next((page for page in pages if page.is_dictionary), None)
    if page is None or chunk.physical_type != "BYTE_ARRAY" or page.unpacked_bytes > LARGE_PAGE_BYTES:
        return 8 if page is None or chunk.physical_type != "BYTE_ARRAY" else page.unpacked_bytes
    raw.seek(page.offset)
    content = raw.read(page.packed_bytes)
    if chunk.compression != "UNCOMPRESSED":
        try:
            content = pa.decompress(content, page.unpacked_bytes, codec=_CODECS[chunk.compression], asbytes=True)
        except (KeyError, pa.ArrowException, OSError, ValueError):
            return page.unpacked_bytes
    at = longest = 0
    while at + 4 <= len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        longest = max(longest, length)
        at += 4 + length
    return min(longest, page.unpacked_bytes)


_CODECS = {
    "SNAPPY": "snappy",
    "GZIP": "gzip",
    "ZSTD": "zstd",
    "BROTLI": "brotli",
    "LZ4": "lz4_raw",
    "LZ4_RAW": "lz4_raw",
}


# ---------------------------------------------------------------------------------- headers


def _pages(raw: BinaryIO, chunk: Any) -> Iterator[Page]:
    """Every page of a column chunk, in order."""
    first = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset and chunk.dictionary_page_offset < first:
        first = chunk.dictionary_page_offset
    at, end = first, first + chunk.total_compressed_size
    values = 0
    while at < end and values < chunk.num_values:
        size, fields = _header(raw, at)
        page = _page(at + size, fields)
        if page is not None:
            yield page
            values += 0 if page.is_dictionary else page.values
        at += size + max(0, fields[3])


def _page(offset: int, fields: dict[int, Any]) -> Page | None:
    """None: a page of another kind, which readers pass over."""
    unpacked, packed = fields[2], fields[3]
    if fields[1] == _DICTIONARY_PAGE:
        page = Page(offset, True, unpacked, packed, fields[7][1], fields[7][2])
    elif 5 in fields:
        page = Page(offset, False, unpacked, packed, fields[5][1], fields[5][2])
    elif 8 in fields:
        page = Page(offset, False, unpacked, packed, fields[8][1], fields[8][4])
    else:
        return None
    if min(page.unpacked_bytes, page.packed_bytes, page.values) < 0:
        raise ValueError("a page of less than nothing")
    return page


def _header(raw: BinaryIO, at: int) -> tuple[int, dict[int, Any]]:
    """The size of the header at ``at``, and its fields. Statistics in it may be long."""
    size = _HEADER_BYTES
    while True:
        raw.seek(at)
        content = raw.read(size)
        reader = _Compact(content)
        try:
            fields = reader.struct()
        except IndexError:
            if len(content) < size or size >= _MOST_HEADER_BYTES:
                raise
            size *= 8
            continue
        return reader.at, fields


class _Compact:
    """Thrift's compact protocol, as much of it as page headers use. Raises IndexError at the end of its bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def struct(self, depth: int = 0) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        name = 0
        while head := self._byte():
            name = name + (head >> 4) if head >> 4 else self._integer()
            fields[name] = self._value(head & 0x0F, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if depth > 8:
            raise ValueError("nested too deeply")
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._skipped(8)
            case 8:
                return self._skipped(self._varint())
            case 9 | 10:
                head = self._byte()
                count = self._varint() if head >> 4 == 15 else head >> 4
                if count > 1_000_000:
                    raise ValueError("a list too long")
                return [self._value(head & 0x0F, depth + 1) for _ in range(count)]
            case 12:
                return self.struct(depth + 1)
        raise ValueError(f"a field of kind {kind}")

    def _byte(self) -> int:
        value = self._content[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number too long")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skipped(self, size: int) -> None:
        self.at += size
        if self.at > len(self._content):
            raise IndexError
