"""Load an output into a destination: the one algorithm for all destinations.

``results`` and ``failures`` become equal to the current rows. Rows that differ are merged, and rows that are no longer
current are deleted. So a return to an earlier recipe needs no rule of its own. ``attempts`` only grows: each part is
loaded once, by its sha256. Everything happens in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint import (
    IN_MANIFEST,
    Columns,
    KeySet,
    OutputView,
    UnsealedRows,
    attempts_schema,
    failures_schema,
    output_id,
    packed_ids,
    pairs,
    read_registry,
    registered_job,
    results_schema,
    source_batches,
)
from batchvision.commands.ddl import KEYS
from batchvision.commands.load.destination import Destination, LoadTransaction, WarehouseTable
from batchvision.commands.load.known_parts import (
    LOADS,
    LOADS_KEY,
    OUTPUT_ENTRY,
    NewPart,
    load_rows,
    new_part,
    output_row,
)
from batchvision.commands.run_table import RUNS, run_batches
from batchvision.commands.status import open_output
from batchvision.errors import JobInvalid, LoadFailed
from batchvision.job import DEFAULT_TABLE_PREFIX, LOADED_TABLES

#: The tables that a load can include, in the order of loading. ``loads`` is always written.
TABLES = LOADED_TABLES

#: PostgreSQL cuts names after 63 bytes without a word.
_PREFIX_BYTES = 50
_KEYS = {**KEYS, "runs": ("job", "run_id"), "loads": LOADS_KEY}
#: Columns in which two versions of one row differ.
_VERSIONS = {
    "results": ("request_key", "updated_at", IN_MANIFEST),
    "failures": ("request_key", "failed_at", "run_id", "runs_failed", "quarantined"),
    "runs": ("finished_at",),
}

#: Called with the name of a table and the number of its rows that were read so far.
LoadProgress = Callable[[str, int], None]


class TableLoad(NamedTuple):
    """Numbers of rows. ``merged``: inserted or replaced."""

    merged: int
    deleted: int
    unchanged: int


class Loaded(NamedTuple):
    """The result of one load."""

    destination: str
    tables: dict[str, TableLoad]

    def document(self) -> dict[str, object]:
        """JSON content for ``load --json``."""
        return {"destination": self.destination, "tables": {name: each._asdict() for name, each in self.tables.items()}}


def table_names(wanted: Sequence[str]) -> tuple[str, ...]:
    """Check the names of ``--include``. Raises JobInvalid."""
    names = [name.strip() for name in wanted if name.strip()]
    if unknown := [name for name in names if name not in TABLES]:
        raise JobInvalid(f"--include: there is no table {', '.join(unknown)}; there are: {', '.join(TABLES)}")
    if not names:
        raise JobInvalid(f"--include names no table; there are: {', '.join(TABLES)}")
    return tuple(name for name in TABLES if name in names)


def load(
    output: Path,
    destination: Destination,
    include: Sequence[str] = TABLES,
    table_prefix: str = DEFAULT_TABLE_PREFIX,
    progress: LoadProgress = lambda table, rows: None,
) -> Loaded:
    """Make the destination's rows of this output's job equal to the current rows.

    Raises LoadFailed, CheckpointDamaged, and JobInvalid where there is no output.
    """
    view = open_output(output)
    with destination.transaction() as transaction:
        loading = _Loading(view, _job_of(view), transaction, destination.name, progress)
        return Loaded(destination.name, loading.load(include, _tables(output, table_prefix)))


def _tables(output: Path, prefix: str) -> dict[str, WarehouseTable]:
    if len(prefix.encode()) > _PREFIX_BYTES:
        raise JobInvalid(f"the table prefix is longer than {_PREFIX_BYTES} bytes: choose a shorter one")
    columns = read_registry(output) or Columns()
    if IN_MANIFEST in dict(columns.keep):
        raise JobInvalid(
            f"{output} has a kept column {IN_MANIFEST}, and a load adds one of that name: "
            f'give it another name, keep = {{ new_name = "{IN_MANIFEST}" }}, and set output.path to another folder'
        )
    schemas = {
        "results": results_schema(columns).append(pa.field(IN_MANIFEST, pa.bool_())),
        "failures": failures_schema(columns),
        "attempts": attempts_schema(columns),
        "runs": RUNS,
        "loads": LOADS,
    }
    return {name: WarehouseTable(prefix + name, schema, _KEYS[name]) for name, schema in schemas.items()}


@dataclass(frozen=True, slots=True)
class _Loading:
    """One load in its transaction."""

    view: OutputView
    job: str
    transaction: LoadTransaction
    destination: str
    progress: LoadProgress

    def load(self, names: Sequence[str], tables: dict[str, WarehouseTable]) -> dict[str, TableLoad]:
        created = {name for name in ("loads", *names) if self._prepare(tables[name])}
        loaded = self._loaded_before(tables["loads"])
        self._claim(tables["loads"], loaded)
        known = frozenset(sha256 for _, sha256 in loaded)
        new_parts = {
            name: self._new_parts(name, frozenset() if name in created else known)  # a dropped table has no rows
            for name in ("results", "attempts")
            if name in names
        }
        done = {}
        for name in names:
            if name == "attempts":
                done[name] = self._append(tables[name], new_parts[name])
            else:
                done[name] = self._synchronise(name, tables[name])
        parts = [part for some in new_parts.values() for part in some]
        if parts:
            rows = load_rows(self.job, parts, datetime.now(UTC))
            self.transaction.merge(tables["loads"], iter([rows]))
        return done

    # ---------------------------------------------------------------------------- tables

    def _prepare(self, table: WarehouseTable) -> bool:
        """Create the table, or add the columns that it lacks. Whether it was created."""
        there = {name.lower(): type_name for name, type_name in self.transaction.columns(table).items()}
        if not there:
            self.transaction.create(table)
            return True
        if missing := [name for name in table.key if name not in there]:
            raise self._refused(table, f"has no column {', '.join(missing)}: it is no table of batchvision")
        for column in table.schema:
            wanted = self.transaction.type_name(column.type)
            if there.get(column.name, wanted) != wanted:
                is_now = f"the output has {wanted} now"
                raise self._refused(table, f"has the column {column.name} as {there[column.name]}, and {is_now}")
        if new := [column for column in table.schema if column.name not in there]:
            self.transaction.add_columns(table, new)
        return False

    def _refused(self, table: WarehouseTable, why: str) -> LoadFailed:
        return LoadFailed(
            f"{self.destination}: the table {table.name} {why}. Nothing was loaded",
            next_step="drop or rename that table and load again: it is made anew. Or choose another --table-prefix",
        )

    def _loaded_before(self, loads: WarehouseTable) -> list[tuple[str, str]]:
        """``table_name`` and ``sha256`` of the job's rows in ``loads``."""
        batches = self.transaction.read(loads, ("table_name", "sha256"), self.job)
        return [pair for batch in batches for pair in zip(*(column.to_pylist() for column in batch), strict=True)]

    def _claim(self, loads: WarehouseTable, loaded: Sequence[tuple[str, str]]) -> None:
        """Note that the job's rows come from this output, before the first of them.

        Raises LoadFailed where they come from another output: each load would delete the rows of the other.
        """
        own = output_id(self.view.output)
        owner = next((sha256 for name, sha256 in loaded if name == OUTPUT_ENTRY), None)
        if owner is None and own is not None:
            self.transaction.merge(loads, iter([output_row(self.job, own, datetime.now(UTC))]))
        elif owner != own:
            prefix = loads.name.removesuffix("loads")
            raise LoadFailed(
                f"{self.destination}: the rows of the job {self.job!r} in the tables {prefix}* come from another "
                f"output than {self.view.output}, and would be deleted. Nothing was loaded",
                next_step="give one of the two jobs another name, or load with another --table-prefix. If this output "
                f"replaces the other one, delete the rows of the job from each table {prefix}* and load again",
            )

    def _new_parts(self, name: str, known: frozenset[str]) -> list[NewPart]:
        paths = (source for source in self.view.sources(name) if isinstance(source, Path))
        parts = (new_part(self.view.output, path, known) for path in paths)
        return [part for part in parts if part is not None]

    # ---------------------------------------------------------------------------- rows

    def _append(self, table: WarehouseTable, new_parts: Sequence[NewPart]) -> TableLoad:
        """Merge the attempts of new parts, and those that are in no part yet."""
        batches = [part.batches for part in new_parts]
        batches += [source_batches(each) for each in self.view.sources("attempts") if isinstance(each, UnsealedRows)]
        merged = self.transaction.merge(table, self._fitted(table, chain.from_iterable(batches)))
        return TableLoad(merged, 0, max(0, self.view.count("attempts") - merged))

    def _synchronise(self, name: str, table: WarehouseTable) -> TableLoad:
        """Make the table's rows of the job equal to the current rows. Runs are never deleted."""
        key, version = table.key[-1], _VERSIONS[name]
        stored, current, stored_rows, unchanged = KeySet(), KeySet(), 0, 0
        for batch in self.transaction.read(table, (key, *version), self.job):
            stored.add_packed(_versions(batch, key, version))
            stored_rows += batch.num_rows

        def changed() -> Iterator[pa.RecordBatch]:
            nonlocal unchanged
            for batch in self._fitted(table, self._current_rows(name)):
                current.add_packed(packed_ids(batch[key]))
                is_new = ~stored.contains_packed(_versions(batch, key, version))
                unchanged += batch.num_rows - int(is_new.sum())
                yield from _chosen(batch, is_new)

        merged = self.transaction.merge(table, changed())
        if unchanged == stored_rows or name == "runs":
            return TableLoad(merged, 0, unchanged)
        return TableLoad(merged, self._delete_others(table, current), unchanged)

    def _delete_others(self, table: WarehouseTable, current: KeySet) -> int:
        """Delete the rows of the job that are not current."""
        key = table.key[-1]
        others = []
        for batch in self.transaction.read(table, (key,), self.job):
            others += batch[key].filter(pa.array(~current.contains_packed(packed_ids(batch[key])))).to_pylist()
        if others:
            keys = pa.table({"job": pa.repeat(self.job, len(others)), key: pa.array(others, pa.string())})
            self.transaction.delete(table, keys)
        return len(others)

    def _current_rows(self, name: str) -> Iterator[pa.RecordBatch]:
        match name:
            case "results":
                latest = self.view.latest()
                recipe_id = None if latest is None else latest.recipe_id
                return self.view.current_results(recipe_id, with_in_manifest=True)
            case "failures":
                return self.view.rows(name)
            case _:
                return run_batches(self.view.output)

    def _fitted(self, table: WarehouseTable, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches with the columns of the table, in its order and types."""
        rows = 0
        for batch in batches:
            yield pa.RecordBatch.from_arrays([self._column(batch, each) for each in table.schema], schema=table.schema)
            rows += batch.num_rows
            self.progress(table.name, rows)

    def _column(self, batch: pa.RecordBatch, wanted: pa.Field) -> pa.Array:
        """A column, or nulls for one that the batch lacks. All rows are of one job."""
        if wanted.name == "job":
            return pa.repeat(pa.scalar(self.job, pa.string()), batch.num_rows)
        if wanted.name not in batch.schema.names:
            return pa.nulls(batch.num_rows, wanted.type)
        return batch[wanted.name].cast(wanted.type)


def _job_of(view: OutputView) -> str:
    """The name of the output's job. A copy of the tables alone has it in its rows."""
    if (registered := registered_job(view.output)) is not None:
        return registered
    rows = chain(view.rows("results", ("job",)), view.rows("attempts", ("job",)), view.rows("failures", ("job",)))
    return next((str(batch["job"][0]) for batch in rows if batch.num_rows), "")


def _versions(batch: pa.RecordBatch, key: str, version: Sequence[str]) -> bytes:
    """A hash of each row's key and version."""
    texts = [_text_of(batch[name]) for name in version]
    joined = pc.binary_join_element_wise(*texts, " ", null_handling="replace")
    return pairs(packed_ids(batch[key]), packed_ids(joined))


def _text_of(column: pa.Array) -> pa.Array:
    """Equal times have equal texts in all time zones."""
    is_time = pa.types.is_timestamp(column.type)
    return (column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()) if is_time else column).cast(pa.string())


def _chosen(batch: pa.RecordBatch, is_chosen: NDArray[np.bool_]) -> Iterator[pa.RecordBatch]:
    if is_chosen.all():
        yield batch
    elif is_chosen.any():
        yield batch.filter(pa.array(is_chosen))
