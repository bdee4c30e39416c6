"""The second pass over the manifest: stream its rows and give those that are to do.

Rule: the counts of all batches and their rows add up to the ``rows`` of the survey.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from batchvision.checkpoint import RowState, StoredRequest
from batchvision.errors import JobInvalid, ManifestChanged
from batchvision.manifest import needed_columns
from batchvision.records import Failed, Row
from batchvision.runner.feed.by_content import ByContent
from batchvision.runner.feed.checking import StretchBuilder
from batchvision.runner.feed.selection import Chooser, Selection
from batchvision.runner.feed.stretch import FeedBatch, Stretch
from batchvision.runner.feed.surveying import Survey

if TYPE_CHECKING:
    from batchvision.job import Job

#: In a manifest of many files, this many are checked for changes with each batch, one after another.
_FILES_CHECKED = 64


class KnownRows(Protocol):
    """The feed's questions to the checkpoint about rows and their skip_keys, and its notes of the rows it meets."""

    def meet_all(self, ids: pa.Array, keys: bytes) -> None:
        """Note that the manifest has the rows; ``keys``: 16 bytes each."""

    def meet(self, row_id: str, key: str) -> None:
        """Note that the manifest has the row under ``key``."""

    def not_done(self, ids: pa.Array, keys: bytes) -> list[int]:
        """The places of the rows that are not done; ``keys``: 16 bytes each."""

    def met_before(self, row_ids: Sequence[str]) -> list[int]:
        """The places of the rows that may not be new: ask ``open_state`` about each."""

    def state(self, row_id: str, key: str) -> RowState: ...

    def open_state(self, row_id: str, key: str) -> RowState:
        """The state of a row that is not done."""

    def failed_before(self, row_id: str, key: str) -> Failed | None: ...

    def are_elsewhere(self, ids: pa.Array) -> Sequence[bool]:
        """For each row: was it last paid for under another recipe?"""

    def were_paid(self, ids: pa.Array) -> Sequence[bool]:
        """For each row: was it ever paid for under this recipe?"""

    def requests_of(self, row_id: str) -> Iterable[StoredRequest]:
        """The requests that were sent for a row and are answered, open or failed."""


class NoKnownRows:
    """An output that does not exist yet: each row is new."""

    def meet_all(self, ids: pa.Array, keys: bytes) -> None:
        pass

    def meet(self, row_id: str, key: str) -> None:
        pass

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

    def are_elsewhere(self, ids: pa.Array) -> Sequence[bool]:
        return [False] * len(ids)

    def were_paid(self, ids: pa.Array) -> Sequence[bool]:
        return [False] * len(ids)

    def requests_of(self, row_id: str) -> Iterable[StoredRequest]:
        return ()


def feed(job: Job, survey: Survey, row_index: KnownRows, selection: Selection | None = None) -> Iterator[FeedBatch]:
    """The rows to do. Raises as :func:`stretches`."""
    for stretch in stretches(job, survey, row_index, selection):
        yield from stretch.batches()


def drawn(job: Job, survey: Survey, row_index: KnownRows, selection: Selection) -> Selection:
    """``selection`` with its sample drawn from the rows to do, in one pass. Raises as :func:`stretches`."""
    if selection.sample is None or selection.positions is not None:
        return selection
    whole = replace(selection, sample=None, limit=None)
    to_do = array("q")
    for stretch in stretches(job, survey, row_index, whole):
        to_do.extend(stretch.positions[place] for place in stretch.sound_places())
    chosen = random.Random(selection.seed).sample(to_do, min(selection.sample, len(to_do)))
    return replace(selection, positions=frozenset(chosen))


def stretches(job: Job, survey: Survey, row_index: KnownRows, selection: Selection | None = None) -> Iterator[Stretch]:
    """Stream the manifest. Raises ManifestChanged if it is no longer the surveyed one, JobInvalid at damage."""
    survey.reject_changed()
    selection = drawn(job, survey, row_index, selection or Selection())
    builder, sorter = StretchBuilder(job, survey, selection), _Sorter(job, row_index, selection)
    for batch in _unchanged_batches(job, survey):
        for start in range(0, batch.num_rows, builder.most_rows):
            stretch = builder.build(batch.slice(start, builder.most_rows))
            sorter.sort(stretch)
            yield stretch
    survey.reject_changed()


def _unchanged_batches(job: Job, survey: Survey) -> Iterator[pa.RecordBatch]:
    """The manifest's batches. A batch is given after its file was found unchanged; a fault in a changed file is a
    ManifestChanged."""
    inputs, count = cycle(survey.inputs), min(len(survey.inputs), _FILES_CHECKED)
    try:
        for batch in survey.manifest.batches(list(needed_columns(job))):
            survey.reject_changed(islice(inputs, count))
            yield batch
    except ManifestChanged:
        raise
    except JobInvalid:
        survey.reject_changed()
        raise


class _Sorter:
    """Sorts the rows of each stretch into rows to do and counted rows."""

    def __init__(self, job: Job, row_index: KnownRows, selection: Selection) -> None:
        self._row_index = row_index
        self._selection = selection
        self._chooser = Chooser(selection)
        self._keeps_old_recipes = job.output.on_recipe_change == "new_rows_only"
        self._keeps_changed_rows = job.manifest.on_row_change == "keep"
        self._ignores_parameters = bool(job.manifest.ignore_url_parameters)
        self._by_content = ByContent(job)

    def sort(self, stretch: Stretch) -> None:
        """Fill the stretch's tally."""
        self._row_index.meet_all(stretch.ids, stretch.keys)
        counts, others = stretch.tally.counts, self._row_index.not_done(stretch.ids, stretch.keys)
        counts.images_found = stretch.count_local(range(len(stretch.ids))) - stretch.count_local(others)
        stretch.tally.known = self._known_requests(stretch, others)
        if stretch.tally.known:
            others = [place for place in others if not self._is_answered(stretch, place)]
        if self._selection.redo is not None:
            others = self._sort_named(stretch, others)
        counts.done = len(stretch.ids) - len(others)
        chosen = stretch.ids.take(pa.array(others, pa.int64()))
        ids = chosen.to_pylist()
        if self._keeps_old_recipes or self._keeps_changed_rows:
            are_kept = self._are_kept(stretch, others, chosen)
            for place, row_id, is_kept in zip(others, ids, are_kept, strict=True):
                self._sort_one(stretch, place, row_id, is_kept=is_kept)
        elif self._chooser.takes_some:
            for place, row_id in zip(others, ids, strict=True):
                self._sort_one(stretch, place, row_id)
        else:
            self._sort_alike(stretch, others, ids)

    def _sort_named(self, stretch: Stretch, others: list[int]) -> list[int]:
        """The rows of ``--redo`` are to do if they are done, and count as done. Returns the places of rows that are not
        done: ``others`` without the named rows whose image was only touched."""
        ids = stretch.ids.to_pylist()
        named = [at for at, each in enumerate(ids) if at not in stretch.problems and self._selection.redoes(each)]
        not_done = set(others)
        suspects = [place for place in named if place in not_done]
        for place, row in zip(suspects, stretch.rows(suspects), strict=True):
            state = self._state_by_content(row)
            if state is not None and state[0] is RowState.DONE:
                not_done.discard(place)
        stretch.tally.places = [place for place in named if place not in not_done]
        stretch.tally.counts.redo = len(stretch.tally.places)
        return sorted(not_done)

    def _sort_alike(self, stretch: Stretch, places: list[int], ids: list[str]) -> None:
        """The new rows are to do together, or left together. Only rows that may not be new are sorted one by one."""
        met = dict.fromkeys(self._row_index.met_before(ids))
        for at in met:
            self._sort_one(stretch, places[at], ids[at])
        new = [place for at, place in enumerate(places) if at not in met] if met else places
        if self._chooser.takes_none:
            stretch.tally.counts.left += len(new)
        else:
            stretch.tally.places = sorted([*stretch.tally.places, *new])

    def _sort_one(self, stretch: Stretch, place: int, row_id: str, *, is_kept: bool = False) -> None:
        """A row that is not done: it is to do, waits, or is left alone."""
        tally, counts = stretch.tally, stretch.tally.counts
        key = tally.known.get(place) or stretch.key(place)
        self._row_index.meet(row_id, key)
        state, failed = self._row_index.open_state(row_id, key), None
        if state is RowState.FAILED:
            failed = self._row_index.failed_before(row_id, key)
            if failed is not None and not failed.skip_key:  # only the ledger has it: the run lists it again
                state = RowState.NEW
        match state:
            case RowState.AWAITING:
                counts.awaiting += 1
            case RowState.HELD:
                counts.held += 1
            case RowState.FAILED:
                if self._selection.retries(failed) and self._takes(stretch, place, row_id):
                    tally.places.append(place)
                    tally.retried.add(stretch.positions[place])
                else:
                    counts.failed_kept += 1
                    counts.quarantined += failed is not None and failed.quarantined
            case RowState.NEW:
                if is_kept and place not in stretch.problems:
                    counts.left += 1
                    counts.kept += 1
                elif self._takes(stretch, place, row_id):
                    tally.places.append(place)
                else:
                    counts.left += 1

    def _takes(self, stretch: Stretch, place: int, row_id: str) -> bool:
        is_sent = place not in stretch.problems
        if is_sent and self._chooser.counts and self._row_index.were_paid(stretch.ids.slice(place, 1))[0]:
            (row,) = stretch.rows([place])
            is_sent = self._is_sent(row)
        return self._chooser.takes(stretch.positions[place], row_id, is_sent=is_sent)

    def _is_sent(self, row: Row) -> bool:
        """Whether this run would send the row. Perhaps only the time of its image has changed."""
        match self._state_by_content(row):
            case RowState.NEW, _:
                return True
            case RowState.FAILED, key:
                return self._selection.retries(self._row_index.failed_before(row.row_id, key))
        return False

    def _state_by_content(self, row: Row) -> tuple[RowState, str] | None:
        """The state of the row's request, and its key. The row is met under it. ``None``: an image is unreadable."""
        key = self._by_content.request_key(row)
        if key is None:
            return None
        self._row_index.meet(row.row_id, key)
        return self._row_index.state(row.row_id, key), key

    # ------------------------------------------------------------------------------ rows that only look new

    def _known_requests(self, stretch: Stretch, places: list[int]) -> dict[int, str]:
        """The request_keys of rows that only look new: their image is gone, or their URL has another spelling."""
        altered = stretch.altered_places(places, self._ignores_parameters)
        suspects = [place for place in altered if place not in stretch.problems]
        rows = zip(suspects, stretch.rows(suspects), strict=True)
        found = ((place, self._known_request(row, stretch.key(place))) for place, row in rows)
        return {place: request_key for place, request_key in found if request_key is not None}

    def _known_request(self, row: Row, key: str) -> str | None:
        """The request that was sent for the row under another ``key``, and is answered, open or failed."""
        is_new = self._row_index.open_state(row.row_id, key) is RowState.NEW
        requests = self._row_index.requests_of(row.row_id)
        keys = [stored.request_key for stored in requests if self._by_content.is_request_of(stored, row)]
        if self._ignores_parameters and (spelled := self._by_content.spelled_key(row)) is not None:
            keys.append(spelled)
        for request_key in keys:
            state = self._row_index.state(row.row_id, request_key)
            if state is RowState.DONE or (is_new and state is not RowState.NEW):
                self._row_index.meet(row.row_id, request_key)
                return request_key
        return None

    def _is_answered(self, stretch: Stretch, place: int) -> bool:
        known = stretch.tally.known.get(place)
        return known is not None and self._row_index.state(stretch.ids[place].as_py(), known) is RowState.DONE

    def _are_kept(self, stretch: Stretch, places: list[int], ids: pa.Array) -> list[bool]:
        """For each row: does it keep an older answer, as the job demands? A row with a touched image may be done."""
        kept = [False] * len(places)
        if self._keeps_old_recipes:
            kept = [bool(each) for each in self._row_index.are_elsewhere(ids)]
        were_paid = self._row_index.were_paid(ids)
        suspects = [
            at
            for at, place in enumerate(places)
            if were_paid[at] and place not in stretch.problems and (kept[at] or self._keeps_changed_rows)
        ]
        for at, row in zip(suspects, stretch.rows([places[at] for at in suspects]), strict=True):
            if (found := self._state_by_content(row)) is not None:
                kept[at] = found[0] is RowState.NEW
        return kept
