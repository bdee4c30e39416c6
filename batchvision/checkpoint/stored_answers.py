"""The answered requests of one recipe by row: to compare today's row with them.

The rule: read only when a row that was paid for looks new, because its image is missing or its URL changed. An answer
takes about 200 bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint.parts import batches_of, part_paths, rows_with
from batchvision.checkpoint.row_keys import packed_ids
from batchvision.checkpoint.schema import Columns, completed_of
from batchvision.records import Completed, Purpose

_COLUMNS = ("row_id", "recipe_id", "request_key", "image_ref", "image_sha256")
_KEPT = ("row_id", "request_key", "image_ref", "image_sha256")


class StoredRequest(NamedTuple):
    """A request that was sent for a row. ``image_sha256`` is null for URLs handed over."""

    request_key: str
    image_ref: tuple[str, ...]
    image_sha256: tuple[str | None, ...]


class StoredAnswers:
    """Made by :meth:`read`."""

    def __init__(self, table: pa.Table) -> None:
        ids: NDArray[np.uint64] = np.frombuffer(_hashes(table["row_id"]), np.uint64)[::2]
        order = np.argsort(ids, kind="stable")
        self._ids = ids[order]
        self._places = order
        self._table = table

    @classmethod
    def read(cls, output: Path, recipe_id: str) -> StoredAnswers:
        """From the parts of all shards. Raises CheckpointDamaged."""
        current = pa.scalar(recipe_id, pa.string())
        batches = [
            batch.filter(pc.equal(batch["recipe_id"], current)).select(list(_KEPT))
            for path in part_paths(output, "results")
            for batch in batches_of(path, _COLUMNS)
        ]
        return cls(pa.Table.from_batches(batches) if batches else _EMPTY)

    @classmethod
    def none(cls) -> StoredAnswers:
        """Of an output without answers."""
        return cls(_EMPTY)

    def of(self, row_id: str) -> list[StoredRequest]:
        """The row's answered requests under this recipe, the one stored last first."""
        (asked,) = np.frombuffer(packed_ids(pa.array([row_id])), np.uint64)[:1]
        start, end = np.searchsorted(self._ids, asked), np.searchsorted(self._ids, asked, side="right")
        found = [self._table.slice(place, 1).to_pylist()[0] for place in self._places[start:end].tolist()]
        return [
            StoredRequest(row["request_key"], tuple(row["image_ref"] or ()), tuple(row["image_sha256"] or ()))
            for row in reversed(found)
            if row["row_id"] == row_id
        ]


_EMPTY = pa.table(
    {
        "row_id": pa.array([], pa.string()),
        "request_key": pa.array([], pa.string()),
        "image_ref": pa.array([], pa.list_(pa.string())),
        "image_sha256": pa.array([], pa.list_(pa.string())),
    }
)


def _hashes(column: pa.ChunkedArray) -> bytes:
    return b"".join(packed_ids(chunk) for chunk in column.chunks)


# ---------------------------------------------------------------------------------- whole rows


def answers_to(
    request_keys: Set[str], unsealed: Sequence[pa.Table], paths: Sequence[Path], columns: Columns
) -> list[Completed]:
    """The result rows with one of the request_keys, in tables and in parts. Raises CheckpointDamaged."""
    wanted = pa.array(sorted(request_keys), pa.string())
    tables = (table.filter(pc.is_in(table["request_key"], wanted)) for table in unsealed)
    parts = (rows_with(path, "request_key", wanted) for path in paths)
    found = chain(tables, chain.from_iterable(parts))
    return [completed for rows in found for completed in completed_of(rows, columns)]


def by_request_key(answers: Iterable[Completed]) -> dict[str, list[Completed]]:
    """The answers to each request. A redo comes before the answers that it supersedes."""
    found: dict[str, list[Completed]] = {}
    for completed in sorted(answers, key=_order, reverse=True):
        found.setdefault(completed.request_key, []).append(completed)
    return found


def _order(completed: Completed) -> tuple[bool, datetime]:
    is_redo = Purpose.of_run_id(completed.intent.run_id) is Purpose.REDO
    return is_redo, completed.updated_at or completed.finished_at
