"""The current answer of each row, chosen in Arrow and numpy without a Python object per row.

The index of the manifest names current answers. Without it, an answer of the given recipe comes before the newest one.
A redo supersedes the answer that the index names, independent of the clock.
Choosing takes about 50 bytes for each stored answer, and 2 bytes while the chosen rows are read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.manifest_index import COMPLETED, index_batches, index_paths
from batchvision.checkpoint.parts import batches_of
from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pairs
from batchvision.keys import KEY_BYTES
from batchvision.records import Purpose

IN_MANIFEST = "in_manifest"

Places = NDArray[np.int64]  #: positions of rows in one source, ascending
Mask = NDArray[np.bool_]


class UnsealedRows(NamedTuple):
    """Rows of a table that are in no part yet."""

    table: pa.Table


Source = Path | UnsealedRows

_COLUMNS = ("row_id", "request_key", "recipe_id", "updated_at", "run_id")
#: An answer that may be current: 12 bytes of its hashed row_id, then what decides between answers of one row.
_CANDIDATE = np.dtype([("id", "u8"), ("more_id", "u4"), ("rank", "i8"), ("key", "u8"), ("number", "u4")])
#: The rank is ``updated_at`` in microseconds, plus these bits.
_IS_INDEXED, _IS_OF_RECIPE, _IS_REDO = np.int64(1 << 62), np.int64(1 << 61), np.int64(1 << 60)
_KEY_CHARACTERS = 8  #: of a request_key decide between answers of the same microsecond
#: Candidates are sorted in groups by the first 4 bits of the id, so that sorting needs little memory.
_GROUPS, _GROUP_SHIFT = 16, np.uint64(60)


def source_batches(source: Source, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a source, a batch at a time. A part that was removed since it was listed has none."""
    if isinstance(source, Path):
        with suppress(FileNotFoundError):
            yield from batches_of(source, names)
    else:
        yield from (source.table if names is None else source.table.select(list(names))).to_batches()


def current_batches(
    output: Path,
    sources: Sequence[Source],
    failed: KeySet,
    recipe_id: str | None,
    names: Sequence[str] | None = None,
    *,
    with_in_manifest: bool = False,
    at: datetime | None = None,
) -> Iterator[pa.RecordBatch]:
    """The current answers in these sources of ``results``, in their order, in the columns ``names``.

    ``failed``: hashed ids of failed rows, which have no current answer. ``with_in_manifest``: add the last column
    ``in_manifest`` (bool). ``at``: the answers of that time, without the index of the manifest.
    """
    chosen_rows = _chosen(output, sources, failed, recipe_id, at)
    for source, (is_current, in_manifest) in zip(sources, chosen_rows, strict=True):
        start = 0
        for batch in source_batches(source, names) if is_current.any() else ():
            rows = slice(start, start + batch.num_rows)
            start = rows.stop
            if not is_current[rows].any():
                continue
            chosen = batch.filter(pa.array(is_current[rows]))
            if with_in_manifest:
                chosen = chosen.append_column(IN_MANIFEST, pa.array(in_manifest[rows][is_current[rows]]))
            yield chosen


class _Chosen(NamedTuple):
    """For each row of a source."""

    is_current: Mask
    in_manifest: Mask


def _chosen(
    output: Path, sources: Sequence[Source], failed: KeySet, recipe_id: str | None, at: datetime | None
) -> list[_Chosen]:
    index = _Index(output if at is None else None)
    candidates: list[NDArray[np.void]] = []
    in_manifest = [np.zeros(0, np.bool_)]
    bounds = [0]
    count = 0
    for source in sources:
        for batch in source_batches(source, _COLUMNS):
            ids = packed_ids(batch["row_id"])
            keys = pairs(ids, packed_keys(batch["request_key"]))
            is_indexed = index.answers.contains_packed(keys)
            found = _candidates(batch, ids, is_indexed, recipe_id)
            found["number"] = np.arange(count, count + len(found))
            may_be_current = ~failed.contains_packed(ids)
            if at is not None:
                may_be_current &= pc.less_equal(batch["updated_at"], at).to_numpy(zero_copy_only=False)
            candidates.append(found[may_be_current])
            in_manifest.append(index.has_rows(ids, is_indexed))
            count += len(found)
        bounds.append(count)
    del index
    is_current = np.zeros(count, np.bool_)
    for group in range(_GROUPS):
        is_current[_newest_of_each_row(candidates, np.uint64(group))] = True
    named = np.concatenate(in_manifest)
    return [_Chosen(is_current[start:stop], named[start:stop]) for start, stop in pairwise(bounds)]


def _candidates(batch: pa.RecordBatch, ids: bytes, is_indexed: Mask, recipe_id: str | None) -> NDArray[np.void]:
    found = np.empty(batch.num_rows, _CANDIDATE)
    found["id"] = np.frombuffer(ids, "u8")[::2]
    found["more_id"] = np.frombuffer(ids, "u4")[2::4]
    is_of_recipe = pc.fill_null(pc.equal(batch["recipe_id"], pa.scalar(recipe_id, pa.string())), False)
    found["rank"] = batch["updated_at"].cast(pa.int64()).to_numpy()
    found["rank"] += is_indexed * _IS_INDEXED + is_of_recipe.to_numpy(zero_copy_only=False) * _IS_OF_RECIPE
    found["rank"] += (is_indexed & are_of_redo(batch).to_numpy(zero_copy_only=False)) * _IS_REDO
    starts = pc.utf8_slice_codeunits(batch["request_key"], 0, _KEY_CHARACTERS)
    found["key"] = np.array(starts.to_pylist(), f"S{_KEY_CHARACTERS}").view(">u8")
    return found


def are_of_redo(batch: pa.RecordBatch) -> pa.BooleanArray:
    """Of each result row whether a run with ``--redo`` asked for it."""
    return pc.ends_with(batch["run_id"], Purpose.REDO.mark(""))


def _newest_of_each_row(candidates: Sequence[NDArray[np.void]], group: np.uint64) -> NDArray[np.uint32]:
    """The numbers of the current answers in one group of ids."""
    parts = [part[part["id"] >> _GROUP_SHIFT == group] for part in candidates]
    rows = np.concatenate([np.zeros(0, _CANDIDATE), *parts])
    order = np.lexsort([rows[name] for name in ("key", "rank", "more_id", "id")])
    ids, more = rows["id"][order], rows["more_id"][order]
    is_last = np.ones(len(order), np.bool_)
    is_last[:-1] = (ids[1:] != ids[:-1]) | (more[1:] != more[:-1])
    numbers: NDArray[np.uint32] = rows["number"][order[is_last]]
    return numbers


class _Index:
    """The index of the manifest as sets of keys; ``None``: no index."""

    def __init__(self, output: Path | None) -> None:
        self.answers = KeySet()  #: pairs of row_id and request_key
        self._failed_rows = KeySet()  #: a row that has an answer since is in the manifest too
        self._is_there = output is not None and bool(index_paths(output))
        for batch in index_batches(output) if output is not None else ():
            is_answered = pc.equal(batch["state"], pa.scalar(COMPLETED, pa.string()))
            answered, failed = batch.filter(is_answered), batch.filter(pc.invert(is_answered))
            self.answers.add_packed(pairs(packed_ids(answered["row_id"]), packed_keys(answered["request_key"])))
            self._failed_rows.add_packed(packed_ids(failed["row_id"]))

    def has_rows(self, ids: bytes, is_indexed: Mask) -> Mask:
        """Of each current answer whether the index names its row. Without an index, each row counts as named."""
        return is_indexed | self._failed_rows.contains_packed(ids) if self._is_there else np.ones_like(is_indexed)


# ---------------------------------------------------------------------------------- superseded answers


def superseded(output: Path, paths: Sequence[Path]) -> Mapping[Path, Places]:
    """Return the positions of superseded answers in these parts of ``results``. Parts without any are not named.

    An answer is superseded only where the row's current answer is stored too. A row that the index does not name keeps
    all of its answers. Of a row that was redone only the newest answer to its current request is current.
    """
    current, rows = _Index(output).answers, KeySet()
    for path in paths:  # rows with their current answer
        for batch in batches_of(path, ("row_id", "request_key")):
            ids = packed_ids(batch["row_id"])
            is_named = current.contains_packed(pairs(ids, packed_keys(batch["request_key"])))
            rows.add_packed(np.frombuffer(ids, f"V{KEY_BYTES}")[is_named].tobytes())
    found = dict[Path, Places]()
    for path, chosen in zip(paths, _chosen(output, paths, KeySet(), None, None), strict=True):
        ids = b"".join(packed_ids(batch["row_id"]) for batch in batches_of(path, ("row_id",)))
        places = np.flatnonzero(rows.contains_packed(ids) & ~chosen.is_current)
        if len(places):
            found[path] = places
    return found
