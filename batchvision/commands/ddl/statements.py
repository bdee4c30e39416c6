"""The statements for an output: create its tables, load the parts, merge the rows. Pure but for the registry.

Parts are loaded into tables named ``_parts``, which may hold a row several times. The merge keeps the newest answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from batchvision.checkpoint import (
    Columns,
    attempts_schema,
    failures_schema,
    read_registry,
    registered_job,
    results_schema,
)
from batchvision.commands.ddl.dialects import DIALECTS, WarehouseDialect
from batchvision.commands.status import open_output
from batchvision.errors import JobInvalid

#: Columns that name a row of each table.
KEYS: Mapping[str, tuple[str, ...]] = {
    "results": ("job", "row_id"),
    "failures": ("job", "row_id"),
    "attempts": ("job", "row_id", "request_key", "attempt", "run_id"),
}
#: Columns by which the newest of several rows is found.
_AGE: Mapping[str, tuple[str, ...]] = {"results": ("updated_at", "request_key"), "attempts": ("received_at",)}


class Statement(NamedTuple):
    """One SQL statement without its semicolon, and its purpose. A remark has no SQL."""

    purpose: str
    sql: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A dialect, and the names of tables in the warehouse."""

    dialect: str
    table_prefix: str = "batchvision_"
    db_schema: str = ""  #: may be DATABASE.SCHEMA
    location: str = ""  #: URL or folder of the output as the warehouse reads it

    @property
    def sql(self) -> WarehouseDialect:
        return DIALECTS[self.dialect]

    def table(self, table: str) -> str:
        return self.sql.name(*filter(None, self.db_schema.split(".")), self.table_prefix + table)


def output_statements(output: Path, target: Target) -> Iterator[Statement]:
    """The statements for the columns of an output. Raises JobInvalid if there is no output."""
    open_output(output)
    columns, job = read_registry(output), registered_job(output)
    if columns is None or job is None:
        raise JobInvalid(f"{output} has no table yet: batchvision run JOB makes one")
    return statements(job, columns, target, target.location or target.sql.location or str(output.resolve()))


def statements(job: str, columns: Columns, target: Target, location: str) -> Iterator[Statement]:
    """The statements for these columns; parts lie at ``location``."""
    sql = target.sql
    schemas = {
        "results": results_schema(columns),
        "failures": failures_schema(columns),
        "attempts": attempts_schema(columns),
    }
    if sql.remark:
        yield Statement(sql.remark)
    for table, schema in schemas.items():
        yield Statement(f"{table}: one row for each {', '.join(KEYS[table])}", _create(target, table, schema))
        yield Statement(f"{table} as the parts hold them", _create(target, f"{table}_parts", schema))
    yield Statement("the newest answer of each row, read from the parts", _latest_view(target, schemas["results"]))
    for table, schema in schemas.items():
        folder = f"{location.rstrip('/')}/{table}"
        for each in sql.bulk_load(target.table(f"{table}_parts"), folder, schema, replaces=table == "failures"):
            yield Statement(f"load the parts of {table}", each)
    for each in _merge_results(target, schemas["results"]):
        yield Statement("results: replace older answers, add new rows", each)
    yield Statement("failures: replace those of this job", _delete_failures(target, job))
    yield Statement("failures: the rows that are failed now", _insert(target, "failures", schemas["failures"]))
    yield Statement("attempts: add the new ones", _insert_attempts(target, schemas["attempts"]))


# ---------------------------------------------------------------------------------- create


def _create(target: Target, table: str, schema: pa.Schema) -> str:
    sql, keys = target.sql, KEYS.get(table, ())
    lines = []
    for field in schema:
        not_null = " NOT NULL" if field.name in keys else ""
        lines.append(f"  {sql.name(field.name)} {sql.column_type(field.type)}{not_null}")
    if keys and sql.enforces_keys:
        lines.append(f"  PRIMARY KEY ({_names(sql, keys)})")
    return f"CREATE TABLE IF NOT EXISTS {target.table(table)} (\n" + ",\n".join(lines) + "\n)"


def _latest_view(target: Target, schema: pa.Schema) -> str:
    return f"CREATE OR REPLACE VIEW {target.table('results_latest')} AS\n{_newest(target, 'results', schema)}"


def _newest(target: Target, table: str, schema: pa.Schema) -> str:
    """The newest row of each key among the parts."""
    sql = target.sql
    order = ", ".join(f"{sql.name(name)} DESC" for name in _AGE[table])
    rank, ranked = sql.name("newest_first"), sql.name("ranked")
    window = f"ROW_NUMBER() OVER (PARTITION BY {_names(sql, KEYS[table])} ORDER BY {order}) AS {rank}"
    inner = f"SELECT {_names(sql, schema.names)}, {window}\n  FROM {target.table(f'{table}_parts')}"
    return f"SELECT {_names(sql, schema.names)}\nFROM (\n  {inner}\n) AS {ranked}\nWHERE {rank} = 1"


# ---------------------------------------------------------------------------------- merge


def _merge_results(target: Target, schema: pa.Schema) -> Sequence[str]:
    sql = target.sql
    old, new, results = sql.name("old"), sql.name("new"), target.table("results")
    source, is_newer = (
        target.table("results_latest"),
        f"{new}.{sql.name('updated_at')} > {old}.{sql.name('updated_at')}",
    )
    if sql.has_conditional_merge:
        matched = f"WHEN MATCHED AND {is_newer} THEN"
        return [_merge(sql, schema, f"MERGE INTO {results} AS {old}\nUSING {source} AS {new}", old, matched)]
    stage = sql.name(f"{target.table_prefix}results_newer")
    is_same = _same_key(sql, KEYS["results"], old, new)
    newer = (
        f"CREATE TEMP TABLE {stage} AS\nSELECT {_names(sql, schema.names, new)}\nFROM {source} AS {new}\n"
        f"LEFT JOIN {results} AS {old} ON {is_same}\nWHERE {old}.{sql.name('row_id')} IS NULL OR {is_newer}"
    )
    merge = _merge(sql, schema, f"MERGE INTO {results}\nUSING {stage} AS {new}", results, "WHEN MATCHED THEN")
    return [f"DROP TABLE IF EXISTS {stage}", newer, merge]


def _merge(sql: WarehouseDialect, schema: pa.Schema, merge: str, old: str, matched: str) -> str:
    new = sql.name("new")
    changed = [name for name in schema.names if name not in KEYS["results"]]
    updates = ",\n  ".join(f"{sql.name(name)} = {new}.{sql.name(name)}" for name in changed)
    return (
        f"{merge}\nON {_same_key(sql, KEYS['results'], old, new)}\n{matched} UPDATE SET\n  {updates}\n"
        f"WHEN NOT MATCHED THEN INSERT ({_names(sql, schema.names)})\nVALUES ({_names(sql, schema.names, new)})"
    )


def _delete_failures(target: Target, job: str) -> str:
    return f"DELETE FROM {target.table('failures')} WHERE {target.sql.name('job')} = {target.sql.text(job)}"


def _insert(target: Target, table: str, schema: pa.Schema) -> str:
    names = _names(target.sql, schema.names)
    return f"INSERT INTO {target.table(table)} ({names})\nSELECT {names}\nFROM {target.table(f'{table}_parts')}"


def _insert_attempts(target: Target, schema: pa.Schema) -> str:
    sql = target.sql
    old, new = sql.name("old"), sql.name("new")
    is_same = _same_key(sql, KEYS["attempts"], old, new)
    return (
        f"INSERT INTO {target.table('attempts')} ({_names(sql, schema.names)})\n"
        f"SELECT {_names(sql, schema.names, new)}\nFROM (\n{_newest(target, 'attempts', schema)}\n) AS {new}\n"
        f"WHERE NOT EXISTS (SELECT 1 FROM {target.table('attempts')} AS {old} WHERE {is_same})"
    )


def _names(sql: WarehouseDialect, names: Sequence[str], table: str = "") -> str:
    return ", ".join(f"{table}.{sql.name(name)}" if table else sql.name(name) for name in names)


def _same_key(sql: WarehouseDialect, key: Sequence[str], old: str, new: str) -> str:
    return " AND ".join(f"{old}.{sql.name(name)} = {new}.{sql.name(name)}" for name in key)
