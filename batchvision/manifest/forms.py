"""A manifest's file -> its reader, by its form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from batchvision.manifest.columns import reject_missing
from batchvision.manifest.delimited import DelimitedManifest
from batchvision.manifest.jsonl import JsonLinesManifest
from batchvision.manifest.opening import Form, form_of
from batchvision.manifest.parquet import ParquetManifest


class Manifest(Protocol):
    """A table that can be streamed as often as wanted."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns (of JSONL: those of the first line)."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files it lies in."""

    @property
    def byte_columns(self) -> frozenset[str]:
        """The columns that hold bytes, which are better not read for nothing."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of every row in order, in batches of bounded size. JobInvalid at damage."""


def opened(path: Path, needed: Mapping[str, str]) -> Manifest:
    """The reader of a regular file. ``needed``: column -> who asks for it. Raises JobInvalid."""
    form, packing = form_of(path)
    match form:
        case Form.PARQUET:
            return ParquetManifest(path, needed)
        case Form.JSONL:
            return JsonLinesManifest(path, packing, needed)
        case Form.CSV | Form.TSV:
            table = DelimitedManifest(path, packing, tabs=form is Form.TSV)
            reject_missing(needed, table.columns, path.name)
            return table
