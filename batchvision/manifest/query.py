"""The rows of a query as a manifest. The query runs once, and its rows are kept in a private temporary file."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchvision.errors import JobInvalid
from batchvision.job import resolved
from batchvision.manifest.inputs import LocalInput
from batchvision.manifest.parquet import ParquetManifest, Piece

if TYPE_CHECKING:
    from batchvision.job import Job

_BATCH_ROWS = 20_000
_EXTRAS = {"duckdb": "duckdb", "postgresql": "postgres", "postgres": "postgres"}


class QueryManifest(ParquetManifest):
    """The rows of one query in a temporary Parquet file, which ends with this object."""

    def __init__(self, job: Job, needed: Mapping[str, str]) -> None:
        """Ask the database. Raises JobInvalid, without a password in its words."""
        folder = tempfile.mkdtemp(prefix="batchvision-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / "query.parquet"
        url = resolved("manifest.path", job.manifest.path, os.environ)
        with (
            _batches(url, job.manifest.query or "", job.base_dir, job.manifest_name) as (schema, batches),
            pq.ParquetWriter(path, _storable(schema)) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch.cast(writer.schema))
        super().__init__("manifest.query", [Piece(LocalInput(path), {})], needed)


def _storable(schema: pa.Schema) -> pa.Schema:
    """Columns without a type (null in each row) as text. An extension type as what it is stored as."""
    fields = []
    for field in schema:
        kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
        fields.append(pa.field(field.name, pa.string() if pa.types.is_null(kind) else kind))
    return pa.schema(fields)


@contextmanager
def _batches(url: str, query: str, folder: Path, name: str) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    scheme, _, rest = url.partition("://")
    try:
        if scheme == "duckdb":
            with _duckdb(folder / rest.removeprefix("/"), query, name) as reader:
                yield reader.schema, iter(reader)
        elif scheme in ("postgresql", "postgres"):
            with _postgres(url, query, name) as reader:
                yield reader.schema, iter(reader)
        else:
            raise JobInvalid(
                f"manifest.query: {name} is no database that can be asked; write duckdb:///file.db or "
                "postgresql://user@host/database"
            )
    except ModuleNotFoundError as missing:
        raise JobInvalid(
            f"manifest.query needs the package {missing.name}: pip install 'batchvision[{_EXTRAS[scheme]}]'"
        ) from missing


@contextmanager
def _duckdb(path: Path, query: str, name: str) -> Iterator[Any]:
    import duckdb

    if not path.exists():
        raise JobInvalid(f"manifest.path: there is no database {path}")
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            yield connection.sql(query).to_arrow_reader(_BATCH_ROWS)
    except duckdb.Error as fault:
        raise _failed(name, fault) from fault


@contextmanager
def _postgres(url: str, query: str, name: str) -> Iterator[Any]:
    from adbc_driver_manager import Error
    from adbc_driver_postgresql import dbapi  # type: ignore[import-untyped]  # it ships no types

    try:
        with closing(dbapi.connect(url)) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(query)
            yield cursor.fetch_record_batch()
    except Error as fault:
        raise _failed(name, fault) from None  # the driver's own error may repeat the URL


def _failed(name: str, fault: Exception) -> JobInvalid:
    said = next((line.strip() for line in str(fault).splitlines() if line.strip()), type(fault).__name__)
    return JobInvalid(f"manifest.query on {name} failed: {said[:400]}")
