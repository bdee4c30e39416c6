"""A stretch of the manifest in columns, and the ``Row`` objects of it that are to do.

Rule: only who needs a row's texts, images and kept cells has objects made of them; to count them, columns are enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batchvision import keys
from batchvision.manifest import keep_cells, made_storable
from batchvision.records import Cell, ImageRef, Prompt, Row
from batchvision.runner.feed.keying import BatchPrompts, request_digests
from batchvision.runner.feed.picture import BatchImages

if TYPE_CHECKING:
    from batchvision.job import KeepColumn

#: A stretch's cells are held in columns; so many of its rows are objects at a time.
_ROWS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """Rows to do of a stretch of the manifest, and how many of it are not (told once, with the first rows).

    ``rows`` includes ``invalid`` ones (``Row.problem`` set). ``failed_kept``: failed before and not retried,
    ``quarantined`` of them set aside. ``left``: to do, but not chosen in this pass (limit, sample, only, or ``kept``);
    they stay pending. ``kept``: those of them that keep what was paid for under another recipe, with
    ``on_recipe_change = "new_rows_only"``. ``images_found``: done rows with a local image that is there.
    """

    rows: tuple[Row, ...]
    done: int = 0
    failed_kept: int = 0
    quarantined: int = 0
    awaiting: int = 0
    held: int = 0
    left: int = 0
    invalid: int = 0
    kept: int = 0
    images_found: int = 0


@dataclass(slots=True)
class Tally:
    """How many rows of a stretch are not to do, and the ``places`` of those that are; ``retried``: the positions of
    those among them that have failed before."""

    places: list[int] = field(default_factory=list)
    retried: set[int] = field(default_factory=set)
    done: int = 0
    failed_kept: int = 0
    quarantined: int = 0
    awaiting: int = 0
    held: int = 0
    left: int = 0
    kept: int = 0
    images_found: int = 0

    def told_with(self, rows: tuple[Row, ...]) -> FeedBatch:
        return FeedBatch(
            rows,
            done=self.done,
            failed_kept=self.failed_kept,
            quarantined=self.quarantined,
            awaiting=self.awaiting,
            held=self.held,
            left=self.left,
            invalid=sum(row.problem is not None for row in rows),
            kept=self.kept,
            images_found=self.images_found,
        )


class UrlRows(NamedTuple):
    """What is asked for rows of plain URLs, as far as it is counted: request_keys, 16 bytes each; the length of each
    text; and the number of its images."""

    request_keys: bytes
    text_chars: list[int]
    images: list[int]


@dataclass(slots=True)
class Stretch:
    """A stretch's rows in columns, as far as their state depends on them. ``stamps``: of all of a row's images, framed
    and joined. ``keys``: skip_keys, 16 bytes each. ``problems``: place -> why it is invalid.
    """

    batch: pa.RecordBatch
    positions: Sequence[int]
    ids: pa.Array
    prompts: BatchPrompts
    images: BatchImages
    stamps: pa.Array
    keys: bytes
    problems: dict[int, str]
    keep: Sequence[tuple[KeepColumn, pa.DataType]]
    tally: Tally = field(default_factory=Tally)

    def key(self, place: int) -> str:
        """The row's skip_key."""
        return self.keys[place * keys.KEY_BYTES : (place + 1) * keys.KEY_BYTES].hex()

    def count_local(self, places: Sequence[int]) -> int:
        """How many of some rows have a local image, and it is there."""
        if self.images.are_all_plain or not places:
            return 0
        found = pc.match_substring_regex(self.stamps.take(pa.array(places, pa.int64())), r"\d+:path:")
        return int(pc.sum(found).as_py() or 0)

    def altered_places(self, places: list[int], ignores_parameters: bool) -> list[int]:
        """Of some rows those of which a local image is gone, or a URL may differ in a parameter only."""
        if not places:
            return []
        signs = r"\d+:missing:|\d+:url:" if ignores_parameters else r"\d+:missing:"
        found = pc.match_substring_regex(self.stamps.take(pa.array(places, pa.int64())), signs)
        return [place for place, is_altered in zip(places, found.to_pylist(), strict=True) if is_altered]

    # ------------------------------------------------------------------------------ rows to do, as columns

    def sound_places(self) -> list[int]:
        """Of the rows to do, those that are not invalid."""
        return [place for place in self.tally.places if place not in self.problems]

    def problem_places(self) -> list[int]:
        """Of the rows to do, those that are."""
        return [place for place in self.tally.places if place in self.problems]

    def url_rows(self, places: list[int], recipe_id: str) -> UrlRows:
        """Of some sound rows, where ``images.are_all_plain``: what stamps them is what they are."""
        chosen = pa.array(places, pa.int64())
        texts = self.prompts.texts
        texts = texts if isinstance(texts, str) else texts.take(chosen)
        chars = [len(texts)] * len(places) if isinstance(texts, str) else pc.utf8_length(texts).to_pylist()
        found = request_digests(recipe_id, texts, self.stamps.take(chosen))
        return UrlRows(found, chars, self.images.plain_counts(chosen))

    # ------------------------------------------------------------------------------ rows to do, as objects

    def batches(self) -> Iterator[FeedBatch]:
        """The counts at once, the rows some at a time."""
        tally = self.tally
        for start in range(0, max(1, len(self.tally.places)), _ROWS_AT_ONCE):
            yield tally.told_with(self.rows(self.tally.places[start : start + _ROWS_AT_ONCE]))
            tally = Tally()

    def rows(self, places: list[int]) -> tuple[Row, ...]:
        if not places:
            return ()
        chosen = pa.array(places, pa.int64())
        parts = (self.ids.take(chosen).to_pylist(), self.prompts.of_rows(chosen), self.images.of_rows(places))
        return tuple(
            self._row(place, row_id, prompt, refs, keep)
            for place, row_id, prompt, refs, keep in zip(places, *parts, self.kept_cells(places), strict=True)
        )

    def kept_cells(self, places: Sequence[int]) -> list[tuple[Cell, ...]]:
        """Of some rows, in the order of the job's kept columns."""
        chosen = pa.array(places, pa.int64())
        cells = [
            keep_cells(self.batch.column(column.source).take(chosen), self.batch.schema.field(column.source), target)
            for column, target in self.keep
        ]
        return list(zip(*cells, strict=True)) if cells else [()] * len(chosen)

    def _row(
        self, place: int, row_id: str, prompt: Prompt, images: tuple[ImageRef, ...], keep: tuple[Cell, ...]
    ) -> Row:
        position, key, problem = self.positions[place], self.key(place), self.problems.get(place)
        if problem is None:
            return Row(position, row_id, prompt, images, keep, key)
        return Row(position, row_id, (), (), made_storable(keep), key, problem)
