"""Rows that wait for a seal: in order, none twice, as Arrow once there are many, and as Parquet early or late."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import an_answer, an_attempt, an_intent

from batchvision.checkpoint.parts import SEALED_GROUP_ROWS
from batchvision.checkpoint.run_state import AT_ONCE, Unsealed
from batchvision.checkpoint.schema import Columns, TableSchemas
from batchvision.records import Attempt, AttemptState, Exchange

GROUP = SEALED_GROUP_ROWS


def _table(rows: Sequence[int]) -> pa.Table:
    return pa.table({"n": pa.array(rows, pa.int64())})


def _filled(count: int) -> Unsealed[int]:
    unsealed = Unsealed(_table)
    for number in range(count):
        unsealed.append(number)
    return unsealed


def _rows(unsealed: Unsealed[int]) -> list[int]:
    numbers: list[int] = pq.read_table(pa.BufferReader(unsealed.encoded().content()))["n"].to_pylist()
    return numbers


@pytest.mark.parametrize("count", [1, AT_ONCE - 1, AT_ONCE, AT_ONCE + 1, 5 * AT_ONCE + 3, 2 * GROUP, 2 * GROUP + 1])
def test_the_part_has_every_row_in_the_order_it_came(count: int) -> None:
    unsealed = _filled(count)
    assert len(unsealed) == count
    assert _rows(unsealed) == list(range(count))
    assert unsealed.encoded().rows == count


def test_only_the_newest_are_held_as_records() -> None:
    unsealed = _filled(3 * AT_ONCE + 5)
    assert unsealed.newest == list(range(3 * AT_ONCE, 3 * AT_ONCE + 5))
    assert [table.num_rows for table in unsealed.tables] == [AT_ONCE] * 3


def test_a_cut_hands_over_all_and_the_next_begins_anew() -> None:
    unsealed = _filled(GROUP + 2)
    unsealed.encode()
    cut = unsealed.cut()
    unsealed.append(-1)
    assert (len(cut), len(unsealed)) == (GROUP + 2, 1)
    assert _rows(cut) == list(range(GROUP + 2))
    assert _rows(unsealed) == [-1]
    assert not _filled(0)


# ---------------------------------------------------------------------------------- as Parquet


def _attempts(count: int, *, early: bool) -> Unsealed[Attempt]:
    """A ledger in which values of a few words, which have dictionaries, stand beside answers, which have none."""
    unsealed = Unsealed(TableSchemas("job", Columns(), mask=str).attempts)
    for number in range(count):
        state = AttemptState.OK if number % 7 else AttemptState.RETRIED
        said = sha256(str(number).encode()).hexdigest() * 4
        raw = an_answer(said.encode()) if number % 3 else None
        unsealed.append(an_attempt(Exchange(an_intent(number), answer=raw), state))
        if early and unsealed.has_group:
            unsealed.encode()
    return unsealed


@pytest.mark.parametrize("count", [GROUP - 1, GROUP, 2 * GROUP + AT_ONCE + 9])
def test_what_was_encoded_on_the_way_is_byte_for_byte_what_is_encoded_at_the_end(count: int) -> None:
    """A replay of the journal encodes all at the end, and must make the part that the run had made."""
    early, late = _attempts(count, early=True), _attempts(count, early=False)
    assert bytes(early.encoded().content()) == bytes(late.encoded().content())


def test_a_part_has_row_groups_of_one_size_however_it_was_encoded() -> None:
    for early in (True, False):
        file = pq.ParquetFile(pa.BufferReader(_attempts(2 * GROUP + 5, early=early).encoded().content()))
        assert [file.metadata.row_group(at).num_rows for at in range(file.num_row_groups)] == [GROUP, GROUP, 5]


def test_of_a_ledger_that_is_encoded_on_the_way_no_more_than_a_group_is_arrow() -> None:
    unsealed = _attempts(4 * GROUP - 1, early=True)
    assert sum(table.num_rows for table in unsealed.tables) == GROUP - AT_ONCE
    assert len(unsealed.newest) == AT_ONCE - 1
    assert len(unsealed) == 4 * GROUP - 1


def test_rows_may_come_while_a_group_is_encoded() -> None:
    unsealed = _filled(GROUP)
    concatenated = pa.concat_tables(unsealed.tables)

    class Slow:
        """Of a table, what the encoder reads, as rows come."""

        def __init__(self) -> None:
            self.added: list[pa.Table] = []
            self.rows = 0

        def add(self, table: pa.Table) -> None:
            self.added.append(table)
            for number in range(GROUP, GROUP + AT_ONCE + 1):
                unsealed.append(number)

    slow = unsealed._encoded = Slow()  # type: ignore[assignment]
    unsealed.encode()
    assert slow.added == [concatenated]
    assert [table["n"].to_pylist() for table in unsealed.tables] == [list(range(GROUP, GROUP + AT_ONCE))]
    assert unsealed.newest == [GROUP + AT_ONCE]
