"""A load makes Delta tables equal to what is current, with one commit a table and none where nothing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from changing_output import ChangingOutput, changes
from checkpoint_rows import COLUMNS
from s3_server import BUCKET, s3_server
from sample_parts import COLUMNS as EVERY_TYPE
from sample_parts import JOB, check_merged, result
from warehouses import LOADED_TABLES, DeltaWarehouse, current_content, load_into, loaded_content, row_versions

from batchvision.checkpoint import Columns, results_schema
from batchvision.commands.load import LoadPlace, WarehouseTable, open_destination
from batchvision.commands.load.delta import DeltaCommits, DeltaFolder
from batchvision.errors import JobInvalid, LoadFailed


@pytest.fixture
def warehouse(tmp_path: Path) -> DeltaWarehouse:
    return DeltaWarehouse(str(tmp_path / "lake"))


@pytest.fixture
def output(tmp_path: Path) -> ChangingOutput:
    return ChangingOutput(tmp_path / "out")


def versions(warehouse: DeltaWarehouse) -> dict[str, int]:
    return {name: warehouse.table(name).version() for name in LOADED_TABLES}


# ---------------------------------------------------------------------------------- what is current


def test_after_each_change_of_an_output_the_tables_are_what_is_current_and_a_second_load_commits_nothing(
    warehouse: DeltaWarehouse, output: ChangingOutput
) -> None:
    for change in changes(output):
        load_into(warehouse, output.path)
        assert loaded_content(warehouse) == current_content(output.path), change
        before = versions(warehouse), row_versions(warehouse)
        again = load_into(warehouse, output.path)
        assert (versions(warehouse), row_versions(warehouse)) == before, change
        assert all((each.merged, each.deleted) == (0, 0) for each in again.tables.values()), change


def test_a_new_column_is_added_with_nulls_in_older_rows(warehouse: DeltaWarehouse, output: ChangingOutput) -> None:
    output.run(range(3))
    load_into(warehouse, output.path)
    output.columns = Columns(keep=(*COLUMNS.keep, ("shelf", pa.list_(pa.string()))), answers=COLUMNS.answers)
    output.run([3])
    assert load_into(warehouse, output.path).tables["results"].merged == 1
    assert warehouse.rows("SELECT count(*), count(shelf) FROM batchvision_results") == [(4, 0)]
    assert loaded_content(warehouse) == current_content(output.path)


def test_a_changed_type_is_refused(warehouse: DeltaWarehouse, output: ChangingOutput, tmp_path: Path) -> None:
    output.run(range(3))
    load_into(warehouse, output.path)
    (name, _), *others = COLUMNS.answers
    changed = ChangingOutput(tmp_path / "changed", Columns(COLUMNS.keep, ((name, pa.int64()), *others)))
    with pytest.raises(LoadFailed, match=f'batchvision_results has the column {name} as "double"'):
        load_into(warehouse, changed.run(range(3)).path)


def test_every_type_and_name_comes_back_as_it_was(tmp_path: Path) -> None:
    schema = results_schema(EVERY_TYPE)
    table = WarehouseTable("results", schema, ("job", "row_id"))
    for rows in ([result("r1", 0), result("r2", 0), result("r3", 0)], [result("r1", 5, answer_label="bag")]):
        with DeltaFolder(str(tmp_path)).transaction() as load:
            if not load.columns(table):
                load.create(table)
            load.merge(table, iter([pa.RecordBatch.from_pylist(rows, schema=schema)]))
    with DeltaFolder(str(tmp_path)).transaction() as load:
        assert load.columns(table) == {each.name: load.type_name(each.type) for each in schema}
        load.delete(table, pa.table({"job": [JOB], "row_id": ["r3"]}))
        check_merged([row for batch in load.read(table, schema.names, JOB) for row in batch.to_pylist()])


# ---------------------------------------------------------------------------------- killed, and two at once


class Killed(BaseException):
    """Ends a load as a signal would: no handler of the product catches it."""


COMMITS = ("merge", "delete", "create_empty_tables", "add_columns")


def killed_before(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill a load before its commit of this number."""
    made = 0

    def counted(commit: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            nonlocal made
            made += 1
            if made == number:
                raise Killed
            return commit(*arguments)

        return wrapped

    for name in COMMITS:
        monkeypatch.setattr(DeltaCommits, name, counted(getattr(DeltaCommits, name)))


@pytest.mark.parametrize("number", range(1, 7))
def test_a_load_that_was_killed_between_two_commits_is_completed_by_the_next(
    number: int, warehouse: DeltaWarehouse, output: ChangingOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = 0
    for change in changes(output):
        with monkeypatch.context() as patched:
            killed_before(number, patched)
            try:
                load_into(warehouse, output.path)
            except Killed:
                kills += 1
        load_into(warehouse, output.path)
        assert loaded_content(warehouse) == current_content(output.path), change
        before = versions(warehouse)
        load_into(warehouse, output.path)
        assert versions(warehouse) == before, change
    assert kills


def test_of_two_loads_at_once_the_second_is_refused_and_completes_when_repeated(
    warehouse: DeltaWarehouse, output: ChangingOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_into(warehouse, output.run(range(3)).path)
    output.run(range(5), version="-anew")
    merge = DeltaCommits.merge

    def overtaken(self: DeltaCommits, table: WarehouseTable, batches: Iterator[pa.RecordBatch]) -> int:
        monkeypatch.setattr(DeltaCommits, "merge", merge)
        load_into(warehouse, output.path)
        return merge(self, table, batches)

    monkeypatch.setattr(DeltaCommits, "merge", overtaken)
    with pytest.raises(LoadFailed, match="another program wrote to the table at the same time: load again"):
        load_into(warehouse, output.path)
    load_into(warehouse, output.path)
    assert loaded_content(warehouse) == current_content(output.path)


def test_of_two_first_loads_at_once_the_second_is_refused(
    warehouse: DeltaWarehouse, output: ChangingOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    output.run(range(3))
    create = DeltaCommits.create

    def overtaken(self: DeltaCommits, table: WarehouseTable) -> None:
        create(self, table)
        if table.name == "batchvision_runs":  # the last of the new tables
            monkeypatch.setattr(DeltaCommits, "create", create)
            load_into(warehouse, output.path)

    monkeypatch.setattr(DeltaCommits, "create", overtaken)
    with pytest.raises(LoadFailed, match="another program wrote to the table at the same time: load again"):
        load_into(warehouse, output.path)
    load_into(warehouse, output.path)
    assert loaded_content(warehouse) == current_content(output.path)


# ---------------------------------------------------------------------------------- places


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, output: ChangingOutput) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LoadFailed, match="check that the place can be reached and written") as failed:
        load_into(DeltaWarehouse(str(tmp_path / "file")), output.run(range(1)).path)
    assert str(tmp_path / "file") in failed.value.message


def test_a_relative_folder_begins_at_the_given_one_and_a_url_stays_a_url(tmp_path: Path) -> None:
    assert open_destination(LoadPlace("delta:lake", tmp_path)).name == f"delta:{tmp_path}/lake"
    assert open_destination(LoadPlace("delta:s3://bucket/lake", tmp_path)).name == "delta:s3://bucket/lake"
    with pytest.raises(JobInvalid, match="delta:FOLDER"):
        open_destination(LoadPlace("delta:", tmp_path))


def test_tables_on_s3_are_what_is_current_and_a_repeated_load_commits_nothing(
    output: ChangingOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        warehouse = DeltaWarehouse(f"s3://{BUCKET}/lake")
        for change in islice(changes(output), 4):
            load_into(warehouse, output.path)
            assert loaded_content(warehouse) == current_content(output.path), change
        before = versions(warehouse)
        load_into(warehouse, output.path)
        assert versions(warehouse) == before
