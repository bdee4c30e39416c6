"""A job's rows in a destination come from one output. Another output of the same job name is refused."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest
from changing_output import ChangingOutput
from warehouses import (
    DeltaWarehouse,
    DuckDBThroughDlt,
    DuckDBWarehouse,
    PostgresWarehouse,
    Warehouse,
    current_content,
    load_into,
    loaded_content,
    row_versions,
)

from batchvision.checkpoint.registry import output_id, registry_path
from batchvision.errors import LoadFailed


@pytest.fixture(params=["duckdb", "postgres", "delta", "dlt"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    match request.param:
        case "duckdb":
            return DuckDBWarehouse(tmp_path / "loaded.db")
        case "postgres":
            return PostgresWarehouse(request.getfixturevalue("postgres_server"), uuid4().hex)
        case "delta":
            return DeltaWarehouse(str(tmp_path / "lake"))
    monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", f"duckdb:///{tmp_path / 'loaded.db'}")
    through_dlt = DuckDBThroughDlt(tmp_path / "loaded.db")
    through_dlt.url = "dlt:duckdb"
    return through_dlt


def test_a_second_output_of_the_same_job_is_refused_and_changes_no_row(warehouse: Warehouse, tmp_path: Path) -> None:
    first, second = ChangingOutput(tmp_path / "first").run(range(4), failing=[4]), ChangingOutput(tmp_path / "second")
    load_into(warehouse, first.path)
    before = row_versions(warehouse)
    with pytest.raises(LoadFailed) as refused:
        load_into(warehouse, second.run(range(2, 6)).path)
    assert f"the rows of the job 'night' in the tables batchvision_* come from another output than {second.path}" in (
        refused.value.what
    )
    assert "another name" in str(refused.value.next_step) and "--table-prefix" in str(refused.value.next_step)
    with pytest.raises(LoadFailed, match="come from another output"):
        load_into(warehouse, second.path, include=["failures"])
    assert row_versions(warehouse) == before
    load_into(warehouse, first.path)
    assert row_versions(warehouse) == before


def test_the_next_steps_of_the_refusal_work(warehouse: Warehouse, tmp_path: Path) -> None:
    first, second = ChangingOutput(tmp_path / "first").run(range(4)), ChangingOutput(tmp_path / "second").run([7])
    other_job = ChangingOutput(tmp_path / "other", job="day").run([8])
    load_into(warehouse, first.path)
    load_into(warehouse, other_job.path)
    load_into(warehouse, second.path, table_prefix="second_")
    assert sorted(warehouse.rows("SELECT job, count(*) FROM batchvision_results GROUP BY job")) == [
        ("day", 1),
        ("night", 4),
    ]


@pytest.mark.parametrize("warehouse", ["duckdb", "postgres"], indirect=True)
def test_an_output_takes_the_place_of_another_whose_rows_were_deleted(warehouse: Warehouse, tmp_path: Path) -> None:
    load_into(warehouse, ChangingOutput(tmp_path / "first").run(range(4)).path)
    for name in ("results", "failures", "attempts", "runs", "loads"):
        warehouse.rows(f"DELETE FROM batchvision_{name} WHERE job = 'night'")
    second = ChangingOutput(tmp_path / "second").run([7])
    load_into(warehouse, second.path)
    assert loaded_content(warehouse) == current_content(second.path)


def without_id(output: Path) -> None:
    document = json.loads(registry_path(output).read_bytes())
    del document["output_id"]
    registry_path(output).write_text(json.dumps(document))


def test_an_output_of_an_older_version_gets_its_id_with_a_run_and_is_loaded_before_and_after(tmp_path: Path) -> None:
    warehouse, output = DuckDBWarehouse(tmp_path / "loaded.db"), ChangingOutput(tmp_path / "out").run(range(3))
    without_id(output.path)
    load_into(warehouse, output.path)
    output.run([3])
    assert output_id(output.path) is not None
    load_into(warehouse, output.path)
    assert loaded_content(warehouse) == current_content(output.path)

    before = row_versions(warehouse)
    load_into(warehouse, output.path.rename(tmp_path / "moved"))
    assert row_versions(warehouse) == before
