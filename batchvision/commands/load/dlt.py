"""Every destination of dlt: each merge is one pipeline run with the table's primary key.

dlt loads tables one by one. A load that was cut off between them is completed by the next load. The pipeline's files
are temporary, so that nothing of a load that was cut off is loaded later. Lists become JSON text.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import dlt
import pyarrow as pa
from dlt.common.destination import Destination
from dlt.common.destination.exceptions import UnknownDestinationModule
from dlt.common.exceptions import DltException
from dlt.common.libs.pyarrow import py_arrow_to_table_schema_columns
from dlt.pipeline.exceptions import PipelineStepFailed
from pyarrow import types

from batchvision.commands.load.arrow_streams import Failures, handed_over
from batchvision.commands.load.destination import LoadTransaction, WarehouseTable
from batchvision.errors import JobInvalid, LoadFailed

#: dlt shares staging tables among all pipelines of a dataset. These belong to batchvision alone.
_STAGING = "%s_batchvision_staging"
#: The name of a load's temporary folder begins so.
_FOLDER = "batchvision-dlt-"
_READ_ROWS = 50_000
#: Keys of one DELETE statement.
_DELETE_ROWS = 500
#: Characters kept of a fault of dlt, which quotes SQL and stack traces.
_FAULT_CHARACTERS = 500


def type_name(arrow: pa.DataType) -> str:
    """dlt's type for an Arrow type."""
    return _type_text(py_arrow_to_table_schema_columns(pa.schema([("column", _sent_type(arrow))]))["column"])


def _type_text(column: Mapping[str, Any]) -> str:
    """The type with its size. dlt leaves out the default size of other types."""
    names = ("precision", "scale") if column["data_type"] in ("decimal", "bigint") else ()
    sizes = [str(column[name]) for name in names if column.get(name) is not None]
    return f"{column['data_type']}({', '.join(sizes)})" if sizes else str(column["data_type"])


def _sent_type(arrow: pa.DataType) -> pa.DataType:
    return pa.string() if types.is_list(arrow) else arrow


class DltDestination:
    """A destination of dlt by its name there. Its settings and credentials come from dlt's own configuration."""

    def __init__(self, name: str, kind: str, dataset: str, **settings: Any) -> None:
        self.name = name
        self._dataset = dataset
        try:
            self._destination = Destination.from_reference(kind, staging_dataset_name_layout=_STAGING, **settings)
        except UnknownDestinationModule as unknown:
            raise JobInvalid(f"{name}: dlt has no destination {kind!r} and no setting of that name") from unknown

    @contextmanager
    def transaction(self) -> Iterator[LoadTransaction]:
        with work_folder() as folder:
            with self._failures("connecting"):
                pipeline = dlt.pipeline("batchvision", folder, None, self._destination, dataset_name=self._dataset)
                pipeline.sync_destination()
            tables = DltTables(pipeline, self._failures)
            yield tables
            tables.create_empty_tables()

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (DltException, OSError, ValueError) as fault:
            cause = fault.exception if isinstance(fault, PipelineStepFailed) else fault
            text = " ".join(str(cause).split())[:_FAULT_CHARACTERS]
            if isinstance(cause, ImportError):
                raise JobInvalid(f"{self.name}: {text}") from fault
            step = "check dlt's settings of this destination and its rights, then load again: it goes on from here"
            raise LoadFailed(f"{self.name}: {doing} failed: {text}", next_step=step) from fault


@contextmanager
def work_folder() -> Iterator[str]:
    """A temporary folder for the files of one pipeline. Folders of loads that were killed are removed first.

    A load locks its folder while it is at work. The lock has its name only when it is held.
    """
    for left in Path(gettempdir()).glob(f"{_FOLDER}*"):
        with suppress(OSError), (left / "lock").open("rb+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left)
    with TemporaryDirectory(prefix=_FOLDER) as folder, Path(folder, "new-lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        Path(lock.name).rename(Path(folder, "lock"))
        yield folder


class DltTables:
    """The tables of one dataset."""

    def __init__(self, pipeline: dlt.Pipeline, failures: Failures) -> None:
        self._pipeline = pipeline
        self._failures = failures
        self._new: dict[str, WarehouseTable] = {}
        capabilities = pipeline.destination.capabilities()
        has_upsert = "upsert" in (capabilities.supported_merge_strategies or ())
        self._strategy = "upsert" if has_upsert else "delete-insert"
        self._format = "parquet" if "parquet" in (capabilities.supported_loader_file_formats or ()) else None
        self._is_delta = pipeline.destination.destination_type.endswith(".filesystem")

    # ---------------------------------------------------------------------------- tables

    def columns(self, table: WarehouseTable) -> Mapping[str, str]:
        schema = self._pipeline.default_schema if self._pipeline.default_schema_name else None
        if schema is None or table.name not in schema.tables:
            return {}
        stored = schema.tables[table.name]["columns"]
        names = {name: schema.naming.normalize_identifier(name) for name in table.schema.names}
        return {name: _type_text(stored[normal]) for name, normal in names.items() if normal in stored}

    def type_name(self, arrow: pa.DataType) -> str:
        return type_name(arrow)

    def create(self, table: WarehouseTable) -> None:
        self._new[table.name] = table  # dlt creates it with its first rows

    def create_empty_tables(self) -> None:
        """Create the new tables for which the load had no rows."""
        for table in list(self._new.values()):
            self.merge(table, iter([pa.RecordBatch.from_pylist([], schema=table.schema)]))

    def add_columns(self, table: WarehouseTable, fields: Sequence[pa.Field]) -> None:
        """dlt adds the columns of the rows that it merges."""

    # ---------------------------------------------------------------------------- rows

    def read(self, table: WarehouseTable, names: Sequence[str], job: str) -> Iterator[pa.RecordBatch]:
        if table.name in self._new:
            return
        schema = pa.schema([table.schema.field(name) for name in names])
        with self._failures(f"reading {table.name}"):
            yield from self._delta_rows(table, schema, job) if self._is_delta else self._sql_rows(table, schema, job)

    def _delta_rows(self, table: WarehouseTable, schema: pa.Schema, job: str) -> Iterator[pa.RecordBatch]:
        from batchvision.commands.load.delta import stored_rows

        return stored_rows(self._delta_table(table), schema, job)

    def _sql_rows(self, table: WarehouseTable, schema: pa.Schema, job: str) -> Iterator[pa.RecordBatch]:
        with self._pipeline.sql_client() as client:
            columns = ", ".join(map(client.escape_column_name, schema.names))
            place, owner = client.make_qualified_table_name(table.name), client.escape_column_name("job")
            query = f"SELECT {columns} FROM {place} WHERE {owner} = %s"
            with client.execute_query(query, job) as cursor, warnings.catch_warnings(action="ignore"):  # of drivers
                for rows in cursor.iter_arrow(_READ_ROWS):
                    yield from rows.rename_columns(schema.names).cast(schema).to_batches()

    def merge(self, table: WarehouseTable, batches: Iterator[pa.RecordBatch]) -> int:
        """Run the pipeline once. Without a batch it does not run."""
        if (first := next(batches, None)) is None:
            return 0
        rows = 0
        schema = pa.schema([field.with_type(_sent_type(field.type)) for field in table.schema])

        def sent() -> Iterator[pa.RecordBatch]:
            nonlocal rows
            for batch in chain([first], batches):
                rows += batch.num_rows
                yield pa.RecordBatch.from_arrays([_sent_column(each) for each in batch.columns], schema=schema)

        with handed_over(schema, sent()) as reader, self._failures(f"loading {table.name}"):
            resource = dlt.resource(
                (pa.Table.from_batches([batch]) for batch in reader),
                name=table.name,
                primary_key=table.key,
                write_disposition={"disposition": "merge", "strategy": self._strategy},
                table_format="delta" if self._is_delta else None,
            )
            self._pipeline.run(resource, loader_file_format=self._format).raise_on_failed_jobs()
        self._new.pop(table.name, None)
        return rows

    def delete(self, table: WarehouseTable, keys: pa.Table) -> None:
        with self._failures(f"deleting rows of {table.name}"):
            if self._is_delta:
                from batchvision.commands.load.delta import merger_by_key

                merger_by_key(self._delta_table(table), keys.column_names, keys).when_matched_delete().execute()
                return
            with self._pipeline.sql_client() as client:
                place = client.make_qualified_table_name(table.name)
                same = " AND ".join(f"{client.escape_column_name(name)} = %s" for name in keys.column_names)
                for batch in keys.to_batches(_DELETE_ROWS):
                    values = [value for row in batch.to_pylist() for value in row.values()]
                    either = " OR ".join([f"({same})"] * batch.num_rows)
                    client.execute_sql(f"DELETE FROM {place} WHERE {either}", *values)

    def _delta_table(self, table: WarehouseTable) -> Any:
        from dlt.common.libs.deltalake import get_delta_tables

        return get_delta_tables(self._pipeline, table.name)[table.name]


def _sent_column(column: pa.Array) -> pa.Array:
    """Lists as JSON text, because some destinations take no list or JSON from Parquet."""
    if not types.is_list(column.type):
        return column
    texts = [None if cell is None else json.dumps(cell, ensure_ascii=False, default=str) for cell in column.to_pylist()]
    return pa.array(texts, pa.string())
