"""The SQL of ``ddl``: every statement parses in its dialect, and what runs in process keeps the data."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow.parquet as pq
import pytest
import sqlglot
from adbc_driver_postgresql import dbapi
from changing_output import ChangingOutput
from postgres_server import PostgresServer
from sample_parts import COLUMNS, JOB, SampleOutput, check_merged, result, sample_output
from sqlglot import exp
from stored_outputs import StoredOutput
from warehouses import (
    DuckDBWarehouse,
    PostgresWarehouse,
    Warehouse,
    current_content,
    load_into,
    loaded_content,
)

from batchvision.checkpoint import attempts_schema, failures_schema, results_schema
from batchvision.cli import ddl as cli_ddl
from batchvision.cli.entry import group
from batchvision.cli.exits import run_and_report
from batchvision.commands.ddl import DIALECTS, Statement, Target, output_statements, statements


@pytest.fixture
def output(tmp_path: Path) -> SampleOutput:
    return sample_output(tmp_path / "o'ut")


def sql_of(dialect: str, location: str = "s3://bucket/o'ut", **names: str) -> list[Statement]:
    return [each for each in statements(JOB, COLUMNS, Target(dialect, **names), location) if each.sql]


# ---------------------------------------------------------------------------------- parsed


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_statement_parses_in_its_dialect_without_an_opaque_command(dialect: str) -> None:
    for purpose, sql in sql_of(dialect, db_schema="my-project.order", table_prefix="größe_"):
        parsed = sqlglot.parse(sql, read=dialect, error_level=sqlglot.ErrorLevel.RAISE)
        assert len(parsed) == 1, purpose
        assert parsed[0] is not None
        assert not list(parsed[0].find_all(exp.Command)), purpose


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_script_is_read_back_as_the_same_statements(dialect: str) -> None:
    script = "\n".join(cli_ddl.script(statements(JOB, COLUMNS, Target(dialect), "s3://bucket/out")))
    parsed = [each for each in sqlglot.parse(script, read=dialect) if each and not isinstance(each, exp.Semicolon)]
    expected = [sqlglot.parse_one(each.sql, read=dialect) for each in sql_of(dialect, "s3://bucket/out")]
    assert [each.sql(dialect, comments=False) for each in parsed] == [each.sql(dialect) for each in expected]


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_table_has_the_columns_of_its_parts_in_their_order(dialect: str) -> None:
    created = {}
    for _, sql in sql_of(dialect):
        tree = sqlglot.parse_one(sql, read=dialect)
        if isinstance(tree, exp.Create) and tree.kind == "TABLE" and isinstance(tree.this, exp.Schema):
            columns = [each for each in tree.this.expressions if isinstance(each, exp.ColumnDef)]
            created[tree.this.this.name.lower()] = [column.name.lower() for column in columns]
    for table, schema in (("results", results_schema), ("failures", failures_schema), ("attempts", attempts_schema)):
        names = [name.lower() for name in schema(COLUMNS).names]
        assert created[f"batchvision_{table}"] == created[f"batchvision_{table}_parts"] == names


def test_the_command_offers_each_dialect() -> None:
    assert tuple(DIALECTS) == cli_ddl._DIALECTS


# ---------------------------------------------------------------------------------- run


class InDuckDB:
    def __init__(self) -> None:
        self._connection = duckdb.connect()
        self._connection.execute("SET TimeZone = 'UTC'")

    def run(self, output: SampleOutput) -> None:
        for _, sql in sql_of("duckdb", str(output.folder)):
            self._connection.execute(sql).fetchall()

    def rows(self, table: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._connection.sql(f"FROM batchvision_{table}").to_arrow_table().to_pylist()
        return rows


def test_duckdb_keeps_every_cell_and_the_newest_answer_of_each_row(output: SampleOutput) -> None:
    warehouse = InDuckDB()
    warehouse.run(output)
    check_merged(warehouse.rows("results"))
    check_merged(warehouse.rows("results_latest"))
    assert sorted(row["row_id"] for row in warehouse.rows("failures")) == ["f1", "f2"]
    assert sorted(row["attempt"] for row in warehouse.rows("attempts")) == [1, 2]


def test_a_script_that_runs_again_adds_only_new_rows(output: SampleOutput) -> None:
    warehouse = InDuckDB()
    warehouse.run(output)
    warehouse.run(output)
    check_merged(warehouse.rows("results"))
    output.write("results", "run_date=2026-11-22/part-3.parquet", [result("r2", 9), result("r3", 9)])
    output.failed("f2")
    output.attempt("part-2.parquet", 2, 3)
    warehouse.run(output)
    assert {row["row_id"]: row["cost_ticks"] for row in warehouse.rows("results")} == {
        "r1": 1235,
        "r2": 1239,
        "r3": 1239,
    }
    assert [row["row_id"] for row in warehouse.rows("failures")] == ["f2"]
    assert sorted(row["attempt"] for row in warehouse.rows("attempts")) == [1, 2, 3]


def test_failures_of_another_job_stay(output: SampleOutput) -> None:
    warehouse = InDuckDB()
    warehouse.run(output)
    warehouse._connection.execute("UPDATE batchvision_failures SET job = 'another' WHERE row_id = 'f1'").fetchall()
    warehouse.run(output)
    rows = {(row["job"], row["row_id"]) for row in warehouse.rows("failures")}
    assert rows == {("another", "f1"), (JOB, "f1"), (JOB, "f2")}


class InPostgreSQL:
    """A database on a server, filled as another loader would fill the tables named _parts."""

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, output: SampleOutput) -> None:
        with dbapi.connect(self._url, autocommit=True) as connection, connection.cursor() as cursor:
            for _, sql in sql_of("postgres"):
                cursor.execute(sql)
                if sql.startswith("CREATE OR REPLACE VIEW"):
                    for table in ("results", "failures", "attempts"):
                        cursor.execute(f"TRUNCATE batchvision_{table}_parts")
                        for part in sorted((output.folder / table).rglob("*.parquet")):
                            rows = pq.ParquetFile(part).read()
                            cursor.adbc_ingest(f"batchvision_{table}_parts", rows, mode="append")

    def rows(self, table: str) -> list[dict[str, Any]]:
        with dbapi.connect(self._url) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM batchvision_{table}")
            rows: list[dict[str, Any]] = cursor.fetch_arrow_table().to_pylist()
        numbers = ("cost_usd", "select")  # the driver gives numeric as text
        return [row | {name: Decimal(row[name]) for name in numbers if row.get(name) is not None} for row in rows]


def test_postgresql_keeps_every_cell_and_the_newest_answer_of_each_row(
    postgres_server: PostgresServer, output: SampleOutput
) -> None:
    postgres = InPostgreSQL(PostgresWarehouse(postgres_server, uuid4().hex).url)
    postgres.run(output)
    postgres.run(output)
    check_merged(postgres.rows("results"))
    check_merged(postgres.rows("results_latest"))
    assert sorted(row["row_id"] for row in postgres.rows("failures")) == ["f1", "f2"]
    assert sorted(row["attempt"] for row in postgres.rows("attempts")) == [1, 2]


@pytest.mark.parametrize("dialect", ["duckdb", "postgres"])
def test_load_fills_the_tables_that_the_script_created(
    dialect: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = ChangingOutput(tmp_path / "out").run(range(3), failing=[3])
    if dialect == "duckdb":
        warehouse: Warehouse = DuckDBWarehouse(tmp_path / "warehouse.db")
    else:
        warehouse = PostgresWarehouse(request.getfixturevalue("postgres_server"), uuid4().hex)
    for _, sql in output_statements(output.path, Target(dialect)):
        if sql:
            warehouse.rows(sql)
    load_into(warehouse, output.path)
    assert loaded_content(warehouse) == current_content(output.path)


# ---------------------------------------------------------------------------------- typed


def test_the_printed_script_loads_a_stored_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored = StoredOutput.unpack("two-recipes", tmp_path)
    assert run_and_report(group, ["ddl", str(stored.output), "--dialect", "duckdb", "--table-prefix", "night_"]) == 0
    connection = duckdb.connect()
    for each in duckdb.extract_statements(capsys.readouterr().out):
        connection.execute(each).fetchall()
    answers = connection.sql("SELECT row_id, sum(cost_ticks) FROM night_results GROUP BY ALL ORDER BY ALL").fetchall()
    newest: dict[str, list[Any]] = {}
    for path in sorted((stored.output / "results").rglob("*.parquet")):
        for row in pq.ParquetFile(path).read(["row_id", "updated_at", "cost_ticks"]).to_pylist():
            newest[row["row_id"]] = max(newest.get(row["row_id"], []), [row["updated_at"], row["cost_ticks"]])
    assert answers == [(row_id, newest[row_id][1]) for row_id in sorted(newest)]


def test_a_folder_without_an_output_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_and_report(group, ["ddl", str(tmp_path / "nowhere"), "--dialect", "duckdb"]) == 2
    assert "there is no output at" in capsys.readouterr().err
