"""A stretch of the manifest in columns, and ``Row`` objects of the rows that need them.

Rule: counting works on columns. A ``Row`` object is made only where its prompt, images and kept cells are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from batchvision import keys
from batchvision.manifest import keep_cells, made_storable
from batchvision.records import Cell, Row
from batchvision.runner.feed.batch_images import BatchImages
from batchvision.runner.feed.keying import BatchPrompts, request_digests

if TYPE_CHECKING:
    from batchvision.job import KeepColumn

#: A stretch gives its rows as objects in batches of this size.
_ROWS_AT_ONCE = 512


@dataclass(slots=True)
class PassCounts:
    """Rows of the manifest that this pass does not send.

    ``failed_kept``: failed before and not retried; ``quarantined`` of them are set aside. ``left``: not chosen in this
    pass (limit, sample, only, or ``kept``). They stay pending. ``kept``: they keep an older answer by the job's policy.
    ``redo``: rows of ``done`` that this pass asks again. ``images_found``: done rows with a local image that exists.
    """

    done: int = 0
    failed_kept: int = 0
    quarantined: int = 0
    awaiting: int = 0
    held: int = 0
    left: int = 0
    kept: int = 0
    redo: int = 0
    images_found: int = 0


@dataclass(frozen=True, slots=True)
class FeedBatch:
    """Rows to do, invalid ones included. ``counts``: of a whole stretch; they come with its first batch."""

    rows: tuple[Row, ...]
    counts: PassCounts


@dataclass(slots=True)
class Tally:
    """The ``places`` of a stretch's rows to do, and the counts of its other rows.

    ``retried``: positions of the rows to do that have failed before. ``known``: the request_keys of the places whose
    requests were sent under another image or URL.
    """

    places: list[int] = field(default_factory=list)
    retried: set[int] = field(default_factory=set)
    known: dict[int, str] = field(default_factory=dict)
    counts: PassCounts = field(default_factory=PassCounts)


@dataclass(slots=True)
class Stretch:
    """The columns that decide the state of a stretch's rows.

    ``stamps``: the framed stamps of all images of a row, joined. ``keys``: skip_keys, 16 bytes each. ``problems``:
    place -> why the row is invalid.
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
        """The number of these rows with an existing local image."""
        if self.images.are_all_plain or not places:
            return 0
        found = pc.match_substring_regex(self.stamps.take(pa.array(places, pa.int64())), r"\d+:path:")
        return int(pc.sum(found).as_py() or 0)

    def altered_places(self, places: list[int], ignores_parameters: bool) -> list[int]:
        """The rows among these with a missing local image, or with a URL that may differ in an ignored part only."""
        if not places:
            return []
        signs = r"\d+:missing:|\d+:url:" if ignores_parameters else r"\d+:missing:"
        found = pc.match_substring_regex(self.stamps.take(pa.array(places, pa.int64())), signs)
        return [place for place, is_altered in zip(places, found.to_pylist(), strict=True) if is_altered]

    # ------------------------------------------------------------------------------ rows to do, as columns

    def sound_places(self) -> list[int]:
        """The valid rows to do."""
        return [place for place in self.tally.places if place not in self.problems]

    def url_request_keys(self, places: list[int], recipe_id: str) -> bytes:
        """The request_keys of valid rows, 16 bytes each.

        Only where ``images.are_all_plain``: there a stamp is the image's identity.
        """
        chosen, texts = pa.array(places, pa.int64()), self.prompts.texts
        texts = texts if isinstance(texts, str) else texts.take(chosen)
        return request_digests(recipe_id, texts, self.stamps.take(chosen))

    # ------------------------------------------------------------------------------ rows to do, as objects

    def batches(self) -> Iterator[FeedBatch]:
        """The rows to do in batches, at least one. The first has the counts."""
        counts, places = self.tally.counts, self.tally.places
        for start in range(0, max(1, len(places)), _ROWS_AT_ONCE):
            yield FeedBatch(self.rows(places[start : start + _ROWS_AT_ONCE]), counts)
            counts = PassCounts()

    def rows(self, places: list[int]) -> tuple[Row, ...]:
        if not places:
            return ()
        chosen = pa.array(places, pa.int64())
        parts = (self.ids.take(chosen).to_pylist(), self.prompts.of_rows(chosen), self.images.of_rows(places))
        rows: list[Row] = []
        for place, row_id, prompt, refs, keep in zip(places, *parts, self.kept_cells(places), strict=True):
            position, key, problem = self.positions[place], self.key(place), self.problems.get(place)
            if problem is None:
                rows.append(Row(position, row_id, prompt, refs, keep, key, None, self.tally.known.get(place)))
            else:
                rows.append(Row(position, row_id, (), (), made_storable(keep), key, problem))
        return tuple(rows)

    def kept_cells(self, places: Sequence[int]) -> list[tuple[Cell, ...]]:
        """The cells of the job's kept columns, row by row."""
        chosen = pa.array(places, pa.int64())
        cells = [
            keep_cells(self.batch.column(column.source).take(chosen), self.batch.schema.field(column.source), target)
            for column, target in self.keep
        ]
        return list(zip(*cells, strict=True)) if cells else [()] * len(chosen)
