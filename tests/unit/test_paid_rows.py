"""Rows paid for under another recipe are held as numbers: a changed recipe over millions of rows fits in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import START

from batchvision.checkpoint.paid_rows import PaidRows
from batchvision.checkpoint.parts import dated_path

ROWS = 200_000


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Answers under an old recipe, in two parts; each fifth row has a newer one, of a third recipe, in the second."""
    for seq, (rows, recipe) in enumerate([(range(ROWS), "old"), (range(0, ROWS, 5), "newer")], 1):
        path = tmp_path / dated_path("results", "0of1", "run1", START, seq)
        path.parent.mkdir(parents=True, exist_ok=True)
        count = len(rows)
        table = {
            "row_id": [f"row-{row:08d}" for row in rows],
            "recipe_id": [recipe] * count,
            "updated_at": pa.array(np.arange(count) + seq * ROWS, pa.timestamp("us", "UTC")),
            "row_cost_ticks": pa.array(np.full(count, seq), pa.int64()),
        }
        pq.write_table(pa.table(table), path, row_group_size=4_000)
    return tmp_path


def test_a_row_paid_under_another_recipe_takes_a_few_bytes(output: Path) -> None:
    PaidRows.read(output, "today", (), ())  # what is imported and remembered at first use
    tracemalloc.start()
    try:
        paid = PaidRows.read(output, "today", (), ())
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(paid) == ROWS
    assert held / ROWS < 30, "bytes"
    assert peak / ROWS < 90, "bytes, while they are sorted"


def test_the_newest_answer_of_a_row_counts_wherever_it_stands(output: Path) -> None:
    paid = PaidRows.read(output, "today", (), ())
    places = paid.find(pa.array(["row-00000005", "row-00000006", "row-none"]))
    assert (places >= 0).tolist() == [True, True, False]
    assert [paid.recipes[number] for number in paid.newest_recipes(places[:2])] == ["newer", "old"]
    assert paid.ticks(places[:2]) == 2 + 1
    assert not paid.have_current(places[:2]).any()


def test_of_works_of_the_same_time_the_one_stored_last_counts(tmp_path: Path) -> None:
    count = 70_000
    for seq, recipe in enumerate(["old", "newer"], 1):
        path = tmp_path / dated_path("results", "0of1", "run1", START, seq)
        path.parent.mkdir(parents=True, exist_ok=True)
        table = {
            "row_id": [f"row-{row:08d}" for row in range(count)],
            "recipe_id": [recipe] * count,
            "updated_at": pa.array(np.zeros(count, np.int64), pa.timestamp("us", "UTC")),
            "row_cost_ticks": pa.array(np.full(count, seq), pa.int64()),
        }
        pq.write_table(pa.table(table), path)
    paid = PaidRows.read(tmp_path, "old", (), ())
    places = paid.find(pa.array(table["row_id"]))
    assert sorted(places.tolist()) == list(range(count)) and len(paid) == count
    assert {paid.recipes[number] for number in np.unique(paid.newest_recipes(places))} == {"newer"}
    assert paid.have_current(places).all()
    assert paid.ticks(places) == 2 * count
