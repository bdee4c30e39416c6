"""DuckDB: one file, one writer.

DuckDB 2.0 leaves the result of each statement open until it is fetched. So each statement here is fetched to its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from batchvision.commands.ddl import DIALECTS
from batchvision.commands.load.arrow_streams import Failures, handed_over
from batchvision.commands.load.destination import LoadTransaction, WarehouseTable
from batchvision.errors import LoadFailed

#: Rows of a batch that is read.
_BATCH_ROWS = 50_000
#: DuckDB would take most of the machine's memory. Beyond this it writes temporary files beside the database.
_MEMORY = "256MB"
_INCOMING = "batchvision_incoming"
#: Size of the rows that are merged at once. DuckDB holds them in memory.
_PIECE_BYTES = 32 * 1024 * 1024
_SQL = DIALECTS["duckdb"]


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
        except (duckdb.Error, pa.ArrowException, OSError) as fault:  # rows that are read raise those of Arrow
            what = f"{self.name}: {doing} failed: {str(fault).partition(chr(10))[0]}. Nothing was loaded"
            raise LoadFailed(what, next_step=_next_step(fault, self.path)) from fault


def _next_step(fault: Exception, path: Path) -> str:
    text = str(fault)
    if "set lock" in text:
        return "close the program that has the file open, then load again"
    if "No space left" in text or "File too large" in text or "Could not write" in text:
        return f"make room beside {path}, then load again"
    if isinstance(fault, duckdb.TransactionException):
        return "another load was at work on the same tables: load again"
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
            self._run(f"CREATE SCHEMA IF NOT EXISTS {_SQL.name(self._db_schema)}")

    def commit(self) -> None:
        with self._failures("committing"):
            self._run("RESET memory_limit")  # a commit needs all rows in memory that are not in the file yet
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
        """As DuckDB's catalog spells it."""
        return _SQL.column_type(arrow).replace(", ", ",")

    def create(self, table: WarehouseTable) -> None:
        columns = ", ".join(f"{_SQL.name(each.name)} {_SQL.column_type(each.type)}" for each in table.schema)
        with self._failures(f"creating {table.name}"):
            self._run(f"CREATE TABLE {self._path(table)} ({columns})")

    def add_columns(self, table: WarehouseTable, fields: Sequence[pa.Field]) -> None:
        with self._failures(f"adding columns to {table.name}"):
            for each in fields:
                self._run(
                    f"ALTER TABLE {self._path(table)} ADD COLUMN {_SQL.name(each.name)} {_SQL.column_type(each.type)}"
                )

    # ---------------------------------------------------------------------------- rows

    def read(self, table: WarehouseTable, names: Sequence[str], job: str) -> Iterator[pa.RecordBatch]:
        query = f"SELECT {', '.join(map(_SQL.name, names))} FROM {self._path(table)} WHERE job = $job"
        with self._failures(f"reading {table.name}"):
            yield from self._connection.sql(query, params={"job": job}).to_arrow_reader(_BATCH_ROWS)

    def merge(self, table: WarehouseTable, batches: Iterator[pa.RecordBatch]) -> int:
        path = self._path(table)
        with handed_over(table.schema, batches) as reader, self._failures(f"loading {table.name}"):
            self._connection.register(_INCOMING, reader)
            if not self._run(f"SELECT 1 FROM {path} LIMIT 1"):
                return self._count(f"INSERT INTO {path} BY NAME SELECT * FROM {_INCOMING}")
            return sum(self._merge(path, table.key, rows) for rows in _pieces(reader))

    def _merge(self, path: str, key: Sequence[str], rows: pa.Table) -> int:
        self._connection.register(_INCOMING, rows)
        return self._count(
            f"MERGE INTO {path} AS stored USING {_INCOMING} AS incoming ON ({self._same(key)}) "
            "WHEN MATCHED THEN UPDATE BY NAME WHEN NOT MATCHED THEN INSERT BY NAME"
        )

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
        return _SQL.name(self._db_schema, table.name)

    @staticmethod
    def _same(key: Sequence[str]) -> str:
        return " AND ".join(f"stored.{_SQL.name(name)} = incoming.{_SQL.name(name)}" for name in key)


def _pieces(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows in tables of about ``_PIECE_BYTES``."""
    gathered: list[pa.RecordBatch] = []
    for batch in batches:
        gathered.append(batch)
        if sum(each.nbytes for each in gathered) >= _PIECE_BYTES:
            yield pa.Table.from_batches(gathered)
            gathered = []
    if gathered:
        yield pa.Table.from_batches(gathered)
