"""Rows that wait for a seal: in order, none twice, and as Arrow once there are many."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pytest

from batchvision.checkpoint.unsealed import AT_ONCE, Unsealed


def _table(rows: Sequence[int]) -> pa.Table:
    return pa.table({"n": pa.array(rows, pa.int64())})


def _filled(count: int) -> Unsealed[int]:
    unsealed = Unsealed(_table)
    for number in range(count):
        unsealed.append(number)
    return unsealed


@pytest.mark.parametrize("count", [1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 5 * AT_ONCE + 3])
def test_the_table_has_every_row_in_the_order_it_came(count: int) -> None:
    unsealed = _filled(count)
    assert len(unsealed) == count
    assert unsealed.table()["n"].to_pylist() == list(range(count))


def test_only_the_newest_are_held_as_records() -> None:
    unsealed = _filled(3 * AT_ONCE + 5)
    assert unsealed.newest == list(range(3 * AT_ONCE, 3 * AT_ONCE + 5))
    assert [table.num_rows for table in unsealed.tables] == [AT_ONCE] * 3


def test_a_cut_hands_over_all_and_the_next_begins_anew() -> None:
    unsealed = _filled(AT_ONCE + 2)
    cut = unsealed.cut()
    unsealed.append(-1)
    assert (len(cut), len(unsealed)) == (AT_ONCE + 2, 1)
    assert cut.table()["n"].to_pylist() == list(range(AT_ONCE + 2))
    assert unsealed.table()["n"].to_pylist() == [-1]
    assert not _filled(0)
