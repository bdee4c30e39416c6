"""Count the rows that a pass would buy again, because the recipe, their cells or their images changed.

Rule: it reads the manifest, and each local image that may only have been touched. It changes only ``RowsMet``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchvision.checkpoint import PaidRows, RowIndex, RowState
from batchvision.keys import KEY_BYTES
from batchvision.records import Row
from batchvision.runner.feed.by_content import ByContent
from batchvision.runner.feed.stretch import Stretch

if TYPE_CHECKING:
    from batchvision.job import Job

#: Rows with an answer are compared in groups of this size.
ROWS_AT_ONCE = 128
#: Each time this number of images was read, a smaller share of the rows is compared: a quarter, a sixteenth, ...
READ_BEFORE_SKIPPING = 1_000
SKIP_FACTOR = 4


@dataclass(slots=True)
class Changes:
    """Counts of rows of today's manifest.

    ``again``: to do, and last paid for under another recipe, by recipe_id. ``changed``: to do, and paid for under this
    recipe with different cells or images. ``paid``: ever paid for under this recipe. ``kept``: keeping an older answer
    by the job's policy. ``ticks``: cost of the rows of ``again`` and ``changed``.
    """

    rows: int = 0
    new: int = 0
    changed: int = 0
    paid: int = 0
    kept: int = 0
    again: Counter[str] = field(default_factory=Counter)
    ticks: int = 0
    #: a few changed rows, to find the changed columns
    examples: list[Row] = field(default_factory=list)

    @property
    def rows_again(self) -> int:
        return self.again.total()


#: This many changed rows are kept as examples.
EXAMPLES = 50


class ChangeCounter:
    """Counts the changes of one pass, stretch by stretch."""

    def __init__(self, job: Job, row_index: RowIndex) -> None:
        self.found = Changes()
        self._row_index = row_index
        self._by_content = ByContent(job)
        self._paid: PaidRows | None = None
        self._weight = 1  #: number of rows that each compared row stands for
        self._skipped = 0

    @property
    def nothing_was_paid(self) -> bool:
        """Whether each row is known to be new."""
        return self._paid is not None and not len(self._paid)

    def add(self, stretch: Stretch) -> None:
        """Count the rows of a stretch."""
        found, tally = self.found, stretch.tally
        found.rows += len(stretch.ids)
        found.kept += tally.counts.kept
        found.paid += tally.counts.done
        sound = np.array(stretch.sound_places(), np.int64)
        if not len(sound):
            return
        if self._paid is None:
            self._paid = self._row_index.paid_rows()
        known = self._paid.find(stretch.ids.take(pa.array(sound.tolist(), pa.int64())))
        found.new += int((known < 0).sum())
        sound, known = sound[known >= 0], known[known >= 0]
        has_current = self._paid.have_current(known)
        found.paid += int(has_current.sum())
        self._add(known[~has_current], self._paid)
        self._add_by_content(stretch, sound[has_current], known[has_current], self._paid)

    def _add(self, known: NDArray[np.int64], paid: PaidRows, weight: int = 1) -> None:
        """Count rows that are asked again. ``known``: their places in ``paid``. Each counts ``weight`` times."""
        self.found.ticks += weight * paid.ticks(known)
        for number, count in enumerate(np.bincount(paid.newest_recipes(known)).tolist()):
            if count and number:
                self.found.again[paid.recipes[number]] += weight * count
            elif count:
                self.found.changed += weight * count

    def _add_by_content(
        self, stretch: Stretch, places: NDArray[np.int64], known: NDArray[np.int64], paid: PaidRows
    ) -> None:
        """Compare rows with an answer of this recipe: perhaps only the times of their images have changed."""
        if not len(places):
            return
        if stretch.images.are_all_plain:
            self._add_by_url(stretch, places, known, paid)
            return
        for start in range(0, len(places), ROWS_AT_ONCE):
            self._look_at(stretch, places[start : start + ROWS_AT_ONCE], known[start : start + ROWS_AT_ONCE], paid)

    def _add_by_url(
        self, stretch: Stretch, places: NDArray[np.int64], known: NDArray[np.int64], paid: PaidRows
    ) -> None:
        """:meth:`_add_by_content` for rows of plain URLs. Reads no image and makes no ``Row`` of an unchanged row."""
        keys = stretch.url_request_keys(places.tolist(), paid.recipes[0]).hex()
        ids = stretch.ids.take(pa.array(places.tolist(), pa.int64())).to_pylist()
        digits = 2 * KEY_BYTES
        requests = [(row_id, keys[at * digits : (at + 1) * digits]) for at, row_id in enumerate(ids)]
        for row_id, key in requests:
            self._row_index.meet(row_id, key)
        asked = [at for at, each in enumerate(requests) if self._row_index.state(*each) is RowState.NEW]
        self._add(known[asked], paid)
        few = places[asked][: EXAMPLES - len(self.found.examples)]
        self.found.examples += stretch.rows(few.tolist())

    def _look_at(self, stretch: Stretch, places: NDArray[np.int64], known: NDArray[np.int64], paid: PaidRows) -> None:
        weights = [self._weight_of_next() for _ in range(len(places))]
        looked_at = [at for at, weight in enumerate(weights) if weight]
        for at, row in zip(looked_at, stretch.rows(places[looked_at].tolist()), strict=True):
            key = self._by_content.request_key(row)
            if key is None:
                continue
            self._row_index.meet(row.row_id, key)
            if self._row_index.state(row.row_id, key) is not RowState.NEW:
                continue
            self._add(known[at : at + 1], paid, weights[at])
            if len(self.found.examples) < EXAMPLES:
                self.found.examples.append(row)

    def _weight_of_next(self) -> int:
        """How many rows the next one stands for. 0: it is not compared."""
        if self._by_content.images_read >= READ_BEFORE_SKIPPING:
            self._by_content.images_read, self._weight = 0, self._weight * SKIP_FACTOR
        self._skipped = (self._skipped + 1) % self._weight
        return self._weight if self._skipped == 0 else 0
