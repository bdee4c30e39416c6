"""What the tables still know of a row: its attempts with their raw answers, and the images its answers were given for.

Rule: the index holds 16 bytes for each stored row; raw answers are read for a few thousand rows at a time.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint import batches_of, part_paths

_CODES: Final[tuple[Literal["q", "i"], ...]] = ("q", "i", "i")


class StoredAttempt(NamedTuple):
    """One line of the ledger, as far as it serves to read its answer again."""

    row_id: str
    request_key: str
    recipe_id: str
    attempt: int
    lane: str
    http_status: int | None
    ticket: str | None
    provider: str
    provider_request_id: str | None
    cost_ticks: int | None
    cost_source: str | None
    sent_at: datetime
    received_at: datetime | None
    raw_answer: str | None

    @property
    def was_answered(self) -> bool:
        return self.http_status is not None and 200 <= self.http_status < 300


class StoredResult(NamedTuple):
    """Of an answer in ``results`` what names its images."""

    row_id: str
    request_key: str
    recipe_id: str
    skip_key: str
    image_ref: list[str]
    image_sha256: list[str | None]


@dataclass(slots=True)
class Stored:
    """All that is stored of one row, under the recipes that were asked for."""

    attempts: list[StoredAttempt] = field(default_factory=list)
    results: dict[str, StoredResult] = field(default_factory=dict)  #: by request_key


class Place(NamedTuple):
    """A row of a table: the part's number and the row's in it."""

    part: int
    row: int


class StoredRows:
    """The tables of one output, asked by row_id."""

    def __init__(self, output: Path, recipe_ids: frozenset[str]) -> None:
        self._attempts = _Index(part_paths(output, "attempts"), recipe_ids)
        self._results = _Index(part_paths(output, "results"), recipe_ids)

    def of(self, row_ids: Sequence[str]) -> dict[str, Stored]:
        """What is stored of these rows. Raises CheckpointDamaged."""
        found = {row_id: Stored() for row_id in row_ids}
        for values in self._attempts.rows(row_ids, StoredAttempt._fields):
            attempt = StoredAttempt(**values)
            if attempt.row_id in found:
                found[attempt.row_id].attempts.append(attempt)
        for values in self._results.rows(row_ids, StoredResult._fields):
            result = StoredResult(**values)
            if result.row_id in found:
                found[result.row_id].results[result.request_key] = result
        return found


class _Index:
    """Where the rows of a table are, by the hash of their row_id: sorted, found by bisection."""

    def __init__(self, paths: Sequence[Path], recipe_ids: frozenset[str]) -> None:
        self._paths = paths
        wanted = pa.array(sorted(recipe_ids), pa.string())
        hashes, parts, rows = array("q"), array("i"), array("i")
        for number, path in enumerate(paths):
            at = 0
            for batch in batches_of(path, ("row_id", "recipe_id")):
                places = pc.indices_nonzero(pc.is_in(batch["recipe_id"], wanted))
                hashes.extend(map(hash, batch["row_id"].take(places).to_pylist()))
                rows.extend(at + place for place in places.to_pylist())
                parts.extend([number] * len(places))
                at += batch.num_rows
        self._hashes, self._parts, self._rows = _sorted_alike(hashes, parts, rows)

    def _find(self, row_id: str) -> Iterator[Place]:
        wanted = hash(row_id)
        at = bisect_left(self._hashes, wanted)
        while at < len(self._hashes) and self._hashes[at] == wanted:
            yield Place(self._parts[at], self._rows[at])
            at += 1

    def rows(self, row_ids: Iterable[str], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The stored rows of these ids (and of a few others with the same hash), each part read once."""
        by_part: dict[int, list[int]] = {}
        for row_id in row_ids:
            for place in self._find(row_id):
                by_part.setdefault(place.part, []).append(place.row)
        for part, rows in sorted(by_part.items()):
            yield from _taken(self._paths[part], sorted(rows), names)


def _taken(path: Path, rows: list[int], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Some rows of a part, by their sorted numbers."""
    before = at = 0
    for batch in batches_of(path, names):
        end = bisect_left(rows, before + batch.num_rows, at)
        if end > at:
            chosen = pa.array([row - before for row in rows[at:end]], pa.int64())
            yield from batch.take(chosen).select(list(names)).to_pylist()
        before, at = before + batch.num_rows, end


def _sorted_alike(hashes: array[int], parts: array[int], rows: array[int]) -> tuple[array[int], array[int], array[int]]:
    if not hashes:
        return hashes, parts, rows
    columns = [
        pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])
        for kind, values in ((pa.int64(), hashes), (pa.int32(), parts), (pa.int32(), rows))
    ]
    order = pc.array_sort_indices(columns[0])
    by_hash, of_parts, of_rows = (
        _as_array(code, column.take(order)) for code, column in zip(_CODES, columns, strict=True)
    )
    return by_hash, of_parts, of_rows


def _as_array(code: Literal["q", "i"], column: pa.Array) -> array[int]:
    return array(code, memoryview(column.buffers()[1]).cast(code)[: len(column)])
