"""The input table of a job, in any of its formats, as a stream of Arrow record batches.

Rule: a manifest is never in memory as a whole. A fault in it is a ``JobInvalid`` with the place and the next step.
"""

from batchvision.manifest.cells import NO_TEXT, JsonCells, cell_texts, letters
from batchvision.manifest.columns import needed_columns
from batchvision.manifest.folder import in_words, make_manifest
from batchvision.manifest.image_cells import image_refs, reject_no_images
from batchvision.manifest.inputs import InputIdentity, LocalInput, Manifest, ManifestInput
from batchvision.manifest.keeping import (
    MOST_CELL_BYTES,
    MOST_ID_BYTES,
    has_nul,
    is_longer,
    keep_cells,
    made_storable,
    survey_types,
)
from batchvision.manifest.listed import listed_folder
from batchvision.manifest.manifest import open_manifest, open_table

__all__ = [
    "MOST_CELL_BYTES",
    "MOST_ID_BYTES",
    "NO_TEXT",
    "InputIdentity",
    "JsonCells",
    "LocalInput",
    "Manifest",
    "ManifestInput",
    "cell_texts",
    "has_nul",
    "image_refs",
    "in_words",
    "is_longer",
    "keep_cells",
    "letters",
    "listed_folder",
    "made_storable",
    "make_manifest",
    "needed_columns",
    "open_manifest",
    "open_table",
    "reject_no_images",
    "survey_types",
]
