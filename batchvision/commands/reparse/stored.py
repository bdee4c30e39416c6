"""Find the stored attempts and answers of a row. The index holds 16 bytes for each stored row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint import batches_of, part_paths


class StoredAttempt(NamedTuple):
    """The columns of an attempt that reparse needs."""

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
    """The columns of an answer that identify its images."""

    row_id: str
    request_key: str
    recipe_id: str
    skip_key: str
    image_ref: list[str]
    image_sha256: list[str | None]


@dataclass(slots=True)
class Stored:
    """The stored attempts and answers of one row, under the chosen recipes."""

    attempts: list[StoredAttempt] = field(default_factory=list)
    results: dict[str, StoredResult] = field(default_factory=dict)  #: by request_key


class StoredRows:
    """The tables of one output by row_id."""

    def __init__(self, output: Path, recipe_ids: frozenset[str]) -> None:
        self._attempts = _Index(part_paths(output, "attempts"), recipe_ids)
        self._results = _Index(part_paths(output, "results"), recipe_ids)

    def of(self, row_ids: Sequence[str]) -> dict[str, Stored]:
        """Look up stored attempts and answers by row_id. Raises CheckpointDamaged."""
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
    """Places of the rows of a table, sorted by the hash of their row_id."""

    def __init__(self, paths: Sequence[Path], recipe_ids: frozenset[str]) -> None:
        self._paths = paths
        wanted = pa.array(sorted(recipe_ids), pa.string())
        hashes, parts, rows = [_hashes([])], [_hashes([])], [_hashes([])]
        for number, path in enumerate(paths):
            before = 0
            for batch in batches_of(path, ("row_id", "recipe_id")):
                places = pc.indices_nonzero(pc.is_in(batch["recipe_id"], wanted))
                hashes.append(_hashes(batch["row_id"].take(places).to_pylist()))
                parts.append(np.full(len(places), number))
                rows.append(before + places.to_numpy().astype(np.int64))
                before += batch.num_rows
        order = np.argsort(np.concatenate(hashes))
        self._hashes = np.concatenate(hashes)[order]
        self._parts = np.concatenate(parts)[order].astype(np.int32)
        self._rows = np.concatenate(rows)[order].astype(np.int32)

    def rows(self, row_ids: Sequence[str], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The stored rows of these ids, and rows with the same hash of the id. Each part is read once."""
        wanted = np.unique(_hashes(row_ids))
        starts, ends = (np.searchsorted(self._hashes, wanted, side) for side in ("left", "right"))
        places = np.concatenate([_hashes([]), *map(np.arange, starts, ends)])
        for part in np.unique(self._parts[places]):
            yield from _taken(self._paths[part], np.sort(self._rows[places[self._parts[places] == part]]), names)


def _hashes(row_ids: Sequence[str]) -> NDArray[np.int64]:
    return np.fromiter(map(hash, row_ids), np.int64, len(row_ids))


def _taken(path: Path, rows: NDArray[np.int32], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a part with these sorted numbers."""
    before = 0
    for batch in batches_of(path, names):
        start, end = np.searchsorted(rows, (before, before + batch.num_rows))
        if end > start:
            yield from batch.take(pa.array(rows[start:end] - before)).select(list(names)).to_pylist()
        before += batch.num_rows
