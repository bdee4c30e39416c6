"""The second pass: streams the manifest again and gives the rows that are to do, batch by batch.

Rule: ``done + failed_kept + awaiting + held + left + len(rows)`` of all batches is the survey's ``rows``.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchvision import keys
from batchvision.checkpoint import RowState, StoredAnswer
from batchvision.errors import JobInvalid, ManifestChanged
from batchvision.manifest import (
    MOST_CELL_BYTES,
    MOST_ID_BYTES,
    NO_TEXT,
    cell_texts,
    has_nul,
    is_longer,
    needed_columns,
    open_manifest,
)
from batchvision.records import Failed, Row
from batchvision.runner.feed.by_content import ByContent
from batchvision.runner.feed.keying import image_columns, prompts_of, row_ids, skip_digests
from batchvision.runner.feed.picture import BatchImages
from batchvision.runner.feed.selection import Chooser, Selection
from batchvision.runner.feed.stretch import FeedBatch, Stretch
from batchvision.runner.feed.surveying import Survey, nameless, own_places

if TYPE_CHECKING:
    from batchvision.job import Job

#: Rendered prompts of one batch are held to about so many characters.
_PROMPT_CHARACTERS = 16 * 1024 * 1024
_LEAST_ROWS = 64
#: Of a manifest of many files so many are looked at with each batch, in turn.
_FILES_LOOKED_AT = 64


class KnownRows(Protocol):
    """What the feed asks the checkpoint: how a row stands under its skip_key. ``not_done``: the places of the rows that
    are not done, asked with 16 bytes a key; ``met_before``: the places among these of all that may not be new, which
    are asked about one by one, with ``open_state``. ``are_elsewhere``: of each row whether it was last paid for under
    another recipe; ``were_paid``: whether it was ever paid for under this one. ``answers_of``: what was asked and
    answered of a row under this recipe."""

    def not_done(self, ids: pa.Array, keys: bytes) -> list[int]: ...
    def met_before(self, row_ids: Sequence[str]) -> list[int]: ...
    def state(self, row_id: str, key: str) -> RowState: ...
    def open_state(self, row_id: str, key: str) -> RowState: ...
    def failed_before(self, row_id: str, key: str) -> Failed | None: ...
    def keep_failed(self, row_id: str, key: str) -> None: ...
    def are_elsewhere(self, ids: pa.Array) -> Sequence[bool]: ...
    def were_paid(self, ids: pa.Array) -> Sequence[bool]: ...
    def answers_of(self, row_id: str) -> Sequence[StoredAnswer]: ...


class NoKnownRows:
    """The standing of an output that does not exist yet: every row is new."""

    def not_done(self, ids: pa.Array, keys: bytes) -> list[int]:
        return list(range(len(ids)))

    def met_before(self, row_ids: Sequence[str]) -> list[int]:
        return []

    def state(self, row_id: str, key: str) -> RowState:
        return RowState.NEW

    def open_state(self, row_id: str, key: str) -> RowState:
        return RowState.NEW

    def failed_before(self, row_id: str, key: str) -> Failed | None:
        return None

    def keep_failed(self, row_id: str, key: str) -> None:
        raise AssertionError(f"row {row_id} has not failed before")

    def are_elsewhere(self, ids: pa.Array) -> Sequence[bool]:
        return [False] * len(ids)

    def were_paid(self, ids: pa.Array) -> Sequence[bool]:
        return [False] * len(ids)

    def answers_of(self, row_id: str) -> Sequence[StoredAnswer]:
        return ()


def feed(job: Job, survey: Survey, row_index: KnownRows, selection: Selection | None = None) -> Iterator[FeedBatch]:
    """The rows to do. Raises JobInvalid as :func:`stretches` does."""
    for stretch in stretches(job, survey, row_index, selection):
        yield from stretch.batches()


def drawn(job: Job, survey: Survey, row_index: KnownRows, selection: Selection) -> Selection:
    """``selection`` with its sample drawn, among the rows that are to do. One pass over the manifest. Raises as
    :func:`stretches`."""
    if selection.sample is None or selection.positions is not None:
        return selection
    whole = replace(selection, sample=None, limit=None)
    to_do = array("q")
    for stretch in stretches(job, survey, row_index, whole):
        to_do.extend(stretch.positions[place] for place in stretch.sound_places())
    chosen = random.Random(selection.seed).sample(to_do, min(selection.sample, len(to_do)))
    return replace(selection, positions=frozenset(chosen))


def stretches(job: Job, survey: Survey, row_index: KnownRows, selection: Selection | None = None) -> Iterator[Stretch]:
    """Streams the manifest. Raises ManifestChanged if it is not the one that was surveyed, JobInvalid at damage."""
    survey.reject_changed()
    source = _Feed(job, survey, row_index, drawn(job, survey, row_index, selection or Selection()))
    for batch in _unchanged_batches(job, survey):
        for start in range(0, batch.num_rows, source.batch_rows):
            yield source.step(batch.slice(start, source.batch_rows))
    survey.reject_changed()


def _unchanged_batches(job: Job, survey: Survey) -> Iterator[pa.RecordBatch]:
    """The manifest's batches. Each is held back until it is known that it was not read from a file written to since;
    what looks like damage in such a file is none."""
    inputs, count = cycle(survey.inputs), min(len(survey.inputs), _FILES_LOOKED_AT)
    try:
        for batch in open_manifest(job).batches(list(needed_columns(job))):
            survey.reject_changed(islice(inputs, count))
            yield batch
    except ManifestChanged:
        raise
    except JobInvalid:
        survey.reject_changed()
        raise


class _Feed:
    """One pass over the manifest."""

    def __init__(self, job: Job, survey: Survey, row_index: KnownRows, selection: Selection) -> None:
        self._job = job
        self._keep = [(column, target) for column, (_, target) in zip(job.keep_columns, survey.keep_types, strict=True)]
        self._secrets = survey.secrets
        self._row_index = row_index
        self._selection = selection
        self._chooser = Chooser(selection)
        self._only_new = job.output.on_recipe_change == "new_rows_only"
        self._keeps_changed = job.manifest.on_row_change == "keep"
        self._ignores = bool(job.manifest.ignore_url_parameters)
        self._by_content = ByContent(job)
        self._images = image_columns(job)
        self._repeats = _Repeats(survey.repeated, are_invalid=bool(job.id_columns))
        self._rows_before = 0
        spoken = 0 if job.recipe.user is None else len(job.recipe.user)
        self.batch_rows = max(_LEAST_ROWS, _PROMPT_CHARACTERS // (spoken + 256))

    def step(self, batch: pa.RecordBatch) -> Stretch:
        """The next stretch of the manifest."""
        stretch = self._look(batch)
        self._rows_before += batch.num_rows
        self._count_all(stretch)
        return stretch

    # ------------------------------------------------------------------------------ seeing

    def _look(self, batch: pa.RecordBatch) -> Stretch:
        ids = row_ids(batch, self._job, self._secrets)
        positions: Sequence[int] = range(self._rows_before + 1, self._rows_before + batch.num_rows + 1)
        if self._selection.shards > 1:
            own = own_places(ids, self._selection, self._rows_before)
            positions = [positions[place] for place in own]
            batch, ids = batch.take(pa.array(own, pa.int64())), ids.take(pa.array(own, pa.int64()))
        images = BatchImages(batch, self._images)
        prompts, stamps = prompts_of(batch, self._job), images.stamps()
        ids, problems = self._named(ids, positions)
        if nul_places := _true_places(has_nul(ids)):
            _add(problems, nul_places, "its id holds a NUL character")
            ids = pc.replace_substring(ids, "\x00", "\ufffd")
        if long_places := _true_places(is_longer(ids, MOST_ID_BYTES)):
            _add(problems, long_places, f"its id has more than {MOST_ID_BYTES:,} bytes")
            ids = _with_nameless(ids, long_places, positions)
        self._add_cell_problems(problems, batch, images, prompts.texts, stamps)
        recipe_id = self._job.recipe.recipe_id
        of_keys = skip_digests(recipe_id, prompts.texts, stamps)
        if problems:
            of_keys = _with_keys(of_keys, {at: _key_of_problem(recipe_id, why) for at, why in problems.items()})
        return Stretch(batch, positions, ids, prompts, images, stamps, of_keys, problems, self._keep)

    def _named(self, ids: pa.Array, positions: Sequence[int]) -> tuple[pa.Array, dict[int, str]]:
        """Every row with an id of its own, and what is wrong with the rows that had none."""
        if not ids.null_count and not self._repeats.expected:
            return ids, {}
        names, problems = ids.to_pylist(), dict[int, str]()
        for place, name in enumerate(names):
            if name is None:
                names[place] = nameless(positions[place])
                problems[place] = f"it has no id: {' and '.join(self._job.id_columns)} must not be empty"
            elif again := self._repeats.seen_again(name, positions[place]):
                names[place], problem = again
                if problem:
                    problems[place] = problem
        return pa.array(names, pa.string()), problems

    def _add_cell_problems(
        self,
        problems: dict[int, str],
        batch: pa.RecordBatch,
        images: BatchImages,
        texts: pa.Array | str,
        stamps: pa.Array,
    ) -> None:
        for name in dict.fromkeys((*self._job.prompt_columns, *(column.source for column in self._job.keep_columns))):
            cells = batch.column(name)
            if types.is_string(cells.type) or types.is_list(cells.type):
                texts_of = cell_texts(cells, batch.schema.field(name))
                _add(problems, _true_places(has_nul(texts_of)), f"its cell {name!r} holds a NUL character")
            elif types.is_binary(cells.type):
                texts_of = cells
            elif types.is_nested(cells.type) and cells.nbytes > MOST_CELL_BYTES // 8:  # as JSON it may be larger
                texts_of = cell_texts(cells, batch.schema.field(name))
            else:
                continue
            long_places = _true_places(is_longer(texts_of, MOST_CELL_BYTES))
            _add(problems, long_places, f"its cell {name!r} has more than {MOST_CELL_BYTES:,} bytes")
        _add(problems, images.places_with_nul(), "an image reference holds a NUL character")
        if isinstance(texts, pa.Array) and texts.null_count:
            prompt = self._job.prompt_columns[0]
            _add(problems, _true_places(texts.is_null()), f"its prompt is null (column {prompt!r})")
        if self._job.image_columns:
            columns = ", ".join(repr(name) for name in self._job.image_columns)
            _add(problems, _true_places(pc.equal(stamps, NO_TEXT)), f"it has no image (column {columns})")

    # ------------------------------------------------------------------------------ counting

    def _count_all(self, stretch: Stretch) -> None:
        tally, others = stretch.tally, self._row_index.not_done(stretch.ids, stretch.keys)
        tally.images_found = stretch.count_local(range(len(stretch.ids))) - stretch.count_local(others)
        others = self._without_answered(stretch, others)
        tally.done = len(stretch.ids) - len(others)
        chosen = stretch.ids.take(pa.array(others, pa.int64()))
        ids = chosen.to_pylist()
        if self._only_new or self._keeps_changed:
            are_kept = self._are_kept(stretch, others, chosen)
            for place, row_id, is_kept in zip(others, ids, are_kept, strict=True):
                self._count(stretch, place, row_id, is_kept=bool(is_kept))
            return
        if self._chooser.takes_some:
            for place, row_id in zip(others, ids, strict=True):
                self._count(stretch, place, row_id)
            return
        met = dict.fromkeys(self._row_index.met_before(ids))
        for at in met:
            self._count(stretch, others[at], ids[at])
        new = [place for at, place in enumerate(others) if at not in met] if met else others
        if self._chooser.takes_none:
            tally.left += len(new)
        else:
            tally.places = sorted([*tally.places, *new])

    def _without_answered(self, stretch: Stretch, places: list[int]) -> list[int]:
        """``places`` without those of rows that only look new: the image is gone, or the URL written in another way."""
        suspects = [place for place in stretch.altered_places(places, self._ignores) if place not in stretch.problems]
        answered = {
            place for place, row in zip(suspects, stretch.rows(suspects), strict=True) if self._is_answered(row)
        }
        return [place for place in places if place not in answered] if answered else places

    def _is_answered(self, row: Row) -> bool:
        """Whether the row has a stored answer to what it asks today. It counts as met under the stored key."""
        return any(
            self._row_index.state(row.row_id, answer.request_key) is RowState.DONE
            for answer in self._row_index.answers_of(row.row_id)
            if self._by_content.is_answer_to(answer, row)
        )

    def _are_kept(self, stretch: Stretch, places: list[int], ids: pa.Array) -> list[bool]:
        """Of each row whether it keeps an older answer, as the job says."""
        kept = list(self._row_index.are_elsewhere(ids)) if self._only_new else [False] * len(places)
        if not self._keeps_changed:
            return kept
        were_paid = self._row_index.were_paid(ids)
        suspects = [at for at, place in enumerate(places) if were_paid[at] and place not in stretch.problems]
        for at, row in zip(suspects, stretch.rows([places[at] for at in suspects]), strict=True):
            kept[at] = kept[at] or self._by_content.would_be_sent(row, self._row_index)
        return kept

    def _count(self, stretch: Stretch, place: int, row_id: str, *, is_kept: bool = False) -> None:
        """One row that is not done: to do, or waiting, or left alone."""
        tally, key = stretch.tally, stretch.key(place)
        match self._row_index.open_state(row_id, key):
            case RowState.AWAITING:
                tally.awaiting += 1
            case RowState.HELD:
                tally.held += 1
            case RowState.FAILED:
                failed = self._row_index.failed_before(row_id, key)
                if self._selection.retries(failed) and self._takes(stretch, place, row_id):
                    tally.places.append(place)
                    tally.retried.add(stretch.positions[place])
                else:
                    self._row_index.keep_failed(row_id, key)
                    tally.failed_kept += 1
                    tally.quarantined += failed is not None and failed.quarantined
            case RowState.NEW:
                if is_kept and place not in stretch.problems:
                    tally.left += 1
                    tally.kept += 1
                elif self._takes(stretch, place, row_id):
                    tally.places.append(place)
                else:
                    tally.left += 1

    def _takes(self, stretch: Stretch, place: int, row_id: str) -> bool:
        is_sent = place not in stretch.problems
        if is_sent and self._chooser.counts and self._row_index.were_paid(stretch.ids.slice(place, 1))[0]:
            (row,) = stretch.rows([place])  # only its image may have been touched
            is_sent = self._by_content.would_be_sent(row, self._row_index)
        return self._chooser.takes(stretch.positions[place], row_id, is_sent=is_sent)


def _key_of_problem(recipe_id: str, problem: str) -> bytes:
    """What an invalid row is known again by."""
    return keys.key_bytes(keys.skip_key(recipe_id, problem, ["row_invalid"]))


def _with_keys(of_keys: bytes, others: Mapping[int, bytes]) -> bytes:
    """``of_keys`` with those of some places replaced."""
    changed = bytearray(of_keys)
    for place, key in others.items():
        changed[place * keys.KEY_BYTES : (place + 1) * keys.KEY_BYTES] = key
    return bytes(changed)


def _with_nameless(ids: pa.Array, places: Iterable[int], positions: Sequence[int]) -> pa.Array:
    """``ids`` with those of some places taken away: these rows are listed by their numbers."""
    names = ids.to_pylist()
    for place in places:
        names[place] = nameless(positions[place])
    return pa.array(names, pa.string())


def _true_places(flags: pa.Array) -> list[int]:
    if not pc.any(flags).as_py():
        return []
    return list(pc.indices_nonzero(flags).to_pylist())


def _add(problems: dict[int, str], places: Iterable[int], problem: str) -> None:
    """The first problem of a row is the one it is told."""
    for place in places:
        problems.setdefault(place, problem)


class _Repeats:
    """Follows the few ids that may come more than once (``expected``: by hash), exactly."""

    def __init__(self, expected: frozenset[int], *, are_invalid: bool) -> None:
        self.expected = expected
        self._are_invalid = are_invalid
        self._first: dict[str, int] = {}
        self._times: dict[str, int] = {}

    def seen_again(self, row_id: str, position: int) -> tuple[str, str | None] | None:
        """None at the first time; later the row's own id, and its problem where ids must be unique."""
        if hash(row_id) not in self.expected:
            return None
        times = self._times[row_id] = self._times.get(row_id, 0) + 1
        first = self._first.setdefault(row_id, position)
        if times == 1:
            return None
        if not self._are_invalid:
            return f"{row_id}-{times}", None
        return f"{row_id}#{times}", f"row_id {row_id} appears first in row {first}"
