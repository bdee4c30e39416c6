"""Find the destination of a URL. Its driver is imported only here, when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

from batchvision.commands.load.destination import Destination
from batchvision.errors import JobInvalid
from batchvision.secrets import has_password

FROM_ENVIRONMENT = "env:"
SPELLINGS = (
    "duckdb:///relative.db, duckdb:////absolute.db, postgresql://user@host:port/db, delta:PATH, "
    "bigquery://PROJECT/DATASET, snowflake://USER@ACCOUNT/DATABASE/SCHEMA, dlt:NAME"
)


class LoadPlace(NamedTuple):
    """A destination as the user wrote it, under ``key``. Relative paths start at ``folder``."""

    to: str
    folder: Path
    db_schema: str | None = None
    key: str = "--to"


def open_destination(place: LoadPlace, environ: Mapping[str, str] = os.environ) -> Destination:
    """The destination of a URL or ``env:NAME``. Connects to nothing.

    Raises JobInvalid for an unknown URL, an unset variable or a missing extra. No message holds a password.
    """
    url = _revealed(place, environ)
    scheme = url.partition(":")[0]
    opener = _OPENERS.get(scheme)
    if opener is None:
        raise JobInvalid(f"{place.key} does not name a destination that can be loaded: the choices are {SPELLINGS}")
    try:
        return opener(url, place)
    except ImportError as missing:
        extra = _EXTRAS[scheme]
        raise JobInvalid(
            f"{scheme}: needs the package {missing.name}: install it with `pip install 'batchvision[{extra}]'`"
        ) from missing


def _revealed(place: LoadPlace, environ: Mapping[str, str]) -> str:
    to = place.to
    if not to.startswith(FROM_ENVIRONMENT):
        if has_password(to):
            raise JobInvalid(
                f"{place.key} holds a password, which the list of processes shows to every user of this machine: set "
                "the URL in an environment variable and write its name, as in env:WAREHOUSE_URL. Or use PGPASSWORD or "
                "~/.pgpass"
            )
        return to
    name = to.removeprefix(FROM_ENVIRONMENT)
    if not (url := environ.get(name, "").strip()):
        raise JobInvalid(f"{place.key}: the environment variable {name} is not set: export {name}=URL")
    return url


def _duckdb(url: str, place: LoadPlace) -> Destination:
    from batchvision.commands.load.duckdb import DuckDBFile

    host, slash, path = url.removeprefix("duckdb://").partition("/")
    if host or not slash or not path:
        raise JobInvalid(f"{place.key}: write duckdb:///relative.db or, with one more slash, duckdb:////absolute.db")
    return DuckDBFile(place.folder / path, place.db_schema)


def _delta(url: str, place: LoadPlace) -> Destination:
    from batchvision.commands.load.delta import DeltaFolder

    location = url.removeprefix("delta:")
    if not location.strip("/"):
        raise JobInvalid(f"{place.key}: write delta:FOLDER or delta:s3://BUCKET/PREFIX")
    return DeltaFolder(location if "://" in location else str(place.folder / location), place.db_schema)


def _postgres(url: str, place: LoadPlace) -> Destination:
    from batchvision.commands.load.postgres import PostgresDatabase

    try:
        has_one_host = "://" in url and urlsplit(url).netloc.count("@") <= 1
    except ValueError:
        has_one_host = False
    if not has_one_host:
        raise JobInvalid(
            f"{place.key}: write postgresql://user@host:port/database, with %40 for an @ in the user or password"
        )
    return PostgresDatabase(url, place.db_schema)


def _through_dlt(name: str, kind: str, dataset: str, **settings: object) -> Destination:
    # dlt reads these once, when it is imported. Its telemetry stays off for users that have not turned it on here.
    os.environ.setdefault("RUNTIME__DLTHUB_TELEMETRY", "false")
    os.environ.setdefault("RUNTIME__LOG_LEVEL", "ERROR")
    from batchvision.commands.load.dlt import DltDestination

    return DltDestination(name, kind, dataset, **settings)


def _dlt(url: str, place: LoadPlace) -> Destination:
    kind = url.removeprefix("dlt:")
    if not kind.isidentifier():
        raise JobInvalid(f"{place.key}: write dlt:NAME with the name of a destination of dlt, as in dlt:databricks")
    return _through_dlt(url, kind, place.db_schema or "batchvision")


def _bigquery(url: str, place: LoadPlace) -> Destination:
    parts = urlsplit(url)
    dataset = parts.path.strip("/")
    if not parts.netloc or not dataset or "/" in dataset:
        raise JobInvalid(f"{place.key}: write bigquery://PROJECT/DATASET")
    return _through_dlt(url, "bigquery", dataset, project_id=parts.netloc)


def _snowflake(url: str, place: LoadPlace) -> Destination:
    parts = urlsplit(url)
    database, _, dataset = parts.path.strip("/").partition("/")
    if not parts.hostname or not dataset or "/" in dataset or parts.password is not None:
        raise JobInvalid(
            f"{place.key}: write snowflake://USER@ACCOUNT/DATABASE/SCHEMA?warehouse=WAREHOUSE&role=ROLE, with the "
            "password in the environment variable DESTINATION__SNOWFLAKE__CREDENTIALS__PASSWORD"
        )
    credentials = {
        "username": parts.username,
        "host": parts.hostname,
        "database": database,
        **dict(parse_qsl(parts.query)),
    }
    return _through_dlt(url, "snowflake", dataset, credentials=credentials)


_OPENERS: dict[str, Callable[[str, LoadPlace], Destination]] = {
    "duckdb": _duckdb,
    "postgresql": _postgres,
    "postgres": _postgres,
    "delta": _delta,
    "dlt": _dlt,
    "bigquery": _bigquery,
    "snowflake": _snowflake,
}
_EXTRAS = {
    **{"duckdb": "duckdb", "postgresql": "postgres", "postgres": "postgres", "delta": "delta"},
    **{"dlt": "dlt", "bigquery": "dlt", "snowflake": "dlt"},
}
