"""Record batches of a row group of which some columns have pages larger than a batch (see ``large_pages``).

Rule: a batch has as many rows as fit, judged by the values themselves. The other columns are pyarrow's to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from batchvision.errors import JobInvalid
from batchvision.manifest.footer import Chunk, RowGroup
from batchvision.manifest.large_pages import Cell, cells_of, is_readable
from batchvision.manifest.pages import pages_of, reject_bombs


class Leaf(NamedTuple):
    """A column of large pages: a column of the table, or a child of a struct. ``deepest``: the level of a value."""

    chunk: Chunk
    deepest: int

    @property
    def child(self) -> str:
        """Its name within its struct; "" for a column of the table."""
        return self.chunk.path.partition(".")[2]


def large_leaves(path: Path, file: pq.ParquetFile, group: RowGroup, columns: Sequence[str], most: int) -> list[Leaf]:
    """The leaves of ``columns`` that have a page of more than ``most`` bytes and can be read value by value.

    Raises JobInvalid where a page of them is a bomb.
    """
    leaves = []
    with path.open("rb") as raw:
        for index, chunk in enumerate(group.chunks):
            if chunk.column not in columns or chunk.unpacked_bytes <= most:
                continue
            stored = file.schema.column(index)
            if stored.max_repetition_level or not _is_simple(file.schema_arrow.field(chunk.column), chunk):
                continue
            pages = pages_of(path, raw, chunk)
            if any(page.unpacked_bytes > most for page in pages) and is_readable(chunk, pages):
                reject_bombs(path, chunk.path, pages)
                leaves.append(Leaf(chunk, stored.max_definition_level))
    return leaves


def _is_simple(field: pa.Field, chunk: Chunk) -> bool:
    """Text or bytes, or a struct that holds them."""
    if chunk.path == chunk.column:
        return _is_plain(field.type)
    child = chunk.path.partition(".")[2]
    return types.is_struct(field.type) and field.type.get_field_index(child) >= 0 and _is_plain(field.type[child].type)


def _is_plain(given: pa.DataType) -> bool:
    return bool(
        types.is_string(given) or types.is_binary(given) or types.is_large_string(given) or types.is_large_binary(given)
    )


def other_leaves(file: pq.ParquetFile, columns: Sequence[str], leaves: Sequence[Leaf]) -> list[str]:
    """What of ``columns`` pyarrow reads: whole columns, and the children beside a large one."""
    large = {leaf.chunk.path for leaf in leaves}
    split = {leaf.chunk.column for leaf in leaves}
    paths = [file.schema.column(index).path for index in range(len(file.schema))]
    beside = [path for path in paths if path.partition(".")[0] in split and path not in large]
    return [*(name for name in columns if name not in split), *beside]


def streamed(
    path: Path,
    schema: pa.Schema,
    others: Iterator[pa.RecordBatch],
    columns: Sequence[str],
    leaves: Sequence[Leaf],
    batch_bytes: int,
) -> Iterator[pa.RecordBatch]:
    """All rows of a row group; ``others``: the rest of its columns. Raises JobInvalid at damage."""
    readers = [cells_of(path, leaf.chunk, leaf.deepest) for leaf in leaves]
    for batch in others:
        at = 0
        while at < batch.num_rows:
            rows = list(_fitting(readers, batch.num_rows - at, batch_bytes))
            if not rows:
                raise JobInvalid(f"{path.name} is damaged: {leaves[0].chunk.path!r} ends before its row group.")
            found = {leaf.chunk.path: [row[place] for row in rows] for place, leaf in enumerate(leaves)}
            beside = batch.slice(at, len(rows))
            arrays = [_column(schema.field(name), beside, found, leaves) for name in columns]
            at += len(rows)
            del rows, found  # the batch has its own copy of the values
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
            del arrays


def _fitting(readers: Sequence[Iterator[Cell]], most_rows: int, most_bytes: int) -> Iterator[tuple[Cell, ...]]:
    """Rows up to whichever comes first; at least one, where there is one."""
    size = 0
    for row in islice(zip(*readers, strict=True), most_rows):
        yield row
        size += sum(len(cell.value or b"") for cell in row)
        if size >= most_bytes:
            return


def _column(
    field: pa.Field, beside: pa.RecordBatch, found: Mapping[str, list[Cell]], leaves: Sequence[Leaf]
) -> pa.Array:
    own = [leaf for leaf in leaves if leaf.chunk.column == field.name]
    if not own:
        return beside.column(field.name)
    if not own[0].child:
        return _values(found[field.name], field.type)
    is_beside = field.name in beside.schema.names
    rest = beside.column(field.name) if is_beside else None
    arrays = [
        _values(found[path], child.type)
        if (path := f"{field.name}.{child.name}") in found
        else _child(rest, child.name, child.type, beside.num_rows)
        for child in field.type
    ]
    if rest is not None:
        mask = rest.is_null()
    else:
        is_there = [cell.level > 0 or not field.nullable for cell in found[own[0].chunk.path]]
        mask = pa.array([not there for there in is_there], pa.bool_())
    return pa.StructArray.from_arrays(arrays, fields=list(field.type), mask=mask)


def _values(cells: Sequence[Cell], given: pa.DataType) -> pa.Array:
    """Text is checked to be UTF-8."""
    return pa.array([cell.value for cell in cells], pa.binary()).cast(given)


def _child(rest: pa.Array | None, name: str, given: pa.DataType, rows: int) -> pa.Array:
    if rest is None:
        return pa.nulls(rows, given)
    place = rest.type.get_field_index(name)
    return rest.flatten()[place]
