"""The input table, whatever its form, as a stream of normalised Arrow record batches.

Rule: a manifest is never in memory whole, and what is wrong with it is a ``JobInvalid`` that says where and what to do.
What its cells mean (text, images, kept values) is told by ``cells``, ``image_cells`` and ``keeping``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchvision.errors import JobInvalid
from batchvision.manifest.cells import NO_TEXT, JsonCells, cell_texts, letters
from batchvision.manifest.columns import needed_columns
from batchvision.manifest.folder import in_words, make_manifest
from batchvision.manifest.forms import Manifest, opened
from batchvision.manifest.image_cells import image_refs, reject_no_images
from batchvision.manifest.keeping import (
    MOST_CELL_BYTES,
    MOST_ID_BYTES,
    has_nul,
    is_longer,
    keep_cells,
    made_storable,
    survey_types,
)
from batchvision.manifest.parquet import ParquetManifest

if TYPE_CHECKING:
    from batchvision.job import Job

__all__ = [
    "MOST_CELL_BYTES",
    "MOST_ID_BYTES",
    "NO_TEXT",
    "JsonCells",
    "Manifest",
    "cell_texts",
    "has_nul",
    "image_refs",
    "in_words",
    "is_longer",
    "keep_cells",
    "letters",
    "made_storable",
    "make_manifest",
    "needed_columns",
    "open_manifest",
    "reject_no_images",
    "survey_types",
]


def open_manifest(job: Job) -> Manifest:
    """The job's manifest, its form and columns checked. Sends nothing, reads no rows (of JSONL: one)."""
    if "://" in str(job.manifest.path):
        raise JobInvalid(f"{job.manifest.path}: a manifest is a local file for now; copy it here and name the copy.")
    path, needed = job.manifest_path, needed_columns(job)
    if path.is_dir():
        if path.resolve() == job.output_path.resolve():
            raise JobInvalid(
                f"output.path is the manifest's own folder, {path}: answers would be read as rows. Name another "
                "folder, which may lie inside."
            )
        return ParquetManifest(path, needed, without=job.output_path)
    if not path.exists():
        raise JobInvalid(f"{path} does not exist: correct [manifest] path, or pass --manifest FILE.")
    if not path.is_file():
        raise JobInvalid(f"{path} is no regular file: a manifest is read twice, so write it to a file first.")
    return opened(path, needed)
