"""The file of a review: its columns, and cells that no spreadsheet runs as a formula."""

from __future__ import annotations

from enum import StrEnum

from batchvision.wording import FORMULA_STARTS

#: ``answer`` and ``verdict`` are empty until a person fills them. ``given`` is the answer of the model.
REVIEW_COLUMNS = ("row_id", "image", "given", "answer", "verdict", "sample")


class SampleKind(StrEnum):
    """How the rows of a file were chosen: its column ``sample``."""

    RANDOM = "random"  #: each answered row was equally likely: the accuracy is that of all rows
    LEAST_CONFIDENT = "least_confident"  #: the likely mistakes: these rows give no accuracy


def guarded(text: str) -> str:
    """A cell with an apostrophe before a formula, and before an apostrophe."""
    return f"'{text}" if text.startswith((*FORMULA_STARTS, "'")) else text


def unguarded(cell: str) -> str:
    """The text of a :func:`guarded` cell."""
    return cell.removeprefix("'")
