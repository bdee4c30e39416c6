"""Hashes of rows, 8 bytes each, compared in portions, so that any output fits in memory.

A hash raises a suspicion only. Rows are reported after a comparison by name.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

PORTION_ROWS = 1_000_000


def joined(batch: pa.RecordBatch, *names: str) -> pa.Array:
    """The named cells of each row as one text, separated by NUL, which no cell can hold."""
    texts = [_text(batch[name]) for name in names]
    return pc.binary_join_element_wise(*texts, "\x00", null_handling="replace", null_replacement="")


def _text(cells: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(cells.type):
        cells = cells.cast(pa.int64())
    return cells.cast(pa.string())


def hash_of(*cells: str | None) -> int:
    """The hash of one row of :func:`joined`. It differs between processes."""
    return hash("\x00".join(cell or "" for cell in cells))


class Hashes:
    """The hashes of many texts in their order."""

    def __init__(self) -> None:
        self._values = array("q")
        self._sorted: array[int] | None = None

    def add(self, texts: pa.Array) -> None:
        self._values.extend(map(hash, texts.to_pylist()))

    def __len__(self) -> int:
        return len(self._values)

    @property
    def column(self) -> pa.Array:
        return int64_column(self._values)

    def __contains__(self, value: int) -> bool:
        """After the first question nothing may be added."""
        if self._sorted is None:
            ordered = self.column.take(pc.array_sort_indices(self.column))
            self._sorted = array("q", memoryview(ordered.buffers()[1]).cast("q")[: len(ordered)])
        at = bisect_left(self._sorted, value)
        return at < len(self._sorted) and self._sorted[at] == value


def int64_column(values: array[int]) -> pa.Array:
    """The numbers as a column, without a copy."""
    return pa.Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(values)])


def _portions(rows: int) -> int:
    return 1 << max(0, (rows // PORTION_ROWS).bit_length())


def _portion(keys: pa.Array, number: int, portions: int) -> pa.Array:
    return pc.equal(pc.bit_wise_and(keys, portions - 1), number)


def repeated(keys: pa.Array) -> set[int]:
    """The hashes that occur more than once."""
    found: set[int] = set()
    portions = _portions(len(keys))
    for number in range(portions):
        counts = pc.value_counts(keys.filter(_portion(keys, number, portions)))
        found.update(counts.field("values").filter(pc.greater(counts.field("counts"), 1)).to_pylist())
    return found


def common(some: pa.Array, others: pa.Array) -> set[int]:
    """The hashes that are in both columns."""
    return set(some.filter(pc.is_in(some, value_set=pc.unique(others))).to_pylist()) if len(some) else set()


def sums_that_differ(row_keys: pa.Array, row_sums: pa.Array, keys: pa.Array, values: pa.Array) -> set[int]:
    """The row_keys with ``values`` that do not add up to the sum of the row, or without values."""
    found: set[int] = set()
    portions = _portions(len(row_keys) + len(keys))
    for number in range(portions):
        rows, parts = _portion(row_keys, number, portions), _portion(keys, number, portions)
        table = pa.table({"key": keys.filter(parts), "value": values.filter(parts)})
        grouped = table.group_by("key").aggregate([("value", "sum")]).combine_chunks()
        wanted, expected = row_keys.filter(rows), row_sums.filter(rows)
        found.update(_differing(wanted, expected, grouped))
    return found


def _differing(wanted: pa.Array, expected: pa.Array, grouped: pa.Table) -> Iterable[int]:
    known, sums = _whole(grouped["key"]), _whole(grouped["value_sum"])
    actual = sums.take(pc.index_in(wanted, value_set=known))
    differs = pc.fill_null(pc.not_equal(actual, expected), True)
    yield from wanted.filter(differs).to_pylist()


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
