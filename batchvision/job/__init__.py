"""The job: a TOML file, the environment and flags become one frozen, validated object.

Rule: every problem is reported at once, and nothing after ``Job.load`` has to doubt a setting again.
"""

from __future__ import annotations

from batchvision.job.columns import FIXED_COLUMNS, TEXT, KeepColumn, keep_columns, main_property
from batchvision.job.files import is_blank, separator_of
from batchvision.job.key import checked_key, resolved
from batchvision.job.limits import OutputSection
from batchvision.job.loading import DEFAULT_TABLE_PREFIX, LOADED_TABLES, LoadSection
from batchvision.job.model import Job
from batchvision.job.object_urls import local_copy
from batchvision.job.places import is_output
from batchvision.job.recipe import changed_keys, recipe_document, recipe_from_document
from batchvision.job.values import RowLimit

__all__ = [
    "DEFAULT_TABLE_PREFIX",
    "FIXED_COLUMNS",
    "LOADED_TABLES",
    "TEXT",
    "Job",
    "KeepColumn",
    "LoadSection",
    "OutputSection",
    "RowLimit",
    "changed_keys",
    "checked_key",
    "is_blank",
    "is_output",
    "keep_columns",
    "local_copy",
    "main_property",
    "recipe_document",
    "recipe_from_document",
    "resolved",
    "separator_of",
]
