"""A load that is killed at any statement leaves the database as it was, and the next load is complete."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from uuid import uuid4

import duckdb
import pytest
from adbc_driver_postgresql import dbapi
from changing_output import ChangingOutput
from counted_statements import Killed, Statements
from warehouses import (
    DuckDBWarehouse,
    PostgresWarehouse,
    Warehouse,
    current_content,
    load_into,
    loaded_content,
    row_versions,
)

from batchvision.commands.load.duckdb import DuckDBTransaction
from batchvision.commands.load.postgres import PostgresTransaction
from batchvision.errors import LoadFailed


class Engine(NamedTuple):
    warehouse: Warehouse
    driver: ModuleType
    transaction: type
    commit: Callable[[Any], object]


@pytest.fixture(params=["duckdb", "postgres"])
def engine(tmp_path: Path, request: pytest.FixtureRequest) -> Engine:
    if request.param == "duckdb":
        begin_anew = "COMMIT; BEGIN"
        commit: Callable[[Any], object] = lambda transaction: transaction._run(begin_anew)  # noqa: E731
        return Engine(DuckDBWarehouse(tmp_path / "loaded.db"), duckdb, DuckDBTransaction, commit)
    warehouse = PostgresWarehouse(request.getfixturevalue("postgres_server"), uuid4().hex)
    return Engine(warehouse, dbapi, PostgresTransaction, lambda transaction: transaction._connection.commit())


@pytest.fixture
def output(tmp_path: Path) -> ChangingOutput:
    return ChangingOutput(tmp_path / "out").run(range(6), failing=[6, 7])


def state(warehouse: Warehouse) -> dict[str, list[Any]]:
    """Every row with its version. Without tables: nothing."""
    tables = "SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'batchvision%'"
    return row_versions(warehouse) if len(warehouse.rows(tables)) == 5 else {"tables": warehouse.rows(tables)}


def half_loaded(engine: Engine, output: Path) -> Iterator[int]:
    """The statements at which a killed load left something behind. The last load here is not killed."""
    before = state(engine.warehouse)
    for last in range(1, 1000):
        statements = Statements(last)
        with pytest.MonkeyPatch.context() as patch:
            statements.patch(engine.driver, patch.setattr)
            try:
                load_into(engine.warehouse, output)
                break
            except Killed:
                pass
        if state(engine.warehouse) != before:
            yield last
    assert 20 < last < 200, "each load has some dozens of statements"


def test_a_first_load_that_is_killed_at_any_statement_leaves_nothing(engine: Engine, output: ChangingOutput) -> None:
    assert list(half_loaded(engine, output.path)) == []
    assert loaded_content(engine.warehouse) == current_content(output.path)


def test_a_later_load_that_is_killed_at_any_statement_changes_nothing(engine: Engine, output: ChangingOutput) -> None:
    load_into(engine.warehouse, output.path)
    output.run([0, 1, 6], version="-anew", failing=[2])
    output.end(leaving=[4])
    assert list(half_loaded(engine, output.path)) == []
    assert loaded_content(engine.warehouse) == current_content(output.path)


def test_a_load_that_commits_after_each_table_is_caught(
    engine: Engine, output: ChangingOutput, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_into(engine.warehouse, output.path)
    output.run([0, 1, 6], version="-anew", failing=[2])
    merge = engine.transaction.merge  # type: ignore[attr-defined]  # of either class

    def committing(transaction: Any, *args: Any) -> int:
        merged = merge(transaction, *args)
        engine.commit(transaction)
        return int(merged)

    monkeypatch.setattr(engine.transaction, "merge", committing)
    assert next(half_loaded(engine, output.path)) > 0


@pytest.mark.parametrize("last", [12, 20])
def test_a_process_that_ends_within_a_load_leaves_the_database_as_it_was(
    engine: Engine, output: ChangingOutput, last: int
) -> None:
    load_into(engine.warehouse, output.path)
    before = state(engine.warehouse)
    output.run([0, 1, 6], version="-anew", failing=[2])
    script = (
        "import sys; from importlib import import_module\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from counted_statements import Statements\n"
        "from batchvision.cli import main\n"
        f"Statements({last}, exits=True).patch(import_module({engine.driver.__name__!r}), setattr)\n"
        f"main(['load', {str(output.path)!r}, '--to', {engine.warehouse.url!r}])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert state(engine.warehouse) == before
    load_into(engine.warehouse, output.path)
    assert loaded_content(engine.warehouse) == current_content(output.path)


# ---------------------------------------------------------------------------------- two loads at once


def test_two_loads_at_once_are_equal_or_the_second_is_refused(engine: Engine, output: ChangingOutput) -> None:
    for version in ("-1", "-2", "-3"):
        output.run(range(4), version=version)
        refused = list[LoadFailed]()
        threads = [threading.Thread(target=load_or_note, args=(engine, output.path, refused)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(refused) < 3
        assert [fault.message for fault in refused if "another load" not in fault.message] == []
        assert loaded_content(engine.warehouse) == current_content(output.path)


def load_or_note(engine: Engine, output: Path, refused: list[LoadFailed]) -> None:
    try:
        load_into(engine.warehouse, output)
    except LoadFailed as fault:
        refused.append(fault)
