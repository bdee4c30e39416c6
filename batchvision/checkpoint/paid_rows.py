"""Rows with paid work (an answer, a failure that cost money, an open ticket), and the recipe of the newest of it.

The rule: questions concern rows that are not done under today's key. A row takes 19 bytes, 26 while it is read, and is
identified by 64 bits of hash. A collision can only refuse a run, or leave one row pending.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint.keyset import BUCKET_BITS, Bucket
from batchvision.checkpoint.parts import batches_of, part_paths
from batchvision.checkpoint.row_keys import packed_ids
from batchvision.errors import PAID_FAILURES
from batchvision.records import Exchange, Failed

_COLUMNS = ("row_id", "recipe_id", "updated_at", "row_cost_ticks")
#: Added rows are sorted when there are so many.
_UNSORTED_ROWS = 65_536
_NO_IDS: NDArray[np.uint64] = np.empty(0, np.uint64)


class _PaidColumns(NamedTuple):
    """Paid work, column by column: hashes of row_ids, numbers of recipes, microseconds, ticks."""

    ids: NDArray[np.uint64]
    recipes: NDArray[np.uint16]
    at: NDArray[np.int64]
    ticks: NDArray[np.int64]


class PaidRows:
    """Made by :meth:`read`. ``recipes``: their ids by number; the current one is 0."""

    def __init__(self, recipe_id: str) -> None:
        self.recipes = [recipe_id]
        self._numbers = {recipe_id: 0}
        self._added: list[_PaidColumns] = []
        self._rows_added = 0
        self._buckets = [Bucket() for _ in range(1 << BUCKET_BITS)]
        self._ids = _NO_IDS
        self._newest: NDArray[np.uint16] = np.empty(0, np.uint16)
        self._has_current: NDArray[np.bool_] = np.empty(0, np.bool_)
        self._ticks: NDArray[np.int64] = np.empty(0, np.int64)

    @classmethod
    def read(cls, output: Path, recipe_id: str, failures: Iterable[Failed], accepted: Iterable[Exchange]) -> PaidRows:
        """Answers from the parts of all shards. Raises CheckpointDamaged."""
        paid = cls(recipe_id)
        for path in part_paths(output, "results"):
            for batch in batches_of(path, _COLUMNS):
                paid._add_batch(batch)
        bought = [failed for failed in failures if failed.error_kind in PAID_FAILURES and failed.request_key]
        paid._add(
            [failed.row_id for failed in bought],
            [failed.recipe_id for failed in bought],
            [round(failed.failed_at.timestamp() * 1e6) for failed in bought],
            [failed.row_cost_ticks for failed in bought],
        )
        handed_in = [
            (intent.row_id, intent.recipe_id, round(intent.sent_at.timestamp() * 1e6), intent.bound_ticks or 0)
            for intent in (exchange.intent for exchange in accepted)
            if not intent.is_trial
        ]
        if handed_in:
            paid._add(*map(list, zip(*handed_in, strict=True)))
        paid._settle()
        return paid

    def __len__(self) -> int:
        return len(self._ids)

    # ---------------------------------------------------------------------------- questions

    def find(self, ids: pa.Array) -> NDArray[np.int64]:
        """Of each row_id its place here; -1: nothing was paid for it."""
        asked = _hashes(ids)
        if not len(self._ids):
            return np.full(len(asked), -1, np.int64)
        places = np.searchsorted(self._ids, asked).clip(max=len(self._ids) - 1)
        found: NDArray[np.int64] = np.where(self._ids[places] == asked, places, -1)
        return found

    def newest_recipes(self, places: NDArray[np.int64]) -> NDArray[np.uint16]:
        """The number of the recipe that the row was paid under last."""
        return self._newest[places]

    def have_current(self, places: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the row was ever paid for under the current recipe."""
        return self._has_current[places]

    def ticks(self, places: NDArray[np.int64]) -> int:
        """Cost of the newest work of the rows."""
        return int(self._ticks[places].sum())

    def are_elsewhere(self, ids: pa.Array) -> NDArray[np.bool_]:
        """Of each row_id whether it was last paid for under another recipe than the current one."""
        places = self.find(ids)
        found = places >= 0
        found[found] = self._newest[places[found]] != 0
        return found

    # ---------------------------------------------------------------------------- making

    def _add_batch(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        encoded = pc.dictionary_encode(batch["recipe_id"])
        numbers = np.array([self._number(each) for each in encoded.dictionary.to_pylist()], np.uint16)
        self._add_columns(
            _PaidColumns(
                _hashes(batch["row_id"]),
                numbers[encoded.indices.to_numpy(zero_copy_only=False)],
                batch["updated_at"].cast(pa.int64()).to_numpy(zero_copy_only=False).astype(np.int64),
                pc.fill_null(batch["row_cost_ticks"], 0).to_numpy(zero_copy_only=False).astype(np.int64),
            )
        )

    def _add(self, ids: list[str], recipes: list[str], at: list[int], ticks: list[int]) -> None:
        numbers = np.array([self._number(each) for each in recipes], np.uint16)
        hashes = _hashes(pa.array(ids, pa.string()))
        self._add_columns(_PaidColumns(hashes, numbers, np.array(at, np.int64), np.array(ticks, np.int64)))

    def _add_columns(self, columns: _PaidColumns) -> None:
        self._added.append(columns)
        self._rows_added += len(columns.ids)
        if self._rows_added >= _UNSORTED_ROWS:
            self._sort_added()

    def _sort_added(self) -> None:
        columns = [np.concatenate(parts) for parts in zip(*self._added, strict=True)]
        self._added.clear()
        self._rows_added = 0
        numbers = columns[0] >> np.uint64(64 - BUCKET_BITS)
        for number, bucket in enumerate(self._buckets):
            is_in = numbers == number
            bucket.add(*(column[is_in] for column in columns))

    def _number(self, recipe_id: str) -> int:
        if recipe_id not in self._numbers:
            self._numbers[recipe_id] = len(self.recipes)
            self.recipes.append(recipe_id)
        return self._numbers[recipe_id]

    def _settle(self) -> None:
        """Of each row the newest work, and whether any is of the current recipe. A bucket at a time, to save memory."""
        self._sort_added()
        most = sum(map(len, self._buckets))
        ids, newest, ticks = np.empty(most, np.uint64), np.empty(most, np.uint16), np.empty(most, np.int64)
        has_current, end = np.empty(most, np.bool_), 0
        for bucket in self._buckets:
            if not len(bucket):
                continue
            work = _PaidColumns(*map(np.concatenate, zip(*bucket.runs, strict=True)))
            bucket.runs.clear()
            order = np.lexsort((work.at, work.ids))
            sorted_ids = work.ids[order]
            last = np.flatnonzero(np.append(sorted_ids[1:] != sorted_ids[:-1], True))
            firsts = np.append(0, last[:-1] + 1)
            start, end = end, end + len(last)
            ids[start:end] = sorted_ids[last]
            newest[start:end] = work.recipes[order[last]]
            ticks[start:end] = work.ticks[order[last]]
            has_current[start:end] = np.logical_or.reduceat(work.recipes[order] == 0, firsts)
        self._ids, self._newest = ids[:end], newest[:end]
        self._ticks, self._has_current = ticks[:end], has_current[:end]


def _hashes(ids: pa.Array) -> NDArray[np.uint64]:
    """The first half of each id's hash."""
    return np.frombuffer(packed_ids(ids), np.uint64)[::2].copy()
