"""Databases to load into, and what stands in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb
import pyarrow as pa
from adbc_driver_postgresql import dbapi
from deltalake import DeltaTable
from postgres_server import PostgresServer

from batchvision.checkpoint import OutputView, newest_summaries
from batchvision.commands.load import Loaded, LoadPlace, load, open_destination

LOADED_TABLES = ("results", "failures", "attempts", "runs", "loads")


class Warehouse(Protocol):
    """A database of one test."""

    url: str
    #: The versions of the rows that a repeated load must leave.
    row_version: str
    text_type: str
    float_type: str

    def rows(self, query: str) -> list[tuple[Any, ...]]: ...

    def kept(self, value: Any) -> Any:
        """A value as the database holds it."""


class DuckDBWarehouse:
    row_version = "rowid"
    text_type, float_type = "VARCHAR", "DOUBLE"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"duckdb:///{path}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path)) as connection:
            return connection.execute(query).fetchall()

    def kept(self, value: Any) -> Any:
        return value


class DuckDBThroughDlt(DuckDBWarehouse):
    """The dataset ``batchvision``. The test sets dlt's variables and the URL."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path)) as connection:
            connection.execute("USE batchvision").fetchall()
            return connection.execute(query).fetchall()


class DeltaWarehouse:
    """Delta tables, queried through DuckDB. The version of each row is the one of its table."""

    row_version = "version"

    def __init__(self, location: str) -> None:
        self.location = location
        self.url = f"delta:{location}"

    def table(self, name: str) -> DeltaTable:
        return DeltaTable(f"{self.location}/batchvision_{name}")

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect() as connection:
            for name in LOADED_TABLES:
                table = self.table(name)
                version = pa.repeat(table.version(), table.count())
                connection.register(f"batchvision_{name}", table.to_pyarrow_table().append_column("version", version))
            return connection.execute(query).fetchall()


def load_into(warehouse: Warehouse, output: Path, **options: Any) -> Loaded:
    return load(output, open_destination(LoadPlace(warehouse.url, output, options.pop("db_schema", None))), **options)


class Content(NamedTuple):
    """The rows of an output, or of a warehouse: row_id, answer and cost; failures; attempts; runs."""

    results: Counter[tuple[Any, ...]]
    failures: Counter[tuple[Any, ...]]
    attempts: Counter[tuple[Any, ...]]
    runs: Counter[tuple[Any, ...]]


_RESULTS = ("row_id", "request_key", "output_text", "answer_score", "cost_usd", "title", "updated_at")
_FAILURES = ("row_id", "request_key", "error_kind", "failed_at")
_ATTEMPTS = ("row_id", "request_key", "attempt", "run_id", "state", "cost_ticks")
_RUNS = ("run_id", "cost_ticks", "exit_code")


def loaded_content(warehouse: Warehouse, prefix: str = "batchvision_") -> Content:
    tables = {"results": _RESULTS, "failures": _FAILURES, "attempts": _ATTEMPTS, "runs": _RUNS}
    return Content(**{name: _loaded_rows(warehouse, prefix + name, columns) for name, columns in tables.items()})


def _loaded_rows(warehouse: Warehouse, table: str, columns: Sequence[str]) -> Counter[tuple[Any, ...]]:
    return Counter(map(_plain, warehouse.rows(f"SELECT {', '.join(columns)} FROM {table}")))


def current_content(output: Path) -> Content:
    view = OutputView(output)
    latest = view.latest()
    return Content(
        results=_rows(view.current_results(None if latest is None else latest.recipe_id, _RESULTS)),
        failures=_rows(view.rows("failures", _FAILURES)),
        attempts=_rows(view.rows("attempts", _ATTEMPTS)),
        runs=Counter((each.run_id, each.cost_ticks, each.exit_code) for each in newest_summaries(output)),
    )


def _rows(batches: Any) -> Counter[tuple[Any, ...]]:
    return Counter(_plain(row.values()) for batch in batches for row in batch.to_pylist())


def _plain(cells: Iterable[Any]) -> tuple[Any, ...]:
    """ADBC gives decimals as text."""
    return tuple(f"{cell:f}" if isinstance(cell, Decimal) else cell for cell in cells)


def row_versions(warehouse: Warehouse, prefix: str = "batchvision_") -> dict[str, list[str]]:
    """Every row of every table with its version: a load that changes nothing leaves them equal."""
    version = warehouse.row_version
    rows = " UNION ALL ".join(
        f"SELECT '{name}', CAST({version} AS VARCHAR), CAST(stored AS VARCHAR) FROM {prefix}{name} AS stored"
        for name in LOADED_TABLES
    )
    found: dict[str, list[str]] = {name: [] for name in LOADED_TABLES}
    for name, of_row, cells in warehouse.rows(rows):
        found[name].append(f"{of_row} {cells}")
    return {name: sorted(each) for name, each in found.items()}


class PostgresWarehouse:
    """A database of its own on a server."""

    row_version = "xmin::text || ctid::text"
    text_type, float_type = "text", "double precision"

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.url = server.url(name)
        with dbapi.connect(server.url(), autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(f'CREATE DATABASE "{name}"')

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with dbapi.connect(self.url, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchall() if cursor.description else []

    def kept(self, value: Any) -> Any:
        """PostgreSQL has no NUL character in a text."""
        if isinstance(value, list):
            return [self.kept(each) for each in value]
        return value.replace("\0", "\ufffd") if isinstance(value, str) else value
