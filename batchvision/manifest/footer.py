"""What a Parquet file's footer says of its row groups and their column chunks.

Rule: the footer is read here, and not asked of pyarrow, whose own objects for a chunk end the whole process where the
footer contradicts itself (a ParquetException that nothing catches).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from batchvision.errors import JobInvalid
from batchvision.manifest.thrift import Compact

_END = b"PAR1"
_ROW_GROUPS = 4
_LIST = 9
_BYTE_ARRAY = 6
#: Codecs by number, as pyarrow names them; what is not listed is not unpacked here.
_CODECS = {0: "", 1: "snappy", 2: "gzip", 4: "brotli", 5: "lz4_raw", 6: "zstd", 7: "lz4_raw"}


class Chunk(NamedTuple):
    """The cells of one column (a leaf of a nested one) in one row group."""

    path: str  #: the names down to it, with dots
    column: str  #: the first of them
    holds_bytes: bool
    codec: str | None  #: "": not packed; None: packed in a way that is not known here
    values: int
    start: int  #: of its first page
    packed_bytes: int
    unpacked_bytes: int


class RowGroup(NamedTuple):
    rows: int
    chunks: tuple[Chunk, ...]


def row_groups(path: Path) -> Iterator[RowGroup]:
    """Every row group, in order. Raises JobInvalid where the footer is not what it should be."""
    try:
        yield from map(_row_group, _groups(_footer(path)))
    except (AttributeError, LookupError, TypeError, ValueError) as error:  # a field is missing, or of another kind
        raise JobInvalid(f"{path.name} is damaged: its footer does not say where its columns are.") from error


def _footer(path: Path) -> bytes:
    with path.open("rb") as raw:
        size = raw.seek(0, 2)
        raw.seek(max(0, size - 8))
        end = raw.read(8)
        length = int.from_bytes(end[:4], "little")
        if end[4:] != _END or length > size - 8:
            raise ValueError("no footer")
        raw.seek(size - 8 - length)
        return raw.read(length)


def _groups(footer: bytes) -> Iterator[Any]:
    reader = Compact(footer)
    for name, kind in reader.fields():
        if (name, kind) == (_ROW_GROUPS, _LIST):
            yield from reader.elements()
        else:
            reader.value(kind)


def _row_group(fields: Any) -> RowGroup:
    group = RowGroup(fields[3], tuple(_chunk(each[3]) for each in fields[1]))
    if group.rows < 0:
        raise ValueError("less than no rows")
    return group


def _chunk(fields: Any) -> Chunk:
    names = [name.decode("utf-8", "replace") for name in fields[3]]
    first, dictionary = fields[9], fields.get(11, 0)
    chunk = Chunk(
        path=".".join(names),
        column=names[0],
        holds_bytes=fields[1] == _BYTE_ARRAY,
        codec=_CODECS.get(fields[4]),
        values=fields[5],
        start=dictionary if 0 < dictionary < first else first,
        packed_bytes=fields[7],
        unpacked_bytes=fields[6],
    )
    if min(chunk[4:]) < 0:
        raise ValueError("less than nothing")
    return chunk
