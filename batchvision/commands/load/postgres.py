"""PostgreSQL through ADBC: rows are copied into a temporary table, then inserted with ON CONFLICT.

libpq reads the password from the URL of ``env:NAME``, from PGPASSWORD or from ~/.pgpass.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # it ships no types
from pyarrow import types

from batchvision.commands.ddl import DIALECTS
from batchvision.commands.load.arrow_streams import Failures, handed_over
from batchvision.commands.load.destination import LoadTransaction, WarehouseTable
from batchvision.errors import LoadFailed
from batchvision.secrets import Secret, Secrets

_CONNECT_SECONDS = 30
#: A load waits so long for another one, and for programs that hold a lock on its tables.
_LOCK_TIMEOUT = "10min"
_STAGE = "batchvision_stage"
COMMITTING = "committing"
_SQL = DIALECTS["postgres"]
#: The size of a batch that is read. By default batches have 16 MiB.
_READ_OPTIONS = {"adbc.postgresql.batch_size_hint_bytes": "1000000"}

#: By SQLSTATE, or its class of two characters.
_NEXT_STEPS = {
    "42501": "ask for the right (GRANT CREATE ON SCHEMA, or SELECT, INSERT, UPDATE and DELETE on the table)",
    "42P10": "the table has lost its primary key: drop it and load again, so that it is made anew",
    "55P03": "another load or program holds the table: load again later",
    "25006": "load into the primary server, with a role that may write",
    "53": "make room on the server, then load again",
    "40": "load again",
    "08": "load again when the server is reachable",
    "57": "load again when the server is at work",
}
_UNREACHABLE = "check host, port, database and role, and that the server runs, then load again"


class PostgresDatabase:
    """A database, named by a libpq URL."""

    def __init__(self, url: str, db_schema: str | None = None) -> None:
        self._url = _with_timeout(url)
        self._secrets = Secrets(*_passwords(url))
        self.name = _without_password(url)
        self._db_schema = db_schema

    @contextmanager
    def transaction(self) -> Iterator[LoadTransaction]:
        with self._failures("connecting"):
            connection = dbapi.connect(self._url)  # begins a transaction with the first statement
        try:
            transaction = PostgresTransaction(connection, self._failures)
            transaction.begin(self._db_schema)
            yield transaction
            with self._failures(COMMITTING):
                connection.commit()
        finally:
            connection.close()  # rolls back unless committed

    @contextmanager
    def _failures(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (dbapi.Error, pa.ArrowException, OSError) as fault:  # rows that are read raise those of Arrow
            reason = self._secrets.mask(_reason(str(fault)))
            what = f"{self.name}: {doing} failed: {reason}"
            sqlstate = getattr(fault, "sqlstate", None)
            if doing != COMMITTING:  # a connection that is lost then leaves open whether the load counts
                what += ". Nothing was loaded"
            raise LoadFailed(what, next_step=_next_step(sqlstate)) from None  # the text of the fault may hold cells


def _next_step(sqlstate: str | None) -> str:
    if sqlstate is None:
        return _UNREACHABLE
    return _NEXT_STEPS.get(sqlstate) or _NEXT_STEPS.get(sqlstate[:2]) or "mend that, then load again"


def _reason(text: str) -> str:
    """The server's own words, or libpq's, on one line."""
    found = re.search(r"(?:ERROR|FATAL|PANIC): +([^\n]+)", text)
    return found[1] if found else text.strip().partition("\n")[0].removeprefix("IO: [libpq] ")


def _passwords(url: str) -> list[Secret]:
    parts = urlsplit(url)
    named = [value for name, value in parse_qsl(parts.query) if name in ("password", "sslpassword")]
    return [Secret(each) for each in (parts.password, *named) if each]


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{parts.username}@{place}" if parts.username else place, query=""))


def _with_timeout(url: str) -> str:
    """libpq would wait for minutes for a host that does not answer."""
    if "connect_timeout" in url or "PGCONNECT_TIMEOUT" in os.environ:
        return url
    return f"{url}{'&' if urlsplit(url).query else '?'}connect_timeout={_CONNECT_SECONDS}"


class PostgresTransaction:
    """One transaction on one connection."""

    def __init__(self, connection: dbapi.Connection, failures: Failures) -> None:
        self._connection = connection
        self._failures = failures
        self._db_schema = ""

    def begin(self, db_schema: str | None) -> None:
        """Find or make the schema, and wait for other loads into it."""
        with self._failures(f"beginning a load into the schema {db_schema or ''}".rstrip()):
            self._run(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            self._db_schema = db_schema or self._rows("SELECT current_schema()")[0][0]
            schema = _SQL.text(self._db_schema)
            self._run(f"SELECT pg_advisory_xact_lock(hashtextextended('batchvision ' || {schema}, 0))")
            if not self._rows(f"SELECT 1 FROM pg_namespace WHERE nspname = {schema}"):
                self._run(f"CREATE SCHEMA {_SQL.name(self._db_schema)}")

    # ---------------------------------------------------------------------------- tables

    def columns(self, table: WarehouseTable) -> Mapping[str, str]:
        query = (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
            "JOIN pg_class ON pg_class.oid = attrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace "
            f"WHERE nspname = {_SQL.text(self._db_schema)} AND relname = {_SQL.text(table.name)} "
            "AND attnum > 0 AND NOT attisdropped"
        )
        with self._failures(f"reading the columns of {table.name}"):
            return dict(self._rows(query))

    def type_name(self, arrow: pa.DataType) -> str:
        """As ``format_type`` spells it."""
        spelled = re.sub("^timestamp(?!tz)", "timestamp without time zone", _SQL.column_type(arrow).replace(", ", ","))
        return spelled.replace("timestamptz", "timestamp with time zone")

    def create(self, table: WarehouseTable) -> None:
        columns = [f"{_SQL.name(each.name)} {_SQL.column_type(each.type)}" for each in table.schema]
        columns.append(f"PRIMARY KEY ({_names(table.key)})")
        with self._failures(f"creating {table.name}"):
            self._run(f"CREATE TABLE {self._path(table)} ({', '.join(columns)})")

    def add_columns(self, table: WarehouseTable, fields: Sequence[pa.Field]) -> None:
        with self._failures(f"adding columns to {table.name}"):
            for each in fields:
                column = f"{_SQL.name(each.name)} {_SQL.column_type(each.type)}"
                self._run(f"ALTER TABLE {self._path(table)} ADD COLUMN {column}")

    # ---------------------------------------------------------------------------- rows

    def read(self, table: WarehouseTable, names: Sequence[str], job: str) -> Iterator[pa.RecordBatch]:
        # ADBC streams a query only without parameters
        query = f"SELECT {_names(names)} FROM {self._path(table)} WHERE job = {_SQL.text(job)}"
        with self._failures(f"reading {table.name}"), self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**_READ_OPTIONS)
            cursor.execute(query)
            yield from cursor.fetch_record_batch()

    def merge(self, table: WarehouseTable, batches: Iterator[pa.RecordBatch]) -> int:
        path, names = self._path(table), _names(table.schema.names)
        updates = ", ".join(f"{name} = EXCLUDED.{name}" for name in map(_SQL.name, table.schema.names))
        rows = map(without_nul, batches)
        with handed_over(table.schema, rows) as reader, self._failures(f"loading {table.name}"):
            if not self._rows(f"SELECT 1 FROM {path} LIMIT 1"):
                return self._copy(reader, table.name, db_schema_name=self._db_schema, mode="append")
            copied = self._copy(reader, _STAGE, temporary=True, mode="create")
            self._run(
                f"INSERT INTO {path} ({names}) SELECT {names} FROM pg_temp.{_STAGE} "
                f"ON CONFLICT ({_names(table.key)}) DO UPDATE SET {updates}"
            )
            self._run(f"DROP TABLE pg_temp.{_STAGE}")
            return copied

    def delete(self, table: WarehouseTable, keys: pa.Table) -> None:
        same = " AND ".join(f"stored.{name} = stage.{name}" for name in map(_SQL.name, keys.column_names))
        with self._failures(f"deleting rows of {table.name}"):
            self._copy(keys, _STAGE, temporary=True, mode="create")
            self._run(f"DELETE FROM {self._path(table)} AS stored USING pg_temp.{_STAGE} AS stage WHERE {same}")
            self._run(f"DROP TABLE pg_temp.{_STAGE}")

    # ---------------------------------------------------------------------------- statements

    def _run(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(query)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows

    def _copy(self, rows: pa.RecordBatchReader | pa.Table, table: str, **options: Any) -> int:
        with self._connection.cursor() as cursor:
            return int(cursor.adbc_ingest(table, rows, **options))

    def _path(self, table: WarehouseTable) -> str:
        return _SQL.name(self._db_schema, table.name)


def _names(names: Sequence[str]) -> str:
    return ", ".join(map(_SQL.name, names))


# ---------------------------------------------------------------------------------- NUL characters


def without_nul(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with U+FFFD in place of each NUL character, which PostgreSQL refuses in a text."""
    return pa.RecordBatch.from_arrays([_without_nul(column) for column in batch.columns], schema=batch.schema)


def _without_nul(column: pa.Array) -> pa.Array:
    is_list = types.is_list(column.type)
    texts = column.flatten() if is_list else column
    if not types.is_string(texts.type) or not pc.any(pc.match_substring(texts, "\0")).as_py():
        return column
    if is_list:
        cells = ([text and text.replace("\0", "\ufffd") for text in cell or ()] for cell in column.to_pylist())
        return pa.array(cells, column.type, mask=column.is_null().to_numpy(zero_copy_only=False))
    return pc.replace_substring(column, "\0", "\ufffd")
