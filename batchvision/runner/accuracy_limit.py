"""``limits.min_accuracy``: ask rows with known answers first, and stop the run if too few answers are right.

The known rows are asked in chunks, in the order of a hash. So the rows asked so far are a random sample of the known
rows, however the manifest is sorted. After each chunk the run looks at the answers to all chunks so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.accuracy import chunk_sizes, upper_bound
from batchvision.checkpoint import OutputView
from batchvision.errors import AccuracyTooLow
from batchvision.job import Job
from batchvision.keys import row_digest
from batchvision.runner.known_answers import AnswerCheck

#: More known rows are asked with the remaining rows, without a further look.
MOST_ROWS_FIRST = 12_800

_COLUMNS = ("row_id", "recipe_id", "updated_at", "image_sha256", "output_text", "output_json")


class AccuracyLimit:
    """``right``: row_id -> property -> right answer. ``chunks``: the digests of the rows that are asked first.

    Answers of earlier runs under the same recipe count. Failed rows do not, nor rows that show an example of the
    prompt.
    """

    def __init__(self, job: Job, right: Mapping[str, Mapping[str, str]]) -> None:
        self._job = job
        ordered = sorted(right, key=lambda row_id: row_digest(row_id, ""))[:MOST_ROWS_FIRST]
        self._right = {row_id: right[row_id] for row_id in ordered}
        rest = iter(ordered)
        sizes = chunk_sizes(len(ordered))
        self.chunks = [frozenset(row_digest(row_id, "") for row_id in islice(rest, size)) for size in sizes]

    def look(self, number: int) -> AccuracyTooLow | None:
        """Look at the answers to the first ``number`` chunks. Blocking; reads the durable answers."""
        wanted = self._job.limits.min_accuracy
        answers = self._answers(sum(map(len, self.chunks[:number])))
        if wanted is None or wanted.part is None or not answers:
            return None
        check = AnswerCheck(self._job)
        right = sum(
            check.is_right(self._right[row_id], row["output_json"] or row["output_text"])
            for row_id, row in answers.items()
        )
        bound = upper_bound(right, len(answers), number)
        if bound >= wanted.part:
            return None
        share, output = right / len(answers), self._job.output_url or self._job.output_path
        return AccuracyTooLow(
            f"{share:.1%} of the first {len(answers):,} known rows are right, at most {bound:.1%} with 95% certainty; "
            f"limits.min_accuracy is {wanted}",
            next_step=f"look at the wrong rows (`batchvision report {output}`) and change the prompt, "
            f"or accept less: `--set limits.min_accuracy={int(share * 100)}%`",
            key="limits.min_accuracy",
        )

    def _answers(self, rows: int) -> dict[str, dict[str, Any]]:
        """The newest answer under the job's recipe to each of the first known rows."""
        first = set(islice(self._right, rows))
        recipe_id, examples = self._job.recipe.recipe_id, set(self._job.recipe.example_image_sha256)
        newest: dict[str, tuple[datetime, dict[str, Any]]] = {}
        for batch in OutputView(self._job.output_path).rows("results", _COLUMNS):
            for row in batch.filter(pc.is_in(batch["row_id"], pa.array(sorted(first), pa.string()))).to_pylist():
                if row["recipe_id"] != recipe_id or examples.intersection(row["image_sha256"] or ()):
                    continue
                if row["row_id"] not in newest or newest[row["row_id"]][0] <= row["updated_at"]:
                    newest[row["row_id"]] = row["updated_at"], row
        return {row_id: row for row_id, (_, row) in newest.items()}
