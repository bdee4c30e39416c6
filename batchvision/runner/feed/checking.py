"""Turn a batch of the manifest into a stretch: ids, prompts, stamps, keys, and the problems of invalid rows.

Rule: an invalid row keeps its place, gets an id of its own, and has a key made of its problem.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchvision import keys
from batchvision.manifest import (
    MOST_CELL_BYTES,
    MOST_ID_BYTES,
    NO_TEXT,
    cell_texts,
    has_nul,
    is_longer,
)
from batchvision.runner.feed.batch_images import BatchImages
from batchvision.runner.feed.keying import image_columns, prompts_of, row_ids, skip_digests
from batchvision.runner.feed.selection import Selection
from batchvision.runner.feed.stretch import Stretch
from batchvision.runner.feed.surveying import Survey, own_places, position_id

if TYPE_CHECKING:
    from batchvision.job import Job

#: The rendered prompts of one stretch have about this many characters.
_PROMPT_CHARACTERS = 16 * 1024 * 1024
_LEAST_ROWS = 64


class StretchBuilder:
    """Builds the stretches of one pass, in the order of the manifest."""

    def __init__(self, job: Job, survey: Survey, selection: Selection) -> None:
        self._job = job
        self._secrets = survey.secrets
        self._selection = selection
        self._keep = [(column, target) for column, (_, target) in zip(job.keep_columns, survey.keep_types, strict=True)]
        self._images = image_columns(job)
        self._repeats = _RepeatedIds(survey.repeated, are_invalid=bool(job.id_columns))
        self._rows_before = 0
        template_characters = 0 if job.recipe.user is None else len(job.recipe.user)
        #: A stretch has at most this many rows.
        self.most_rows = max(_LEAST_ROWS, _PROMPT_CHARACTERS // (template_characters + 256))

    def build(self, batch: pa.RecordBatch) -> Stretch:
        """The stretch of the next rows. Of a shard it has the shard's own rows only."""
        ids = row_ids(batch, self._job, self._secrets)
        positions: Sequence[int] = range(self._rows_before + 1, self._rows_before + batch.num_rows + 1)
        rows_before, self._rows_before = self._rows_before, self._rows_before + batch.num_rows
        if self._selection.shards > 1:
            own = own_places(ids, self._selection, rows_before)
            positions = [positions[place] for place in own]
            batch, ids = batch.take(pa.array(own, pa.int64())), ids.take(pa.array(own, pa.int64()))
        images = BatchImages(batch, self._images)
        prompts, stamps = prompts_of(batch, self._job), images.stamps()
        problems: dict[int, str] = {}
        ids = self._checked_ids(ids, positions, problems)
        self._add_cell_problems(problems, batch, images)
        if isinstance(prompts.texts, pa.Array) and prompts.texts.null_count:
            null_prompts = true_places(prompts.texts.is_null())
            _add(problems, null_prompts, f"its prompt is null (column {self._job.prompt_columns[0]!r})")
        if self._job.manifest.images:
            columns = ", ".join(repr(name) for name in self._job.manifest.images)
            _add(problems, true_places(pc.equal(stamps, NO_TEXT)), f"it has no image (column {columns})")
        recipe_id = self._job.recipe.recipe_id
        skip_keys = skip_digests(recipe_id, prompts.texts, stamps)
        if problems:
            changed = bytearray(skip_keys)
            for place, problem in problems.items():
                key = keys.key_bytes(keys.skip_key(recipe_id, problem, ["row_invalid"]))
                changed[place * keys.KEY_BYTES : (place + 1) * keys.KEY_BYTES] = key
            skip_keys = bytes(changed)
        return Stretch(batch, positions, ids, prompts, images, stamps, skip_keys, problems, self._keep)

    def _checked_ids(self, ids: pa.Array, positions: Sequence[int], problems: dict[int, str]) -> pa.Array:
        """Each row with an id of its own. Adds a problem where the id is missing, repeated or not storable."""
        if ids.null_count or self._repeats.expected:
            ids = self._unique_ids(ids, positions, problems)
        if nul_places := true_places(has_nul(ids)):
            _add(problems, nul_places, "its id holds a NUL character")
            ids = pc.replace_substring(ids, "\x00", "\ufffd")
        if long_places := true_places(is_longer(ids, MOST_ID_BYTES)):
            _add(problems, long_places, f"its id has more than {MOST_ID_BYTES:,} bytes")
            names = ids.to_pylist()
            for place in long_places:
                names[place] = position_id(positions[place])
            ids = pa.array(names, pa.string())
        return ids

    def _unique_ids(self, ids: pa.Array, positions: Sequence[int], problems: dict[int, str]) -> pa.Array:
        names = ids.to_pylist()
        for place, name in enumerate(names):
            if name is None:
                names[place] = position_id(positions[place])
                problems[place] = f"it has no id: {' and '.join(self._job.id_columns)} must not be empty"
            elif repeated := self._repeats.seen_again(name, positions[place]):
                names[place], problem = repeated
                if problem:
                    problems[place] = problem
        return pa.array(names, pa.string())

    def _add_cell_problems(self, problems: dict[int, str], batch: pa.RecordBatch, images: BatchImages) -> None:
        """Cells that are too long, or that no warehouse stores."""
        for name in dict.fromkeys((*self._job.prompt_columns, *(column.source for column in self._job.keep_columns))):
            cells = batch.column(name)
            if types.is_string(cells.type) or types.is_list(cells.type):
                texts = cell_texts(cells, batch.schema.field(name))
                _add(problems, true_places(has_nul(texts)), f"its cell {name!r} holds a NUL character")
            elif types.is_binary(cells.type):
                texts = cells
            elif types.is_nested(cells.type) and cells.nbytes > MOST_CELL_BYTES // 8:  # as JSON it may be larger
                texts = cell_texts(cells, batch.schema.field(name))
            else:
                continue
            long_places = true_places(is_longer(texts, MOST_CELL_BYTES))
            _add(problems, long_places, f"its cell {name!r} has more than {MOST_CELL_BYTES:,} bytes")
        _add(problems, images.places_with_nul(), "an image reference holds a NUL character")


def true_places(flags: pa.Array) -> list[int]:
    """The places where a boolean column is true."""
    if not pc.any(flags).as_py():
        return []
    return list(pc.indices_nonzero(flags).to_pylist())


def _add(problems: dict[int, str], places: Iterable[int], problem: str) -> None:
    """A row is listed with its first problem."""
    for place in places:
        problems.setdefault(place, problem)


class _RepeatedIds:
    """Follows the ids that may come more than once. ``expected``: their hashes, as the survey found them."""

    def __init__(self, expected: frozenset[int], *, are_invalid: bool) -> None:
        self.expected = expected
        self._are_invalid = are_invalid
        self._first: dict[str, int] = {}
        self._times: dict[str, int] = {}

    def seen_again(self, row_id: str, position: int) -> tuple[str, str | None] | None:
        """A repeated row's own id, and its problem where ids must be unique. Nothing at the first time."""
        if hash(row_id) not in self.expected:
            return None
        times = self._times[row_id] = self._times.get(row_id, 0) + 1
        first = self._first.setdefault(row_id, position)
        if times == 1:
            return None
        if not self._are_invalid:
            return f"{row_id}-{times}", None
        return f"{row_id}#{times}", f"row_id {row_id} appears first in row {first}"
