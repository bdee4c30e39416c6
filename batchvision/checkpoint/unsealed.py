"""Rows of one table that wait for the next seal: the newest as records, the others as Arrow already.

Rule: the same rows in the same order make the same table. As Arrow a row takes a third of what its objects take, and a
seal, which holds back the journal, has little left to do but to write.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import pyarrow as pa

#: So many at once become Arrow: a few milliseconds of the loop's time.
AT_ONCE = 256

R = TypeVar("R")


class Unsealed(Generic[R]):
    """``table_of`` None: of books that are only looked at, nothing of which is sealed."""

    def __init__(self, table_of: Callable[[Sequence[R]], pa.Table] | None = None) -> None:
        self.newest: list[R] = []
        self.tables: list[pa.Table] = []
        self._table_of = table_of
        self._converted = 0

    def __len__(self) -> int:
        return self._converted + len(self.newest)

    def append(self, row: R) -> None:
        self.newest.append(row)
        if len(self.newest) >= AT_ONCE:
            self._convert()

    def _convert(self) -> None:
        if self._table_of is not None:
            self.tables.append(self._table_of(self.newest))
            self._converted += len(self.newest)
            self.newest = []

    def table(self) -> pa.Table:
        """All of them, in the order in which they came."""
        self._convert()
        return pa.concat_tables(self.tables)

    def cut(self) -> Unsealed[R]:
        """Hand over all there is, and begin anew."""
        cut: Unsealed[R] = Unsealed(self._table_of)
        cut.newest, cut.tables, cut._converted = self.newest, self.tables, self._converted
        self.newest, self.tables, self._converted = [], [], 0
        return cut
