"""The tables of an output as Arrow streams, a batch at a time: for programs, for ``show`` and for the snapshot."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchvision.checkpoint import (
    IN_MANIFEST,
    Columns,
    OutputView,
    attempts_schema,
    failures_schema,
    fitted,
    read_registry,
    results_schema,
)
from batchvision.commands.places import output_at
from batchvision.commands.run_table import RUNS, run_batches
from batchvision.commands.status import open_output
from batchvision.errors import JobInvalid

TABLES = ("results", "failures", "attempts", "runs")


def read(
    output: str | os.PathLike[str], table: str = "results", *, columns: Sequence[str] | None = None
) -> OutputTable:
    """Return a table of the output at ``output``, a folder or URL, to be read a batch at a time.

    ``results``: the current answer of each row. Its last column ``in_manifest`` is false for rows that have left the
    manifest. ``failures``: the rows that are failed now. ``attempts``: every attempt with its cost. ``runs``: the
    summaries. A table without rows is an empty stream. Rows of a run at work are included as far as they are durable.

    Raises JobInvalid if there is no output, no such table or no such column.
    """
    if table not in TABLES:
        raise JobInvalid(f"there is no table {table!r}; there are: {', '.join(TABLES)}")
    view = open_output(output_at(output))
    schema = schema_of_table(view, table)
    if columns is not None:
        if unknown := [name for name in columns if name not in schema.names]:
            raise JobInvalid(f"there is no column {', '.join(unknown)}; there are: {', '.join(schema.names)}")
        schema = pa.schema([schema.field(name) for name in columns])
    return OutputTable(view.output, table, schema)


class OutputTable:
    """A table of an output. Each consumer reads it anew.

    pyarrow, pandas, polars and DuckDB take it as it is, by the Arrow PyCapsule interface.
    """

    def __init__(self, output: Path, table: str, schema: pa.Schema) -> None:
        self.schema = schema
        self._output = output
        self._table = table

    def __repr__(self) -> str:
        return f"<OutputTable {self._table} of {self._output}>"

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The rows. Raises CheckpointDamaged."""
        for batch in self._batches():
            yield fitted(batch, self.schema)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return pa.RecordBatchReader.from_batches(self.schema, iter(self)).__arrow_c_stream__(requested_schema)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        view = OutputView(self._output)
        names = [name for name in self.schema.names if name != IN_MANIFEST] or ["row_id"]
        match self._table:
            case "runs":
                return run_batches(self._output)
            case "results":
                latest = view.latest()
                recipe_id = None if latest is None else latest.recipe_id
                return view.current_results(recipe_id, names, with_in_manifest=IN_MANIFEST in self.schema.names)
            case table:
                return view.rows(table, names)


def schema_of_table(view: OutputView, table: str) -> pa.Schema:
    """All columns of a table, by the registry of the output, or by its first part where there is no registry."""
    if table == "runs":
        return RUNS
    columns = read_registry(view.output)
    first = next(view.rows(table), None) if columns is None else None
    schemas = {"results": results_schema, "failures": failures_schema, "attempts": attempts_schema}
    schema = schemas[table](columns or Columns()) if first is None else first.schema
    return schema.append(pa.field(IN_MANIFEST, pa.bool_())) if table == "results" else schema
