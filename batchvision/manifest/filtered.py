"""``manifest.where``: the rows of a manifest for which an SQL expression is true.

DuckDB evaluates the expression. It is bound to one batch, without access to files, network, tables or Python objects,
so it can only compute. The filter is no part of recipe or keys: a row that it drops has left the manifest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyarrow import types

from batchvision.errors import JobInvalid
from batchvision.manifest.inputs import Manifest, ManifestInput

if TYPE_CHECKING:
    import duckdb

_PLACE = "place of the row"  #: a column beside those of the manifest
_CONFIG = {"enable_external_access": "false", "python_enable_replacements": "false", "threads": "1"}
_LOCK = {"lock_configuration": "true"}
_MOST_NAMES = 40


class FilteredManifest:
    """The rows of ``manifest`` for which ``where`` is true. Null counts as false."""

    def __init__(self, manifest: Manifest, where: str) -> None:
        """Raises JobInvalid where DuckDB is not installed."""
        try:
            import duckdb  # noqa: F401 -- an extra
        except ImportError as missing:
            raise JobInvalid("manifest.where needs the extra duckdb: pip install 'batchvision[duckdb]'") from missing
        self._manifest = manifest
        self._where = where
        #: Each column that the text may name. One too many is only read in vain.
        text = where.lower().replace('""', '"')
        self._read = [name for name in manifest.columns if name.lower() in text]

    @property
    def columns(self) -> tuple[str, ...]:
        return self._manifest.columns

    @property
    def inputs(self) -> tuple[ManifestInput, ...]:
        return self._manifest.inputs

    @property
    def byte_columns(self) -> frozenset[str]:
        return self._manifest.byte_columns

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Raises JobInvalid also where the expression cannot be evaluated."""
        import duckdb

        is_checked = False
        with duckdb.connect(":memory:", config={**_CONFIG, **_LOCK}) as connection:
            for batch in self._manifest.batches(list(dict.fromkeys((*columns, *self._read)))):
                if not is_checked:
                    self._reject_rounded_texts(connection, batch.select(self._read))
                    is_checked = True
                places = self._places(connection, batch.select(self._read))
                if len(places) == batch.num_rows:
                    yield batch.select(list(columns))
                elif len(places):
                    yield batch.select(list(columns)).take(pa.array(places))

    def _places(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch) -> np.ndarray:
        import duckdb

        numbered = batch.append_column(_PLACE, pa.array(np.arange(batch.num_rows)))
        try:
            rows = connection.from_arrow(pa.Table.from_batches([numbered])).filter(self._where)
            return np.sort(rows.project(f'"{_PLACE}"').fetchnumpy()[_PLACE])
        except duckdb.Error as fault:
            raise self._refused(fault, batch.schema) from fault

    def _reject_rounded_texts(self, connection: duckdb.DuckDBPyConnection, batch: pa.RecordBatch) -> None:
        """Raise JobInvalid where DuckDB would turn texts into numbers. For ``= 13`` it rounds "12.5" to 13."""
        texts = [field.name for field in batch.schema if types.is_string(field.type)]
        if not texts or "cast" in self._where.lower() or "::" in self._where:
            return
        import duckdb

        try:
            connection.from_arrow(pa.Table.from_batches([batch.slice(0, 0)])).filter(self._where).to_view("filtered")
            plan = str(connection.execute("EXPLAIN (FORMAT JSON) FROM filtered").fetchall())
        except duckdb.Error as fault:
            raise self._refused(fault, batch.schema) from fault
        for name in texts:
            if f"CAST({name} AS " in plan:
                raise JobInvalid(
                    f"manifest.where = {self._where!r} compares {name}, which holds text, with a number, and would "
                    f"round it. Write TRY_CAST({name} AS DOUBLE), or put the value in quotes."
                )

    def _refused(self, fault: duckdb.Error, schema: pa.Schema) -> JobInvalid:
        import duckdb

        names = self._manifest.columns
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        reason = str(fault).strip().partition("\n")[0].partition(": ")[2]
        problem = f"manifest.where = {self._where!r}: {reason}. The columns are {', '.join(names[:_MOST_NAMES])}{more}."
        texts = [field.name for field in schema if types.is_string(field.type)]
        if texts and isinstance(fault, duckdb.BinderException | duckdb.ConversionException):
            problem += f" {', '.join(texts)} holds text: compare numbers by TRY_CAST({texts[0]} AS DOUBLE)."
        return JobInvalid(problem)
