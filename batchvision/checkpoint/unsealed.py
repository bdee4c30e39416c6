"""Rows of one table that wait for the next seal.

The newest rows are records, older ones Arrow, and the oldest Parquet where :meth:`Unsealed.encode` was called. An Arrow
row takes a third of the memory of its record, and Parquet still less. A seal, which holds the journal, has less to do.
The same rows in the same order make the same part, byte for byte, whenever they were encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import pyarrow as pa

from batchvision.checkpoint.parts import SEALED_GROUP_ROWS, Encoded

#: So many rows at once become Arrow, in a few milliseconds. Row groups are multiples of it.
AT_ONCE = 256
_GROUP_TABLES = SEALED_GROUP_ROWS // AT_ONCE

R = TypeVar("R")


class Unsealed(Generic[R]):
    """Without ``table_of`` rows stay records, and cannot be sealed."""

    def __init__(self, table_of: Callable[[Sequence[R]], pa.Table] | None = None) -> None:
        self.newest: list[R] = []
        self.tables: list[pa.Table] = []
        self._table_of = table_of
        self._converted = 0
        self._encoded = Encoded()

    def __len__(self) -> int:
        return self._converted + len(self.newest)

    def append(self, row: R) -> None:
        self.newest.append(row)
        if len(self.newest) >= AT_ONCE:
            self._convert()

    def _convert(self) -> None:
        if self._table_of is not None and self.newest:
            self.tables.append(self._table_of(self.newest))
            self._converted += len(self.newest)
            self.newest = []

    # ---------------------------------------------------------------------------- as Parquet

    @property
    def has_group(self) -> bool:
        return len(self.tables) >= _GROUP_TABLES

    def encode(self) -> None:
        """Move one row group from ``tables`` to Parquet. Blocking. The event loop may append meanwhile."""
        self._encoded.add(pa.concat_tables(self.tables[:_GROUP_TABLES]))
        del self.tables[:_GROUP_TABLES]

    def encoded(self) -> Encoded:
        """Every row as Parquet, in the order of its arrival."""
        self._convert()
        while self.tables:
            self.encode()
        return self._encoded

    def cut(self) -> Unsealed[R]:
        """Hand over every row, and begin empty."""
        cut: Unsealed[R] = Unsealed(self._table_of)
        cut.newest, cut.tables, cut._converted, cut._encoded = self.newest, self.tables, self._converted, self._encoded
        self.newest, self.tables, self._converted, self._encoded = [], [], 0, Encoded()
        return cut
