"""Delta Lake: one Delta table for each table, below one folder or object store prefix.

Each table has its own commits. A load that was cut off between them is completed by the next load. Delta detects
concurrent commits: the later of two loads is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import pyarrow as pa
from deltalake import DeltaTable, Field, QueryBuilder, Schema, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.table import TableMerger

from batchvision.commands.load.arrow_streams import handed_over
from batchvision.commands.load.destination import LoadTransaction, WarehouseTable
from batchvision.errors import LoadFailed

#: Characters kept of a fault of the library, which may quote whole HTTP responses.
_FAULT_CHARACTERS = 300


def type_name(arrow: pa.DataType) -> str:
    """Delta's type for an Arrow type, as JSON."""
    return str(_fields([pa.field("column", arrow)])[0].type.to_json())


def _fields(fields: Sequence[pa.Field]) -> list[Field]:
    return list(Schema.from_arrow(pa.schema(fields)).fields)


def stored_rows(table: DeltaTable, schema: pa.Schema, job: str) -> Iterator[pa.RecordBatch]:
    """The columns of ``schema`` of all rows of a job."""
    columns = ", ".join('"' + name.replace('"', '""') + '"' for name in schema.names)
    value = job.replace("'", "''")
    tables = QueryBuilder().register("stored", table)
    for batch in tables.execute(f"SELECT {columns} FROM stored WHERE job = '{value}'"):
        yield pa.record_batch(batch).cast(schema)  # DataFusion gives views of texts


def merger_by_key(table: DeltaTable, key: Sequence[str], source: pa.Table | pa.RecordBatchReader) -> TableMerger:
    """A merge of rows whose key columns are equal."""
    is_same = " AND ".join(f"stored.{name} = incoming.{name}" for name in key)
    return table.merge(source, is_same, source_alias="incoming", target_alias="stored")


class DeltaFolder:
    """The tables below ``location``: a folder, or a URL of an object store.

    The settings of the object store come from its usual environment variables.
    """

    def __init__(self, location: str, db_schema: str | None = None) -> None:
        self.name = f"delta:{location}"
        self._folder = f"{location.rstrip('/')}/{db_schema}" if db_schema else location.rstrip("/")

    @contextmanager
    def transaction(self) -> Iterator[LoadTransaction]:
        commits = DeltaCommits(self.name, self._folder)
        yield commits
        commits.create_empty_tables()


class DeltaCommits:
    """The commits of one load. Each table is opened once, so that a commit of another load in between is noticed.

    A new table is created together with its first rows, so that a table without rows needs no repair.
    """

    def __init__(self, name: str, folder: str) -> None:
        self._name = name
        self._folder = folder
        self._opened: dict[str, DeltaTable] = {}
        self._new: dict[str, WarehouseTable] = {}

    # ---------------------------------------------------------------------------- tables

    def columns(self, table: WarehouseTable) -> Mapping[str, str]:
        with self._failures(f"reading the columns of {table.name}"):
            try:
                opened = DeltaTable(self._path(table))
            except TableNotFoundError:
                return {}
            self._opened[table.name] = opened
            return {field.name: field.type.to_json() for field in opened.schema().fields}

    def type_name(self, arrow: pa.DataType) -> str:
        return type_name(arrow)

    def create(self, table: WarehouseTable) -> None:
        self._new[table.name] = table

    def create_empty_tables(self) -> None:
        """Create the new tables for which the load had no rows."""
        for table in self._new.values():
            with self._failures(f"creating {table.name}"):
                DeltaTable.create(self._path(table), Schema(_fields(table.schema)))

    def add_columns(self, table: WarehouseTable, fields: Sequence[pa.Field]) -> None:
        with self._failures(f"adding columns to {table.name}"):
            self._opened[table.name].alter.add_columns(_fields(fields))

    # ---------------------------------------------------------------------------- rows

    def read(self, table: WarehouseTable, names: Sequence[str], job: str) -> Iterator[pa.RecordBatch]:
        if table.name in self._new:
            return
        with self._failures(f"reading {table.name}"):
            yield from stored_rows(
                self._opened[table.name], pa.schema([table.schema.field(name) for name in names]), job
            )

    def merge(self, table: WarehouseTable, batches: Iterator[pa.RecordBatch]) -> int:
        """Merge in one commit. Without a row there is no commit."""
        first = next(batches, None)
        if first is None:
            return 0
        rows = chain([first], batches)
        with handed_over(table.schema, rows) as reader, self._failures(f"loading {table.name}"):
            if table.name in self._new:
                return self._create_with(table, reader)
            merger = merger_by_key(self._opened[table.name], table.key, reader)
            metrics = merger.when_matched_update_all().when_not_matched_insert_all().execute()
            return int(metrics["num_target_rows_inserted"] + metrics["num_target_rows_updated"])

    def _create_with(self, table: WarehouseTable, rows: pa.RecordBatchReader) -> int:
        write_deltalake(self._path(table), rows, mode="error")
        del self._new[table.name]
        self._opened[table.name] = DeltaTable(self._path(table))
        return self._opened[table.name].count()

    def delete(self, table: WarehouseTable, keys: pa.Table) -> None:
        with self._failures(f"deleting rows of {table.name}"):
            merger_by_key(self._opened[table.name], keys.column_names, keys).when_matched_delete().execute()

    def _path(self, table: WarehouseTable) -> str:
        return f"{self._folder}/{table.name}"

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (DeltaError, OSError) as fault:
            raise LoadFailed(f"{self._name}: {doing} failed: {_text_of(fault)}", next_step=_next_step(fault)) from fault


def _text_of(fault: Exception) -> str:
    """The library's message in one line, without terminal colours and advice for programmers."""
    text = re.sub(r"\x1b\[\d*m", "", str(fault)).partition("Help:")[0]
    return " ".join(text.split())[:_FAULT_CHARACTERS].rstrip(".")


def _next_step(fault: Exception) -> str:
    if isinstance(fault, CommitFailedError) or "already exists" in str(fault):
        return "another program wrote to the table at the same time: load again"
    return "check that the place can be reached and written, then load again: it goes on where this load stopped"
