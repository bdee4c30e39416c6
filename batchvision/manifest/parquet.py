"""A Parquet file, or a folder of them with hive partitions, as record batches of bounded size.

Rule: only the child process of ``parquet_reader`` parses a file. The text in a folder's name is the partition value.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from batchvision.errors import JobInvalid
from batchvision.manifest.columns import reject_missing, reject_repeated
from batchvision.manifest.inputs import LocalInput, ManifestInput, unreadable
from batchvision.manifest.parquet_reader import ParquetReader
from batchvision.manifest.text_file import foreign_format, read_head

_MAGIC = b"PAR1"
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
#: The folder that every output holds (see ``checkpoint.lock``).
_OUTPUT_MARK = ".batchvision"
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class Piece(NamedTuple):
    """One file, and the values of the partition columns in the names of its folders."""

    source: ManifestInput
    partitions: Mapping[str, str | None]


class ParquetManifest:
    """One Parquet file or a folder of them. A column that only some files have is null in the others."""

    def __init__(self, name: str, pieces: Sequence[Piece], needed: Mapping[str, str]) -> None:
        """``needed``: column -> the job key that names it. Raises JobInvalid where one is missing."""
        self._pieces = pieces
        self.inputs = tuple(piece.source for piece in pieces)
        self._reader: ParquetReader | None = ParquetReader()
        self.columns, self.byte_columns = self._found_columns(self._reader, needed)
        reject_missing(needed, self.columns, name)

    def _found_columns(
        self, reader: ParquetReader, needed: Mapping[str, str]
    ) -> tuple[tuple[str, ...], frozenset[str]]:
        """The columns of the first files, up to the one that completes ``needed``; and the columns of bytes."""
        names, byte_columns = dict[str, None](), set[str]()
        for piece in self._pieces:
            with _opened(piece.source) as file:
                found = reader.columns(piece.source.name, file, list(needed))
            reject_repeated(found.names, piece.source.name)
            byte_columns.update(name for name in found.byte_columns if name not in names)
            names.update(dict.fromkeys((*found.names, *piece.partitions)))
            if needed.keys() <= names.keys():
                break
        return tuple(names), frozenset(byte_columns)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of each row, normalised. Raises JobInvalid where a file is damaged or its text is not UTF-8."""
        reader, self._reader = self._reader or ParquetReader(), None
        try:
            for piece in self._pieces:
                wanted = [name for name in columns if name not in piece.partitions]
                with _opened(piece.source) as file:
                    for batch in reader.batches(piece.source.name, file, wanted):
                        yield _completed(batch, columns, piece.partitions)
        finally:
            reader.close()


def _completed(batch: pa.RecordBatch, columns: Sequence[str], partitions: Mapping[str, str | None]) -> pa.RecordBatch:
    """Each of ``columns``: a partition column is constant, a column that the file lacks is null."""
    arrays = []
    for name in columns:
        if name in partitions:
            arrays.append(pa.repeat(pa.scalar(partitions[name], pa.string()), batch.num_rows))
        elif name in batch.schema.names:
            arrays.append(batch.column(name))
        else:
            arrays.append(pa.nulls(batch.num_rows))
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def _opened(source: ManifestInput) -> BinaryIO:
    """The open file. JobInvalid where it is no Parquet."""
    head = read_head(source)
    if not head:
        raise JobInvalid(f"{source.name} is empty: not even a Parquet footer is in it.")
    if not head.startswith(_MAGIC):
        found = foreign_format(head) or "text (CSV or JSONL?)"
        raise JobInvalid(f"{source.name}: the name says Parquet, but the file is {found}.")
    return source.open()


def pieces_below(folder: Path, without: Path | None = None) -> list[Piece]:
    """The Parquet files below ``folder`` in the order of their paths.

    Left out are hidden files, those with ``_``, the folder ``without``, and outputs of runs. Raises JobInvalid.
    """
    excluded = None if without is None else without.resolve()
    try:
        paths = sorted(
            path
            for path in _visible_files(folder, excluded)
            if path.suffix.lower() in PARQUET_SUFFIXES or (not path.suffix and _is_parquet(path))
        )
    except OSError as error:
        raise unreadable(error.filename or folder, error) from error
    return [Piece(LocalInput(path), partitions_of(path.relative_to(folder).parts[:-1])) for path in paths]


def _is_parquet(path: Path) -> bool:
    """By content, for a file of Spark without a suffix."""
    return read_head(LocalInput(path)).startswith(_MAGIC)


def _visible_files(folder: Path, excluded: Path | None) -> Iterator[Path]:
    """The files below ``folder`` without hidden ones. Outputs of jobs, ``excluded`` or any other, are left out.

    Links to folders are not followed: a link upward would repeat each row.
    """
    for path in folder.iterdir():
        if path.name.startswith((".", "_")):
            continue
        if path.is_dir():
            if not path.is_symlink() and path.resolve() != excluded and not (path / _OUTPUT_MARK).is_dir():
                yield from _visible_files(path, excluded)
        else:
            yield path


def partitions_of(folders: Iterable[str]) -> dict[str, str | None]:
    """The values of the partition columns in the names of folders."""
    found: dict[str, str | None] = {}
    for folder in folders:
        name, equals, value = folder.partition("=")
        if equals:
            text = unquote(value)
            found[unquote(name)] = None if text == _HIVE_NULL else text
    return found
