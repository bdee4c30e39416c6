"""The input table, whatever its form, as a stream of normalised Arrow record batches.

Rule: a manifest is never in memory whole, and what is wrong with it is a ``JobInvalid`` that says where and what to do.
What its cells mean (text, images, kept values) is told by ``cells``, ``image_cells`` and ``keeping``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from batchvision.errors import JobInvalid
from batchvision.manifest.columns import needed_columns, reject_missing
from batchvision.manifest.delimited import DelimitedManifest
from batchvision.manifest.folder import make_manifest
from batchvision.manifest.jsonl import JsonLinesManifest
from batchvision.manifest.opening import Form, form_of
from batchvision.manifest.parquet import ParquetManifest

if TYPE_CHECKING:
    from batchvision.job import Job

__all__ = ["Manifest", "make_manifest", "open_manifest"]


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


def open_manifest(job: Job) -> Manifest:
    """The job's manifest, its form and columns checked. Sends nothing, reads no rows (of JSONL: one)."""
    if "://" in str(job.manifest.path):
        raise JobInvalid(f"{job.manifest.path}: a manifest is a local file for now; copy it here and name the copy.")
    path, needed = job.manifest_path, needed_columns(job)
    if path.is_dir():
        return ParquetManifest(path, needed)
    if not path.exists():
        raise JobInvalid(f"{path} does not exist: correct [manifest] path, or pass --manifest FILE.")
    if not path.is_file():
        raise JobInvalid(f"{path} is no regular file: a manifest is read twice, so write it to a file first.")
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
