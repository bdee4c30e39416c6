"""A load makes the tables of a database equal to what is current, and a repeated load changes nothing."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from random import Random
from uuid import uuid4

import pyarrow as pa
import pytest
from changing_output import ChangingOutput, changes
from checkpoint_rows import COLUMNS, an_answer, an_intent, ask, classify, open_store
from warehouses import (
    DuckDBWarehouse,
    PostgresWarehouse,
    Warehouse,
    current_content,
    load_into,
    loaded_content,
    row_versions,
)

from batchvision.checkpoint import Columns, compact
from batchvision.checkpoint.cells import cell_of
from batchvision.commands.load import LoadPlace, TableLoad, open_destination
from batchvision.errors import JobInvalid, LoadFailed

UNCHANGED = {"merged": 0, "deleted": 0}


@pytest.fixture(params=["duckdb", "postgres"])
def warehouse(tmp_path: Path, request: pytest.FixtureRequest) -> Warehouse:
    if request.param == "duckdb":
        return DuckDBWarehouse(tmp_path / "loaded.db")
    return PostgresWarehouse(request.getfixturevalue("postgres_server"), uuid4().hex)


@pytest.fixture
def output(tmp_path: Path) -> ChangingOutput:
    return ChangingOutput(tmp_path / "out")


# ---------------------------------------------------------------------------------- what is current


def test_after_each_change_of_an_output_the_tables_are_what_is_current_and_a_second_load_changes_nothing(
    warehouse: Warehouse, output: ChangingOutput
) -> None:
    for change in changes(output):
        load_into(warehouse, output.path)
        assert loaded_content(warehouse) == current_content(output.path), change
        before = row_versions(warehouse)
        again = load_into(warehouse, output.path)
        assert row_versions(warehouse) == before, change
        assert all((each.merged, each.deleted) == (0, 0) for each in again.tables.values()), change


@pytest.mark.parametrize("seed", range(4))
def test_after_random_changes_the_tables_are_what_is_current(
    warehouse: Warehouse, output: ChangingOutput, seed: int
) -> None:
    luck = Random(seed)
    output.run(range(8))
    for _ in range(8):
        rows = luck.sample(range(10), 4)
        match luck.choice(["answer", "fail", "leave", "come back", "compact", "skip a load"]):
            case "answer" | "skip a load":
                output.run(rows, luck.choice("ab"), version=f"-{luck.randrange(3)}-{output.runs}")
            case "fail":
                output.run(rows[:2], luck.choice("ab"), version=f"-{output.runs}", failing=rows[2:])
            case "leave":
                output.runs += 1
                output.end(leaving=set(rows) & output.current.keys())
            case "come back":
                output.runs += 1
                output.end(current=luck.sample(output.answered, 4))
            case "compact":
                compact(output.path, drop_superseded=luck.random() < 0.5)
        if luck.random() < 0.7:
            load_into(warehouse, output.path)
            assert loaded_content(warehouse) == current_content(output.path)
    load_into(warehouse, output.path)
    assert loaded_content(warehouse) == current_content(output.path)


def test_the_progress_names_each_table_with_the_rows_that_were_read(
    warehouse: Warehouse, output: ChangingOutput
) -> None:
    output.run(range(3), failing=[3])
    seen: dict[str, int] = {}
    load_into(warehouse, output.path, progress=seen.__setitem__)
    prefix = "batchvision_"
    assert seen == {f"{prefix}results": 3, f"{prefix}failures": 1, f"{prefix}attempts": 4, f"{prefix}runs": 1}


def test_a_row_that_left_the_manifest_is_marked_and_comes_back(warehouse: Warehouse, output: ChangingOutput) -> None:
    output.run(range(4))
    load_into(warehouse, output.path)
    left = output.current[2]
    output.end(leaving=[2])
    counts = load_into(warehouse, output.path).tables["results"]
    marked = warehouse.rows("SELECT row_id FROM batchvision_results WHERE NOT in_manifest")
    assert (marked, counts) == ([("row2",)], TableLoad(merged=1, deleted=0, unchanged=3))
    output.end(current=[left])
    load_into(warehouse, output.path)
    assert warehouse.rows("SELECT count(*) FROM batchvision_results WHERE in_manifest") == [(4,)]


def test_a_row_that_is_failed_now_has_no_answer_in_the_tables(warehouse: Warehouse, output: ChangingOutput) -> None:
    output.run(range(3))
    load_into(warehouse, output.path)
    output.run(recipe="b", failing=[1])
    tables = load_into(warehouse, output.path).tables
    assert tables["results"] == TableLoad(merged=0, deleted=1, unchanged=2)
    assert tables["failures"] == TableLoad(merged=1, deleted=0, unchanged=0)


def test_rows_that_somebody_changed_or_deleted_in_the_database_are_put_right(
    warehouse: Warehouse, output: ChangingOutput
) -> None:
    output.run(range(5))
    load_into(warehouse, output.path)
    warehouse.rows("DELETE FROM batchvision_results WHERE row_id = 'row1'")
    warehouse.rows("UPDATE batchvision_results SET request_key = 'other' WHERE row_id = 'row2'")
    warehouse.rows("UPDATE batchvision_results SET row_id = 'stranger' WHERE row_id = 'row3'")
    assert load_into(warehouse, output.path).tables["results"] == TableLoad(merged=3, deleted=1, unchanged=2)
    assert loaded_content(warehouse) == current_content(output.path)


def test_a_table_that_was_dropped_is_filled_again(warehouse: Warehouse, output: ChangingOutput) -> None:
    output.run(range(3), failing=[3])
    load_into(warehouse, output.path)
    for table in ("results", "failures", "attempts", "runs"):
        warehouse.rows(f"DROP TABLE batchvision_{table}")
        load_into(warehouse, output.path)
        assert loaded_content(warehouse) == current_content(output.path)


def test_jobs_share_tables_and_leave_the_rows_of_other_jobs_alone(warehouse: Warehouse, tmp_path: Path) -> None:
    day, night = ChangingOutput(tmp_path / "day", job="day"), ChangingOutput(tmp_path / "night")
    columns = Columns(keep=(("shelf", pa.int64()),), answers=COLUMNS.answers)
    evening = ChangingOutput(tmp_path / "evening", columns, job="evening")
    for each in (day, night, evening):
        load_into(warehouse, each.run(range(3)).path)
    night.run(range(2), version="-anew")
    load_into(warehouse, night.path)
    assert warehouse.rows("SELECT job, count(*) FROM batchvision_results GROUP BY job ORDER BY job") == [
        ("day", 3),
        ("evening", 3),
        ("night", 3),
    ]
    anew = warehouse.rows("SELECT job, row_id FROM batchvision_results WHERE output_text LIKE '%anew%' ORDER BY row_id")
    assert anew == [("night", "row0"), ("night", "row1")]


# ---------------------------------------------------------------------------------- tables


def test_only_the_included_tables_are_made_and_the_others_are_complete_when_they_follow(
    warehouse: Warehouse, output: ChangingOutput
) -> None:
    output.run(range(3), failing=[3])
    load_into(warehouse, output.path, include=("results",), table_prefix="bv_")
    made = warehouse.rows("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'bv_%' ORDER BY 1")
    assert made == [("bv_loads",), ("bv_results",)]
    load_into(warehouse, output.path, table_prefix="bv_")
    assert loaded_content(warehouse, "bv_") == current_content(output.path)


def test_the_parts_are_listed_with_hash_rows_and_time(warehouse: Warehouse, output: ChangingOutput) -> None:
    output.run(range(3), failing=[3])
    load_into(warehouse, output.path)
    found = warehouse.rows("SELECT job, table_name, row_count, length(sha256) FROM batchvision_loads ORDER BY part")
    assert found == [("night", "output", 0, 32), ("night", "attempts", 4, 64), ("night", "results", 3, 64)]
    assert warehouse.rows("SELECT count(loaded_at) FROM batchvision_loads") == [(3,)]


def test_a_new_column_is_added_with_nulls_in_older_rows(warehouse: Warehouse, output: ChangingOutput) -> None:
    output.run(range(3))
    load_into(warehouse, output.path)
    output.columns = Columns(keep=(*COLUMNS.keep, ("shelf", pa.string())), answers=COLUMNS.answers)
    output.run([3])
    assert load_into(warehouse, output.path).tables["results"].merged == 1
    assert warehouse.rows("SELECT count(*), count(shelf) FROM batchvision_results") == [(4, 0)]
    assert loaded_content(warehouse) == current_content(output.path)


def test_a_changed_type_is_refused_with_table_column_both_types_and_the_way_out(
    warehouse: Warehouse, output: ChangingOutput
) -> None:
    output.run(range(3))
    load_into(warehouse, output.path)
    warehouse.rows(f"ALTER TABLE batchvision_results ALTER COLUMN answer_score TYPE {warehouse.text_type}")
    with pytest.raises(LoadFailed) as refused:
        load_into(warehouse, output.path)
    words = ("batchvision_results", "answer_score", warehouse.text_type, warehouse.float_type, "--table-prefix", "drop")
    assert [word for word in words if word not in refused.value.message] == []


def test_a_table_of_another_shape_is_refused_and_nothing_is_loaded(
    warehouse: Warehouse, output: ChangingOutput
) -> None:
    output.run(range(3))
    warehouse.rows("CREATE TABLE batchvision_failures (id INTEGER)")
    with pytest.raises(LoadFailed, match="batchvision_failures has no column job, row_id"):
        load_into(warehouse, output.path)
    tables = warehouse.rows("SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'batchvision%'")
    assert tables == [("batchvision_failures",)]


@pytest.mark.anyio
async def test_rows_that_no_part_holds_yet_are_loaded_but_not_listed(warehouse: Warehouse, tmp_path: Path) -> None:
    with open_store(tmp_path / "out") as store:
        store.recover(classify)
        await ask(store, an_intent(1), an_answer())
        await ask(store, an_intent(2), an_answer(status=400))
        await store.flush()
        load_into(warehouse, tmp_path / "out")
        assert warehouse.rows("SELECT job, row_id FROM batchvision_results") == [("night", "row1")]
        assert warehouse.rows("SELECT job, row_id FROM batchvision_failures") == [("night", "row2")]
        assert warehouse.rows("SELECT count(*) FROM batchvision_attempts") == [(2,)]
        assert warehouse.rows("SELECT table_name FROM batchvision_loads") == [("output",)]
        await store.close(complete=False)
    again = load_into(warehouse, tmp_path / "out").tables
    assert (again["results"].merged, again["failures"].merged) == (0, 0)
    assert loaded_content(warehouse) == current_content(tmp_path / "out")
    assert warehouse.rows("SELECT count(*) FROM batchvision_loads WHERE row_count > 0") == [(2,)]


#: Every type that a column of an output may have.
CELLS: dict[str, tuple[pa.DataType, object]] = {
    "text": (pa.string(), "caf\u00e9 \U0001f45f"),
    "with_nul": (pa.string(), "a\0b"),
    "raw": (pa.binary(), b"\0\xff"),
    "truth": (pa.bool_(), True),
    "tiny": (pa.int8(), -8),
    "small": (pa.int16(), -16),
    "int32": (pa.int32(), -32),
    "int64": (pa.int64(), 2**53 + 1),
    "half": (pa.float32(), 0.5),
    "double": (pa.float64(), 0.1),
    "day": (pa.date32(), date(2026, 2, 28)),
    "naive": (pa.timestamp("us"), datetime(2026, 2, 28, 1, 2, 3, 4)),  # noqa: DTZ001 - a column without a time zone
    "aware": (pa.timestamp("us", "UTC"), datetime(2026, 2, 28, 1, 2, 3, 4, tzinfo=UTC)),
    "money": (pa.decimal128(18, 9), Decimal("-123456789.123456789")),
    "long_number": (pa.decimal128(38, 0), Decimal(10**37)),
    "texts": (pa.list_(pa.string()), ["a", None, 'b"{,}', "n\0l"]),
    "numbers": (pa.list_(pa.int64()), [1, None]),
    "scores": (pa.list_(pa.float64()), [0.5, None]),
    "truths": (pa.list_(pa.bool_()), [True, None]),
    "days": (pa.list_(pa.date32()), [date(2026, 2, 28), None]),
    "times": (pa.list_(pa.timestamp("us", "UTC")), [datetime(2026, 2, 28, tzinfo=UTC), None]),
    "order": (pa.string(), "a reserved word"),
    "select": (pa.int64(), 7),
    "gr\u00f6\u00dfe": (pa.string(), "a name beyond ASCII"),
    "json": (pa.string(), '{"a": [1, null]}'),
}


def test_every_type_and_name_of_a_column_survives(warehouse: Warehouse, tmp_path: Path) -> None:
    columns = Columns(tuple((name, arrow) for name, (arrow, _) in CELLS.items()), COLUMNS.answers)
    output = ChangingOutput(tmp_path / "out", columns)
    output.cells = {name: cell_of(value) for name, (_, value) in CELLS.items()} | {
        name: value for name, (arrow, value) in CELLS.items() if pa.types.is_list(arrow)
    }
    output.run(range(2))
    load_into(warehouse, output.path)
    output.run([0], version="-anew")
    load_into(warehouse, output.path)  # the second row through a stage
    names = ", ".join(f'"{name}"' for name in CELLS)
    for row in warehouse.rows(f"SELECT {names} FROM batchvision_results"):
        stored = {
            name: Decimal(cell) if isinstance(value, Decimal) else cell
            for (name, (_, value)), cell in zip(CELLS.items(), row, strict=True)
        }
        assert stored == {name: warehouse.kept(value) for name, (_, value) in CELLS.items()}


# ---------------------------------------------------------------------------------- URLs


@pytest.mark.parametrize(
    "to", ["mysql://host/db", "warehouse.db", "duckdb:", "duckdb://file.db", "duckdb:///", "env:NOT_SET_ANYWHERE", ""]
)
def test_a_url_that_names_no_destination_is_the_users_mistake(to: str, tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="--to"):
        open_destination(LoadPlace(to, tmp_path), {})


def test_the_environment_holds_the_url(tmp_path: Path, output: ChangingOutput) -> None:
    place = LoadPlace("env:WAREHOUSE_URL", tmp_path)
    assert open_destination(place, {"WAREHOUSE_URL": "duckdb:///a.db"}).name == f"duckdb:///{tmp_path}/a.db"


@pytest.mark.parametrize(
    "to",
    ["postgresql://me:hunter2secret@host/db", "postgresql://host/db?password=hunter2secret", "x://:hunter2secret@h"],
)
def test_a_password_on_the_command_line_is_refused_and_not_repeated(to: str, tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="env:WAREHOUSE_URL") as refused:
        open_destination(LoadPlace(to, tmp_path), {})
    assert "hunter2" not in refused.value.message
