"""The interface of a destination, and the tables that a load writes there.

``loading.py`` chooses the rows. A destination brings its SQL, its types and its errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class WarehouseTable:
    """A table of the destination. ``key``: the columns that name a row. The first is always ``job``.

    Column types are those of the output: scalars, ``list<...>``, ``decimal128`` and ``timestamp[us, UTC]``.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]


class LoadTransaction(Protocol):
    """The statements of one load, which commit together.

    A destination without transactions keeps the order of the calls, so that the next load completes a load that was cut
    off.
    Each method raises LoadFailed, with the name of the table and the next step.
    """

    def columns(self, table: WarehouseTable) -> Mapping[str, str]:
        """The columns that the table has and their types, in the spelling of :meth:`type_name`. No table: empty."""

    def type_name(self, arrow: pa.DataType) -> str:
        """The destination's type for an Arrow type."""

    def create(self, table: WarehouseTable) -> None:
        """Create the table without rows."""

    def add_columns(self, table: WarehouseTable, fields: Sequence[pa.Field]) -> None:
        """Add columns. Rows that are there have null in them."""

    def read(self, table: WarehouseTable, names: Sequence[str], job: str) -> Iterator[pa.RecordBatch]:
        """The named columns of all rows of a job. The caller reads to the end before the next call."""

    def merge(self, table: WarehouseTable, batches: Iterator[pa.RecordBatch]) -> int:
        """Insert rows, and replace rows of equal key. Returns the number of rows.

        All rows are of one job, and no two of them have the same key. Each batch has all columns of the table's schema.
        """

    def delete(self, table: WarehouseTable, keys: pa.Table) -> None:
        """Remove rows by their keys. ``keys`` has the key columns."""


class Destination(Protocol):
    """A place to load into. ``name``: its URL without a password, for messages."""

    name: str

    def transaction(self) -> AbstractContextManager[LoadTransaction]:
        """Connect and begin. The end commits; an exception rolls back. Raises LoadFailed.

        Two loads into the same tables run one after the other, or the second raises LoadFailed.
        """
