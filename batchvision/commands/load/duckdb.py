"""DuckDB: one file, one writer.

DuckDB 2.0 leaves the result of each statement open until it is fetched. So each statement here is fetched to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow import types

from batchvision.commands.load.arrow_streams import handed_over
from batchvision.commands.load.destination import LoadTransaction, WarehouseTable
from batchvision.errors import LoadFailed

#: Turns an exception of the driver during a step into LoadFailed. The argument names the step.
Failures = Callable[[str], AbstractContextManager[None]]

#: Rows of a batch that is read.
_BATCH_ROWS = 50_000
#: DuckDB would take most of the machine's memory. Beyond this it writes temporary files beside the database.
_MEMORY = "400MB"
_INCOMING, _STAGE = "batchvision_incoming", "batchvision_stage"

_TYPE_NAMES = {
    pa.string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("us", "UTC"): "TIMESTAMP WITH TIME ZONE",
}


def type_name(arrow: pa.DataType) -> str:
    """DuckDB's type for an Arrow type."""
    if types.is_list(arrow):
        return f"{type_name(arrow.value_type)}[]"
    if types.is_decimal(arrow):
        return f"DECIMAL({arrow.precision},{arrow.scale})"
    return _TYPE_NAMES[arrow]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class DuckDBFile:
    """A database file. The folder must exist; the file is created."""

    def __init__(self, path: Path, db_schema: str | None = None) -> None:
        self.path = path
        self.name = f"duckdb:///{path}"
        self._db_schema = db_schema or "main"

    @contextmanager
    def transaction(self) -> Iterator[LoadTransaction]:
        with self._failures("opening it"):
            connection = duckdb.connect(str(self.path), config={"memory_limit": _MEMORY})
        with connection:
            transaction = DuckDBTransaction(connection, self._db_schema, self._failures)
            transaction.begin()
            yield transaction
            transaction.commit()

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as fault:
            what = f"{self.name}: {doing} failed: {str(fault).splitlines()[0]}. Nothing was loaded"
            raise LoadFailed(what, next_step=_next_step(fault, self.path)) from fault


def _next_step(fault: duckdb.Error, path: Path) -> str:
    text = str(fault)
    if "lock" in text:
        return "close the program that has the file open, then load again"
    if "No space left" in text or "File too large" in text or "Could not write" in text:
        return f"make room beside {path}, then load again"
    if isinstance(fault, duckdb.IOException):
        return "check that its folder exists, and that it is a DuckDB file that may be written"
    return "mend that, then load again"


class DuckDBTransaction:
    """One transaction on one connection."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, db_schema: str, failures: Failures) -> None:
        self._connection = connection
        self._db_schema = db_schema
        self._failures = failures

    def begin(self) -> None:
        with self._failures(f"beginning a load into the schema {self._db_schema}"):
            self._run("BEGIN")
            self._run(f"CREATE SCHEMA IF NOT EXISTS {quoted(self._db_schema)}")

    def commit(self) -> None:
        with self._failures("committing"):
            self._run("COMMIT")

    # ---------------------------------------------------------------------------- tables

    def columns(self, table: WarehouseTable) -> Mapping[str, str]:
        with self._failures(f"reading the columns of {table.name}"):
            query = (
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_catalog = current_database() AND table_schema = ? AND table_name = ?"
            )
            return dict(self._run(query, [self._db_schema, table.name]))

    def type_name(self, arrow: pa.DataType) -> str:
        return type_name(arrow)

    def create(self, table: WarehouseTable) -> None:
        columns = ", ".join(f"{quoted(each.name)} {type_name(each.type)}" for each in table.schema)
        with self._failures(f"creating {table.name}"):
            self._run(f"CREATE TABLE {self._path(table)} ({columns})")

    def add_columns(self, table: WarehouseTable, fields: Sequence[pa.Field]) -> None:
        with self._failures(f"adding columns to {table.name}"):
            for each in fields:
                self._run(f"ALTER TABLE {self._path(table)} ADD COLUMN {quoted(each.name)} {type_name(each.type)}")

    # ---------------------------------------------------------------------------- rows

    def read(self, table: WarehouseTable, names: Sequence[str], job: str) -> Iterator[pa.RecordBatch]:
        query = f"SELECT {', '.join(map(quoted, names))} FROM {self._path(table)} WHERE job = $job"
        with self._failures(f"reading {table.name}"):
            yield from self._connection.sql(query, params={"job": job}).to_arrow_reader(_BATCH_ROWS)

    def merge(self, table: WarehouseTable, batches: Iterator[pa.RecordBatch]) -> int:
        path = self._path(table)
        with handed_over(table.schema, batches) as reader, self._failures(f"loading {table.name}"):
            self._connection.register(_INCOMING, reader)
            if not self._run(f"SELECT 1 FROM {path} LIMIT 1"):
                return self._count(f"INSERT INTO {path} BY NAME SELECT * FROM {_INCOMING}")
            self._run(f"CREATE TEMP TABLE {_STAGE} AS SELECT * FROM {_INCOMING}")
            merged = self._count(
                f"MERGE INTO {path} AS stored USING {_STAGE} AS incoming ON ({self._same(table.key)}) "
                "WHEN MATCHED THEN UPDATE BY NAME WHEN NOT MATCHED THEN INSERT BY NAME"
            )
            self._run(f"DROP TABLE {_STAGE}")
            return merged

    def delete(self, table: WarehouseTable, keys: pa.Table) -> None:
        with self._failures(f"deleting rows of {table.name}"):
            self._connection.register(_INCOMING, keys)
            same = self._same(tuple(keys.column_names))
            self._run(f"DELETE FROM {self._path(table)} AS stored USING {_INCOMING} AS incoming WHERE {same}")

    # ---------------------------------------------------------------------------- statements

    def _run(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(statement, parameters).fetchall()

    def _count(self, statement: str) -> int:
        return int(self._run(statement)[0][0])

    def _path(self, table: WarehouseTable) -> str:
        return f"{quoted(self._db_schema)}.{quoted(table.name)}"

    @staticmethod
    def _same(key: Sequence[str]) -> str:
        return " AND ".join(f"stored.{quoted(name)} = incoming.{quoted(name)}" for name in key)
