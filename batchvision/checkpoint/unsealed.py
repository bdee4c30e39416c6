"""Rows of one table that wait for the next seal: the newest as records, the others as Arrow already, and the oldest as
Parquet where :meth:`Unsealed.encode` was called.

Rule: the same rows in the same order make the same part, byte for byte, whenever they were encoded. As Arrow a row
takes a third of what its objects take, and as Parquet a fraction of that; a seal, which holds back the journal, has
the less left to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import pyarrow as pa

from batchvision.checkpoint.parts import SEALED_GROUP_ROWS, Encoded

#: So many at once become Arrow: a few milliseconds of the loop's time. Row groups are multiples of it.
AT_ONCE = 256
_GROUP_TABLES = SEALED_GROUP_ROWS // AT_ONCE

R = TypeVar("R")


class Unsealed(Generic[R]):
    """``table_of`` None: of books that are only looked at, nothing of which is sealed."""

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
        """A row group becomes Parquet, and is in ``tables`` no more. Blocking; others may append meanwhile."""
        self._encoded.add(pa.concat_tables(self.tables[:_GROUP_TABLES]))
        del self.tables[:_GROUP_TABLES]

    def encoded(self) -> Encoded:
        """All of them, in the order in which they came."""
        self._convert()
        while self.tables:
            self.encode()
        return self._encoded

    def cut(self) -> Unsealed[R]:
        """Hand over all there is, and begin anew."""
        cut: Unsealed[R] = Unsealed(self._table_of)
        cut.newest, cut.tables, cut._converted, cut._encoded = self.newest, self.tables, self._converted, self._encoded
        self.newest, self.tables, self._converted, self._encoded = [], [], 0, Encoded()
        return cut
