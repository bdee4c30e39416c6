"""Open a manifest: choose the reader by the format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from batchvision.errors import JobInvalid
from batchvision.job import is_output
from batchvision.manifest.another_output import OutputManifest
from batchvision.manifest.columns import needed_columns, reject_missing
from batchvision.manifest.delimited import DelimitedManifest
from batchvision.manifest.filtered import FilteredManifest
from batchvision.manifest.inputs import LocalInput, Manifest, ManifestInput
from batchvision.manifest.jsonl import JsonLinesManifest
from batchvision.manifest.listed import ListedManifest, listed_folder, listed_prefix
from batchvision.manifest.object_input import ObjectInput, object_pieces
from batchvision.manifest.parquet import ParquetManifest, Piece, pieces_below
from batchvision.manifest.query import QueryManifest
from batchvision.manifest.text_file import TableFormat, format_of
from batchvision.object_store import is_object_url

if TYPE_CHECKING:
    from batchvision.job import Job


def open_manifest(job: Job) -> Manifest:
    """The job's manifest, with its format and columns checked. Reads no row (of JSONL: one). Raises JobInvalid.

    A folder of images is listed here, and a query is asked here. So all passes of a run read one opened manifest.
    """
    manifest = _unfiltered(job)
    return manifest if job.manifest.where is None else FilteredManifest(manifest, job.manifest.where)


def _unfiltered(job: Job) -> Manifest:
    path, needed = job.manifest_path, needed_columns(job)
    if job.manifest.query is not None:
        return QueryManifest(job, needed)
    if is_object_url(job.manifest.path):
        return _in_object_store(job.manifest.path, needed)
    if path.is_dir():
        if path.resolve() == job.output_path.resolve():
            raise JobInvalid(
                f"output.path is the manifest's own folder, {path}: answers would be read as rows. Name another "
                "folder, which may lie inside."
            )
        if is_output(path):
            return OutputManifest(path, needed)
        return _folder(path, job.output_path, needed)
    if not path.exists():
        raise JobInvalid(f"{path} does not exist: correct [manifest] path, or pass --manifest FILE.")
    if not path.is_file():
        raise JobInvalid(f"{path} is no regular file: a manifest is read twice, so write it to a file first.")
    return open_table(LocalInput(path), needed)


def _folder(path: Path, without: Path, needed: Mapping[str, str]) -> Manifest:
    """A folder of Parquet files, which may have images beside them, or a folder of images."""
    if pieces := pieces_below(path, without):
        return ParquetManifest(path.name, pieces, needed)
    listing = listed_folder(path, without)
    if not len(listing.ids):
        raise JobInvalid(f"the folder {path} holds no Parquet file and no image: correct [manifest] path.")
    return ListedManifest(listing, needed)


def _in_object_store(url: str, needed: Mapping[str, str]) -> Manifest:
    """An object, or below a URL that ends in a slash Parquet objects or images."""
    if not url.endswith("/"):
        return open_table(ObjectInput(url), needed)
    if pieces := object_pieces(url):
        return ParquetManifest(url, pieces, needed)
    listing = listed_prefix(url)
    if not len(listing.ids):
        raise JobInvalid(f"there is no Parquet object and no image below {url}: correct [manifest] path.")
    return ListedManifest(listing, needed)


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
