"""``batchvision.read`` gives each table of an output to programs, a batch at a time."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from many_parts import CURRENT, OLD_AND_NEW, a_summary, answered, index_of, many_answers

import batchvision
from batchvision import JobInvalid
from batchvision.checkpoint import MONEY, TIMESTAMP
from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.registry import registry_path
from batchvision.checkpoint.summaries import write_summary
from batchvision.secrets import Secrets


@pytest.fixture
def output(tmp_path: Path) -> Path:
    answered(tmp_path, *OLD_AND_NEW)
    index_of(tmp_path, *CURRENT)
    return tmp_path


def test_results_are_the_current_answers_and_say_which_rows_have_left(output: Path) -> None:
    found = batchvision.read(output, columns=["row_id", "recipe_id", "in_manifest"])
    assert [field.name for field in found.schema] == ["row_id", "recipe_id", "in_manifest"]
    rows = sorted(tuple(row.values()) for batch in found for row in batch.to_pylist())
    assert rows == [
        ("row1", "b", True),
        ("row2", "a", True),
        ("row3", "a", True),
        ("row4", "b", True),
        ("row5", "c", False),
    ]


def test_a_table_can_be_read_several_times(output: Path) -> None:
    found = batchvision.read(output)
    assert pa.table(found) == pa.table(found) == pa.Table.from_batches(list(found))
    assert pa.table(found).num_rows == 5


def test_columns_come_in_the_order_asked_for(output: Path) -> None:
    table = pa.table(batchvision.read(str(output), columns=("in_manifest", "title", "row_id")))
    assert table.column_names == ["in_manifest", "title", "row_id"]
    assert table["in_manifest"].to_pylist().count(False) == 1


def test_a_single_column_in_manifest_keeps_its_rows(output: Path) -> None:
    assert pa.table(batchvision.read(output, columns=["in_manifest"])).num_rows == 5


def test_duckdb_takes_a_table_as_it_is(output: Path) -> None:
    answers = batchvision.read(output)  # noqa: F841 -- duckdb finds it by its name
    found = duckdb.sql("SELECT recipe_id, count(*) FROM answers WHERE in_manifest GROUP BY 1 ORDER BY 1").fetchall()
    assert found == [("a", 2), ("b", 2)]


@pytest.mark.parametrize("table", ["failures", "runs"])
def test_a_table_without_rows_is_an_empty_stream_with_its_columns(output: Path, table: str) -> None:
    found = pa.table(batchvision.read(output, table))
    assert found.num_rows == 0
    assert "run_id" in found.column_names


def test_runs_are_the_summaries_with_mappings_as_json_text(output: Path) -> None:
    write_summary(LocalDisk(), output, a_summary(), Secrets())
    found = batchvision.read(output, "runs")
    (row,) = pa.table(found).to_pylist()
    assert (row["run_id"], row["rows_total"]) == ("run1", 3)
    assert found.schema.field("started_at").type == TIMESTAMP
    assert found.schema.field("cost_usd").type == MONEY
    assert found.schema.field("failures_by_kind").type == pa.string()
    assert batchvision.read(output, "runs", columns=["exit_code"]).schema.names == ["exit_code"]


def test_attempts_are_the_whole_ledger(output: Path) -> None:
    assert pa.table(batchvision.read(output, "attempts")).num_rows == 9


def test_parts_without_the_folder_of_the_state_are_read_by_their_own_columns(tmp_path: Path) -> None:
    many_answers(tmp_path, 10)
    registry_path(tmp_path).unlink()
    assert pa.table(batchvision.read(tmp_path, columns=["title", "in_manifest"])).num_rows == 10


def test_a_folder_without_an_output_and_unknown_names_are_refused(output: Path, tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="there is no output at"):
        batchvision.read(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobInvalid, match="holds no output"):
        batchvision.read(tmp_path / "empty")
    with pytest.raises(JobInvalid, match="there is no table 'result'; there are: results, failures, attempts, runs"):
        batchvision.read(output, "result")
    with pytest.raises(JobInvalid, match="there is no column labell; there are: job, row_id"):
        batchvision.read(output, columns=["labell"])
