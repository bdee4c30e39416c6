"""The runs of ``scripts/bench load``, each in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import duckdb
import pyarrow.dataset as ds
from adbc_driver_postgresql import dbapi
from wide_output import wide_output

from batchvision.commands.load import LoadPlace, load, open_destination
from benches.loops import Spec

BULK_TABLES = ("results", "attempts")


def made_wide(spec: Spec) -> Mapping[str, Any]:
    if not _output(spec).exists():
        wide_output(_output(spec), spec["rows"])
    return {"rows": spec["rows"]}


def loaded(spec: Spec) -> Mapping[str, Any]:
    place = LoadPlace(_database(spec), Path(spec["folder"]))
    load(_output(spec), open_destination(place))
    return {"rows": spec["rows"]}


def bulk_duckdb(spec: Spec) -> Mapping[str, Any]:
    with duckdb.connect(_database(spec).removeprefix("duckdb:///")) as connection:
        for name in BULK_TABLES:
            files = f"{_output(spec)}/{name}/**/*.parquet"
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{files}')").fetchall()
    return {"rows": spec["rows"]}


def bulk_postgres(spec: Spec) -> Mapping[str, Any]:
    with dbapi.connect(_database(spec)) as connection:
        for name in BULK_TABLES:
            files = ds.dataset(_output(spec) / name, format="parquet").scanner().to_reader()
            with connection.cursor() as cursor:
                cursor.adbc_ingest(name, files, mode="create")
        connection.commit()
    return {"rows": spec["rows"]}


def _output(spec: Spec) -> Path:
    return Path(spec["folder"]) / f"wide-{spec['rows']}"


def _database(spec: Spec) -> str:
    """The URL of a database named by the contender and the round. PostgreSQL's is made."""
    url = str(spec["to"]).format(spec["output"])
    if url.startswith("postgresql"):
        name = urlsplit(url).path.removeprefix("/")
        server = dbapi.connect(str(spec["to"]).format("postgres"), autocommit=True)
        with server, server.cursor() as cursor:
            cursor.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'")
            if not cursor.fetchall():
                cursor.execute(f'CREATE DATABASE "{name}"')
    return url
