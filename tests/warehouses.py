"""Databases to load into, and what stands in them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

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


class DuckDBWarehouse:
    row_version = "rowid"
    text_type, float_type = "VARCHAR", "DOUBLE"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.url = f"duckdb:///{path}"

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.path)) as connection:
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
    return Content(
        **{name: Counter(warehouse.rows(f"SELECT {', '.join(of)} FROM {prefix}{name}")) for name, of in tables.items()}
    )


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
    return Counter(tuple(row.values()) for batch in batches for row in batch.to_pylist())


def row_versions(warehouse: Warehouse, prefix: str = "batchvision_") -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table with its version: a load that changes nothing leaves them equal."""
    version = warehouse.row_version
    return {
        name: sorted(map(repr, warehouse.rows(f"SELECT {version}, * FROM {prefix}{name}"))) for name in LOADED_TABLES
    }
