"""Rows for a review: a random sample, which gives the accuracy of all rows, or the least confident answers."""

from __future__ import annotations

import csv
import heapq
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from batchvision.accuracy import REVIEW_COLUMNS, Proportion, SampleKind, guarded, wilson
from batchvision.checkpoint import IN_MANIFEST
from batchvision.commands.report.answers import AnswerForm, recipe_of
from batchvision.commands.report.gallery import lot_of
from batchvision.commands.status import open_output
from batchvision.errors import JobInvalid

CONFIDENCE = "answer_label_confidence"
#: The interval is stated for an accuracy of this share.
LIKELY = 0.9


class ReviewRow(NamedTuple):
    """An answered row. ``confidence``: the model's own figure."""

    row_id: str
    image: str
    given: str
    confidence: float | None


class ReviewSample(NamedTuple):
    """``rows`` of ``rows_completed``, in the order in which they were drawn."""

    kind: SampleKind
    rows: tuple[ReviewRow, ...]
    rows_completed: int
    seed: int

    @property
    def interval(self) -> Proportion | None:
        """The 95 % interval of the accuracy, if 90 % of the sample are right. ``None``: the rows give no accuracy."""
        if self.kind is not SampleKind.RANDOM or not self.rows:
            return None
        return wilson(round(LIKELY * len(self.rows)), len(self.rows))

    def document(self) -> dict[str, Any]:
        """JSON content. The rows are in the file."""
        interval = None if self.interval is None else self.interval._asdict()
        return {
            "sample": self.kind,
            "rows": len(self.rows),
            "rows_completed": self.rows_completed,
            "seed": self.seed,
            "interval": interval,
        }

    def csv_text(self) -> str:
        """The file: a row for each drawn row, with empty cells for the right answer and the verdict."""
        text = io.StringIO()
        writer = csv.writer(text)
        with_confidence = self.kind is SampleKind.LEAST_CONFIDENT
        writer.writerow([*REVIEW_COLUMNS, "confidence"] if with_confidence else REVIEW_COLUMNS)
        for row in self.rows:
            cells = [guarded(row.row_id), guarded(row.image), guarded(row.given), "", "", self.kind]
            writer.writerow([*cells, row.confidence] if with_confidence else cells)
        return "\ufeff" + text.getvalue()  # a spreadsheet reads UTF-8 then


def draw(output: Path, kind: SampleKind, rows: int, seed: int = 0) -> ReviewSample:
    """Draw at most ``rows`` answered rows of the manifest. The same seed draws the same rows.

    Rows with the image of a prompt example are left out. Raises JobInvalid if there is no output, or no
    confidence to order by.
    """
    view = open_output(output)
    run = view.latest()
    recipe = recipe_of(output, run)
    form, examples = AnswerForm.of(recipe), set(recipe.example_image_sha256 if recipe else ())
    if kind is SampleKind.LEAST_CONFIDENT and CONFIDENCE not in form.columns:
        raise JobInvalid(
            "the answers have no confidence: set answer.labels_confidence = true in the job, and run again"
        )
    count = 0

    def candidates() -> Iterator[tuple[float, str, ReviewRow]]:
        nonlocal count
        for batch in view.current_results(None if run is None else run.recipe_id, with_in_manifest=True):
            for row in batch.to_pylist():
                if not row[IN_MANIFEST] or examples.intersection(row["image_sha256"] or ()):
                    continue
                count += 1
                confidence = row.get(CONFIDENCE)
                order = lot_of(row["row_id"], seed) if kind is SampleKind.RANDOM else confidence
                if order is not None:
                    image = ", ".join(filter(None, row["image_ref"] or ()))
                    yield order, row["row_id"], ReviewRow(row["row_id"], image, form.text(row), confidence)

    drawn = heapq.nsmallest(rows, candidates())
    return ReviewSample(kind, tuple(row for _, _, row in drawn), count, seed)
