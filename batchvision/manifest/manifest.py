"""Open a manifest: choose the reader by the format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from batchvision.errors import JobInvalid
from batchvision.manifest.columns import needed_columns, reject_missing
from batchvision.manifest.delimited import DelimitedManifest
from batchvision.manifest.inputs import LocalInput, ManifestInput
from batchvision.manifest.jsonl import JsonLinesManifest
from batchvision.manifest.parquet import ParquetManifest, Piece, pieces_below
from batchvision.manifest.text_file import TableFormat, format_of

if TYPE_CHECKING:
    from batchvision.job import Job


class Manifest(Protocol):
    """A table that can be read any number of times."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns (of JSONL: those of the first line)."""

    @property
    def inputs(self) -> tuple[ManifestInput, ...]:
        """The files that it consists of."""

    @property
    def byte_columns(self) -> frozenset[str]:
        """The columns that hold bytes. They are large: read them only where they are needed."""

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of every row in order, in batches of bounded size. Raises JobInvalid at damage."""


def open_manifest(job: Job) -> Manifest:
    """The job's manifest, with its format and columns checked. Reads no row (of JSONL: one). Raises JobInvalid."""
    if "://" in str(job.manifest.path):
        raise JobInvalid(f"{job.manifest.path}: a manifest is a local file for now; copy it here and name the copy.")
    path, needed = job.manifest_path, needed_columns(job)
    if path.is_dir():
        if path.resolve() == job.output_path.resolve():
            raise JobInvalid(
                f"output.path is the manifest's own folder, {path}: answers would be read as rows. Name another "
                "folder, which may lie inside."
            )
        return ParquetManifest(path.name, pieces_below(path, job.output_path), needed)
    if not path.exists():
        raise JobInvalid(f"{path} does not exist: correct [manifest] path, or pass --manifest FILE.")
    if not path.is_file():
        raise JobInvalid(f"{path} is no regular file: a manifest is read twice, so write it to a file first.")
    return open_table(LocalInput(path), needed)


def open_table(source: ManifestInput, needed: Mapping[str, str]) -> Manifest:
    """The reader of one file. ``needed``: column -> the job key that names it. Raises JobInvalid."""
    table_format, packing = format_of(source.name)
    match table_format:
        case TableFormat.PARQUET:
            return ParquetManifest(source.name, [Piece(source, {})], needed)
        case TableFormat.JSONL:
            return JsonLinesManifest(source, packing, needed)
        case TableFormat.CSV | TableFormat.TSV:
            table = DelimitedManifest(source, packing, tabs=table_format is TableFormat.TSV)
            reject_missing(needed, table.columns, source.name)
            return table
