"""A Parquet file, or a folder of them with hive partitions, as record batches of bounded size.

Rule: read row group by row group through a buffered stream; a batch has as many rows as fit into ``BATCH_BYTES``,
judged by what pages can hold at most and, where that may be too much, by the file's own numbers and a first taste.
Columns of bytes whose pages are larger than a batch are read value by value (see ``streaming``).
Extension types are refused but for those that are plain text or UUIDs: what a file names is never looked up. Partition
values are text as the folder's name has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from batchvision.errors import JobInvalid
from batchvision.manifest.cells import is_list, normal_type, normalised
from batchvision.manifest.columns import reject_missing, reject_repeated
from batchvision.manifest.footer import RowGroup, row_groups
from batchvision.manifest.image_cells import holds_bytes
from batchvision.manifest.opening import read_head, stranger, unreadable
from batchvision.manifest.pages import rows_at_once
from batchvision.manifest.streaming import large_leaves, other_leaves, streamed

BATCH_ROWS = 8192
BATCH_BYTES = 32 * 1024 * 1024
_TASTE_ROWS = 64
_BUFFER_BYTES = 256 * 1024  #: of each column, beside its pages
_MAGIC = b"PAR1"
_SUFFIXES = (".parquet", ".parq", ".pq")
#: The folder that every output holds (see ``checkpoint.lock``).
_OUTPUT_MARK = ".batchvision"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
#: Canonical extension types that say no more than their storage does.
_HARMLESS = frozenset({"arrow.uuid", "arrow.json"})


class _Piece(NamedTuple):
    """One file and the values its folders' names give to partition columns."""

    path: Path
    partitions: Mapping[str, str | None]


class ParquetManifest:
    """One Parquet file or a folder of them. A column that only some files have is null in the others."""

    def __init__(self, path: Path, needed: Mapping[str, str], without: Path | None = None) -> None:
        """``without``: a folder below ``path`` that is no part of it, as every output of a run is none."""
        self._name = path.name
        self._pieces = _pieces(path, without) if path.is_dir() else [_Piece(path, {})]
        self.files = tuple(piece.path for piece in self._pieces)
        types = self._types(needed)
        reject_missing(needed, tuple(types), self._name)
        self.columns = tuple(types)
        self.byte_columns = frozenset(name for name, given in types.items() if holds_bytes(normal_type(given)))

    def _types(self, needed: Mapping[str, str]) -> dict[str, pa.DataType]:
        """The columns of as many files as it takes to see all that are ``needed``, and their types there."""
        found: dict[str, pa.DataType] = {}
        for piece in self._pieces:
            with _opened(piece.path) as file:
                schema = file.schema_arrow
            reject_repeated(schema.names, piece.path.name)
            _reject_types((field for field in schema if field.name in needed), piece.path.name)
            found = {field.name: field.type for field in schema} | found | dict.fromkeys(piece.partitions, pa.string())
            if needed.keys() <= found.keys():
                break
        return found

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of every row, normalised. JobInvalid where a file is damaged or holds text that is not UTF-8."""
        for piece in self._pieces:
            with _opened(piece.path) as file:
                stored = [name for name in columns if name in file.schema_arrow.names and name not in piece.partitions]
                _reject_types(map(file.schema_arrow.field, stored), piece.path.name)
                for batch in _stored_batches(piece.path, file, stored):
                    yield _completed(batch, columns, piece.partitions)


def _stored_batches(path: Path, file: pq.ParquetFile, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """What the file itself holds of ``columns``, checked; with none, only the number of rows counts."""
    if not columns:
        for start in range(0, file.metadata.num_rows, BATCH_ROWS):
            count = min(BATCH_ROWS, file.metadata.num_rows - start)
            yield pa.RecordBatch.from_arrays([pa.nulls(count)], names=[""])
        return
    wanted, leaves = frozenset(columns), len(file.schema)
    for number, group in enumerate(row_groups(path)):
        if len(group.chunks) != leaves:
            raise JobInvalid(f"{path.name} is damaged: a row group has {len(group.chunks)} columns of {leaves}.")
        if not group.rows:
            continue
        if leaves_of := large_leaves(path, file, group, columns, BATCH_BYTES):
            others = _others(path, file, number, group, other_leaves(file, columns, leaves_of))
            yield from streamed(path, file.schema_arrow, others, columns, leaves_of, BATCH_BYTES)
            continue
        chosen = sum(chunk.column in wanted for chunk in group.chunks)
        rows = min(BATCH_ROWS, group.rows)
        if not chosen or rows_at_once(path, file, group, wanted, BATCH_BYTES // chosen) < rows:
            most = min(BATCH_ROWS, rows_at_once(path, file, group, wanted, BATCH_BYTES))
            taste = min(most, _TASTE_ROWS)
            row_bytes = max(_stored_row_bytes(group, wanted), _tasted_row_bytes(file, number, columns, taste))
            rows = max(1, min(most, int(BATCH_BYTES / row_bytes)))
        for batch in file.iter_batches(batch_size=rows, row_groups=[number], columns=columns):
            batch.validate(full=True)
            yield batch


def _others(
    path: Path, file: pq.ParquetFile, number: int, group: RowGroup, leaves: list[str]
) -> Iterator[pa.RecordBatch]:
    """The columns of a row group beside those of large pages; with none, only the number of rows counts."""
    if not leaves:
        for start in range(0, group.rows, BATCH_ROWS):
            yield pa.RecordBatch.from_arrays([pa.nulls(min(BATCH_ROWS, group.rows - start))], names=[""])
        return
    chunks = tuple(chunk._replace(column=chunk.path) for chunk in group.chunks)
    apart = group._replace(chunks=chunks)
    read = frozenset(chunk.path for chunk in chunks if chunk.path in leaves or chunk.path.partition(".")[0] in leaves)
    rows = min(BATCH_ROWS, rows_at_once(path, file, apart, read, BATCH_BYTES))
    for batch in file.iter_batches(batch_size=rows, row_groups=[number], columns=leaves):
        batch.validate(full=True)
        yield batch


def _reject_types(fields: Iterable[pa.Field], name: str) -> None:
    """JobInvalid for a column, or a part of one, of an unknown extension type or with a damaged time zone."""
    for field in fields:
        if not all(map(_has_readable_zone, _with_parts(field))):
            raise JobInvalid(
                f"{name} is damaged: the time zone of the column {field.name!r} is no text. Write the file again."
            )
        if found := next(filter(None, map(_extension_of, _with_parts(field))), None):
            raise JobInvalid(
                f"{name}: the column {field.name!r} has the extension type {found!r}, which is not read. "
                "Write it as plain text, numbers or bytes."
            )


def _with_parts(field: pa.Field) -> Iterator[pa.Field]:
    yield field
    given = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
    if types.is_dictionary(given):
        yield from _with_parts(pa.field(field.name, given.value_type))
    elif is_list(given):
        yield from _with_parts(given.value_field)
    elif types.is_map(given):
        yield from chain(_with_parts(given.key_field), _with_parts(given.item_field))
    elif types.is_struct(given):
        yield from chain.from_iterable(map(_with_parts, given))


def _has_readable_zone(field: pa.Field) -> bool:
    try:
        return not types.is_timestamp(field.type) or field.type.tz is None or bool(field.type.tz)
    except UnicodeDecodeError:
        return False


def _extension_of(field: pa.Field) -> str | None:
    """The name of an extension type that is not known to be harmless; of one that nobody registered too."""
    named = (field.metadata or {}).get(b"ARROW:extension:name", b"").decode("utf-8", "replace")
    name = field.type.extension_name if isinstance(field.type, pa.BaseExtensionType) else named
    return None if not name or name in _HARMLESS else str(name)


def _stored_row_bytes(group: RowGroup, columns: Set[str]) -> float:
    size = sum(chunk.unpacked_bytes for chunk in group.chunks if chunk.column in columns)
    return max(1.0, size / group.rows)


def _tasted_row_bytes(file: pq.ParquetFile, group: int, columns: list[str], rows: int) -> float:
    """Decoded bytes a row: dictionaries make a file's own numbers too small."""
    taste = next(file.iter_batches(batch_size=rows, row_groups=[group], columns=columns), None)
    return float(taste.nbytes / taste.num_rows) if taste is not None and taste.num_rows else 1.0


def _completed(batch: pa.RecordBatch, columns: Sequence[str], partitions: Mapping[str, str | None]) -> pa.RecordBatch:
    """All of ``columns``: stored ones normalised, partitions constant, those the file lacks null."""
    arrays = []
    for name in columns:
        if name in partitions:
            arrays.append(pa.repeat(pa.scalar(partitions[name], pa.string()), batch.num_rows))
        elif name in batch.schema.names:
            arrays.append(normalised(batch.column(name)))
        else:
            arrays.append(pa.nulls(batch.num_rows))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    """The open file; what goes wrong inside, while reading too, is told as JobInvalid with its name."""
    head = read_head(path)
    if not head:
        raise JobInvalid(f"{path.name} is empty: not even a Parquet footer is in it.")
    if not head.startswith(_MAGIC):
        found = stranger(head) or "text (CSV or JSONL?)"
        raise JobInvalid(f"{path.name}: the name says Parquet, but the file is {found}.")
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise JobInvalid(f"{path.name} is damaged or cut short: {_first_line(error)}") from error
    except OSError as error:
        if error.errno is None:
            raise JobInvalid(f"{path.name} is damaged: {_first_line(error)}") from error
        raise unreadable(path, error) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _pieces(folder: Path, without: Path | None) -> list[_Piece]:
    """The Parquet files below ``folder`` in the order of their paths; hidden ones, those with ``_`` and outputs are
    left out."""
    excluded = None if without is None else without.resolve()
    try:
        paths = sorted(path for path in _visible_files(folder, excluded) if _is_parquet(path))
    except OSError as error:
        raise unreadable(Path(error.filename or folder), error) from error
    if not paths:
        raise JobInvalid(
            f"the folder {folder} holds no Parquet file. For a folder of images, first write a manifest: "
            f"batchvision manifest {folder} -o {folder.name}.csv"
        )
    return [_Piece(path, dict(_partitions(path.relative_to(folder).parts[:-1]))) for path in paths]


def _visible_files(folder: Path, excluded: Path | None) -> Iterator[Path]:
    """Links to folders are not followed: one that leads upward would repeat every row. Answers are never rows: the
    job's own output (``excluded``) and those of other jobs are passed by."""
    for path in folder.iterdir():
        if path.name.startswith((".", "_")):
            continue
        if path.is_dir():
            if not path.is_symlink() and path.resolve() != excluded and not (path / _OUTPUT_MARK).is_dir():
                yield from _visible_files(path, excluded)
        else:
            yield path


def _is_parquet(path: Path) -> bool:
    """By name, or by content where the name says nothing (Spark and others write files without suffix)."""
    return path.suffix.lower() in _SUFFIXES or (not path.suffix and read_head(path).startswith(_MAGIC))


def _partitions(folders: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    for folder in folders:
        name, equals, value = folder.partition("=")
        if equals:
            text = unquote(value)
            yield unquote(name), None if text == _HIVE_NULL else text
