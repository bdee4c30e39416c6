"""A load through dlt, into its DuckDB and its Delta destination, makes the tables equal to what is current."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from changing_output import ChangingOutput, changes
from checkpoint_rows import COLUMNS
from deltalake import DeltaTable
from dlt.destinations.impl.snowflake.configuration import SnowflakeClientConfiguration
from sample_parts import COLUMNS as EVERY_TYPE
from sample_parts import result
from warehouses import (
    DeltaWarehouse,
    DuckDBThroughDlt,
    Warehouse,
    current_content,
    load_into,
    loaded_content,
    row_versions,
)

from batchvision import Job
from batchvision.checkpoint import Columns, results_schema
from batchvision.commands.load import LoadPlace, WarehouseTable, open_destination
from batchvision.commands.load import load as load_output
from batchvision.commands.load.dlt import DltDestination, work_folder
from batchvision.errors import JobInvalid, LoadFailed
from batchvision.samples import write_samples


class DeltaThroughDlt(DeltaWarehouse):
    def table(self, name: str) -> DeltaTable:
        return DeltaTable(f"{self.location}/batchvision/batchvision_{name}")


@pytest.fixture(params=["duckdb", "filesystem"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", f"duckdb:///{tmp_path / 'loaded.db'}")
    monkeypatch.setenv("DESTINATION__FILESYSTEM__BUCKET_URL", (tmp_path / "lake").as_uri())
    is_delta = request.param == "filesystem"
    made = DeltaThroughDlt(str(tmp_path / "lake")) if is_delta else DuckDBThroughDlt(tmp_path / "loaded.db")
    made.url = f"dlt:{request.param}"
    return made


@pytest.fixture
def output(tmp_path: Path) -> ChangingOutput:
    return ChangingOutput(tmp_path / "out")


def test_after_each_change_of_an_output_the_tables_are_what_is_current_and_a_second_load_changes_nothing(
    warehouse: Warehouse, output: ChangingOutput
) -> None:
    for change in changes(output):
        load_into(warehouse, output.path)
        assert loaded_content(warehouse) == current_content(output.path), change
    before = row_versions(warehouse)
    again = load_into(warehouse, output.path)
    assert row_versions(warehouse) == before
    assert all((each.merged, each.deleted) == (0, 0) for each in again.tables.values())


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of this process and of commands."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


#: A load that kills itself after it has started jobs of dlt for the given time.
KILLED = """
import os, signal, sys
from pathlib import Path
from batchvision.commands.load import LoadPlace, load, open_destination
output, url, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
destination = open_destination(LoadPlace(url, output))
from dlt.load.load import Load
start, started = Load.start_new_jobs, 0
def counted(self, *arguments):
    global started
    jobs = start(self, *arguments)
    started += bool(jobs)
    if started == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return jobs
Load.start_new_jobs = counted
load(output, destination)
"""


@pytest.mark.parametrize("number", [1, 4])
def test_a_load_that_was_killed_while_dlt_worked_is_completed_by_the_next_which_removes_its_files(
    number: int, warehouse: Warehouse, output: ChangingOutput, temporary: Path
) -> None:
    load_into(warehouse, output.run(range(8), failing=[8]).path)
    assert list(temporary.iterdir()) == []
    output.run([*range(3), 8], version="-anew", failing=[9])
    command = [sys.executable, "-c", KILLED, str(output.path), warehouse.url, str(number)]
    assert subprocess.run(command, check=False, timeout=200).returncode == -signal.SIGKILL
    assert [path.name[:16] for path in temporary.iterdir()] == ["batchvision-dlt-"]
    load_into(warehouse, output.path)
    assert loaded_content(warehouse) == current_content(output.path)
    assert list(temporary.iterdir()) == []


def test_the_files_of_a_load_at_work_stay_and_those_of_a_load_that_failed_go(temporary: Path) -> None:
    with work_folder() as first, suppress(ZeroDivisionError), work_folder() as second:
        assert first != second
        assert {str(path) for path in temporary.iterdir()} == {first, second}
        raise ZeroDivisionError
    assert list(temporary.iterdir()) == []


def test_decimals_keep_their_digits_and_lists_become_json_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", f"duckdb:///{tmp_path / 'loaded.db'}")
    table = WarehouseTable("results", results_schema(EVERY_TYPE), ("job", "row_id"))
    with open_destination(LoadPlace("dlt:duckdb", tmp_path, "mine")).transaction() as load:
        load.create(table)
        load.merge(table, iter([pa.RecordBatch.from_pylist([result("r1", 0)], schema=table.schema)]))
    with duckdb.connect(str(tmp_path / "loaded.db")) as connection:
        found = connection.sql(
            'SELECT cost_usd, "select", image_ref, answer_tags, answer_json, aware FROM mine.results'
        )
        expected = result("r1", 0)
        assert found.types[:3] == ["DECIMAL(18,9)", "DECIMAL(38,10)", "VARCHAR"]
        row = found.to_arrow_table().to_pylist()[0]
    names = ("cost_usd", "select", "answer_json", "aware")
    assert {name: row[name] for name in names} == {name: expected[name] for name in names}
    assert [json.loads(row[name]) for name in ("image_ref", "answer_tags")] == [["a.jpg", None], ["a", "b"]]


def test_a_changed_type_is_refused(warehouse: Warehouse, output: ChangingOutput, tmp_path: Path) -> None:
    load_into(warehouse, output.run(range(3)).path)
    (name, _), *others = COLUMNS.answers
    changed = ChangingOutput(tmp_path / "changed", Columns(COLUMNS.keep, ((name, pa.string()), *others)))
    with pytest.raises(LoadFailed, match=f"batchvision_results has the column {name} as double"):
        load_into(warehouse, changed.run(range(3)).path)


# ---------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(("given", "is_on"), [({}, "False"), ({"RUNTIME__DLTHUB_TELEMETRY": "true"}, "True")])
def test_the_telemetry_of_dlt_is_off_unless_the_user_turned_it_on(
    given: dict[str, str], is_on: str, tmp_path: Path
) -> None:
    program = """
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from batchvision.commands.load import LoadPlace, open_destination
open_destination(LoadPlace("dlt:duckdb", Path()))
from dlt.common.runtime.run_context import active
print(active().runtime_config.dlthub_telemetry)
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RUNTIME__")}
    endpoint = {"RUNTIME__DLTHUB_TELEMETRY_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environ | endpoint | given, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == is_on


def test_bigquery_and_snowflake_urls_are_settings_of_dlt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DESTINATION__SNOWFLAKE__CREDENTIALS__PASSWORD", "from-the-environment")
    bigquery = open_destination(LoadPlace("bigquery://my-project/vision", tmp_path))
    assert isinstance(bigquery, DltDestination)
    assert bigquery._destination.config_params["project_id"] == "my-project"
    url = "snowflake://loader@acme-eu/LAKE/VISION?warehouse=SMALL&role=LOADER"
    snowflake = open_destination(LoadPlace(url, tmp_path))
    assert isinstance(snowflake, DltDestination)
    assert (bigquery._dataset, snowflake._dataset) == ("vision", "VISION")
    configured = snowflake._destination.configuration(SnowflakeClientConfiguration()._bind_dataset_name("VISION"))
    asked = ("host", "database", "username", "password", "warehouse", "role")
    assert [getattr(configured.credentials, name) for name in asked] == [
        "acme-eu",
        "LAKE",
        "loader",
        "from-the-environment",
        "SMALL",
        "LOADER",
    ]


@pytest.mark.parametrize(
    "url", ["dlt:", "dlt:a b", "bigquery://project", "bigquery:///dataset", "snowflake://account/db", "snowflake://"]
)
def test_a_url_that_names_no_dataset_is_the_users_mistake(url: str, tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="--to"):
        open_destination(LoadPlace(url, tmp_path))


def test_a_missing_password_and_a_missing_driver_are_named(
    tmp_path: Path, output: ChangingOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = open_destination(LoadPlace("snowflake://me@acme/LAKE/VISION", tmp_path))
    with pytest.raises(LoadFailed, match="requires `username` and `password`"):
        load_output(output.run([0]).path, destination)
    monkeypatch.setenv("DESTINATION__SNOWFLAKE__CREDENTIALS__PASSWORD", "p")
    with pytest.raises(JobInvalid, match=r"dlt\[snowflake\]"):
        load_output(output.path, destination)


def test_an_unknown_destination_of_dlt_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="no_such_place"):
        open_destination(LoadPlace("dlt:no_such_place", tmp_path))


@pytest.mark.parametrize(("name", "dataset"), [("bigquery", "vision"), ("snowflake", "VISION")])
def test_the_documented_job_of_a_warehouse_names_its_dataset(name: str, dataset: str, tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "warehouses"
    shutil.copytree(Path(__file__).parents[2] / "jobs" / "warehouses", folder)
    write_samples(tmp_path / "jobs" / "photos")
    job = Job.load(folder / f"{name}.toml", environ={})
    destination = open_destination(LoadPlace(job.load_section.to or "", Path()))
    assert isinstance(destination, DltDestination)
    assert destination._dataset == dataset
