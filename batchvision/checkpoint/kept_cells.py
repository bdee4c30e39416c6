"""Kept cells of answered rows that are other ones in the manifest by now: found by hash, and put in their place.

The rule: a row is known by its row_id and skip_key. Only cells change: no answer, key or cost does, and no row comes or
goes. A part is rewritten as a merge of itself alone. A row with a masked cell is left: the secret may be unknown here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint.cells import array_of, caster, cell_of
from batchvision.checkpoint.compaction import final_parts, merge
from batchvision.checkpoint.disk import LocalDisk, disk_failures
from batchvision.checkpoint.parts import batches_of, part_paths, schema_of
from batchvision.checkpoint.registry import read_registry
from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pairs
from batchvision.checkpoint.storage import PartStore
from batchvision.keys import KEY_BYTES
from batchvision.records import Cell
from batchvision.secrets import MASK

#: Of one row, in the order of the columns.
Cells = tuple[Cell, ...]
#: Places of rows in a part, and the cells that belong there.
ChangedCells = Mapping[Path, Mapping[int, Cells]]


class KeptCells:
    """Today's kept cells of answered rows: 24 bytes a row. :meth:`add` all of them, then ask."""

    def __init__(self, output: Path, recipe_id: str, names: Sequence[str], mask: Callable[[str], str]) -> None:
        registry = read_registry(output)
        registered = dict(registry.keep) if registry else {}
        self._output = output
        self._recipe_id = recipe_id
        #: place among the job's kept columns, name, and what makes a stored value of a cell
        self._columns = [(at, name, caster(registered[name])) for at, name in enumerate(names) if name in registered]
        self._mask = mask
        self._rows: list[bytes] = []
        self._hashes: list[NDArray[np.int64]] = []

    def add(self, rows: bytes, cells: Sequence[Cells]) -> None:
        """``rows``: :func:`row_keys.pairs` of their ids and skip_keys."""
        self._rows.append(rows)
        self._hashes.append(np.array([hash(self.as_stored(each)) for each in cells], np.int64))

    def as_stored(self, cells: Cells) -> Cells:
        """As the results hold them and give them back."""
        masked = (self._mask(cell) if isinstance(cell, str) else cell for cell in cells)
        chosen = list(masked)
        return tuple(cell_of(cast(chosen[at])) for at, _, cast in self._columns)

    def changed(self) -> dict[Path, dict[int, bytes]]:
        """By part of the results: places of answers with outdated cells, and their rows. Raises CheckpointDamaged."""
        found: dict[Path, dict[int, bytes]] = {}
        keys = np.frombuffer(b"".join(self._rows), np.dtype((np.void, KEY_BYTES)))
        if not len(keys) or not self._columns:
            return found
        order = np.argsort(keys)
        keys, hashes = keys[order], np.concatenate(self._hashes)[order]
        for path in part_paths(self._output, "results"):
            at = 0
            for batch in batches_of(path, self._names_in(path)):
                for place, row in self._changed_in(batch, keys, hashes):
                    found.setdefault(path, {})[at + place] = row
                at += batch.num_rows
        return found

    def _names_in(self, path: Path) -> list[str]:
        there = set(schema_of(path).names)
        return ["row_id", "skip_key", "recipe_id", *(name for _, name, _ in self._columns if name in there)]

    def _changed_in(
        self, batch: pa.RecordBatch, keys: NDArray[np.void], hashes: NDArray[np.int64]
    ) -> Iterator[tuple[int, bytes]]:
        packed = pairs(packed_ids(batch["row_id"]), packed_keys(batch["skip_key"]))
        rows = np.frombuffer(packed, np.dtype((np.void, KEY_BYTES)))
        places = np.searchsorted(keys, rows).clip(max=len(keys) - 1)
        is_current = pc.equal(batch["recipe_id"], pa.scalar(self._recipe_id, pa.string()))
        is_met = (keys[places] == rows) & is_current.to_numpy(zero_copy_only=False)
        nothing = [None] * batch.num_rows
        columns = [batch[name].to_pylist() if name in batch.schema.names else nothing for _, name, _ in self._columns]
        for place in np.flatnonzero(is_met).tolist():
            stored = tuple(cell_of(column[place]) for column in columns)
            if hash(stored) != hashes[places[place]] and not _is_masked(stored):
                yield place, rows[place].tobytes()

    def refresh(self, changes: ChangedCells, store: PartStore | None = None) -> int:
        """Write today's cells, part by part, and return the number of changed rows. Parts that a journal can still make
        again are left. Needs the locks of all shards. Raises DiskFailed, CheckpointDamaged."""
        refreshed = 0
        with disk_failures(f"refreshing kept cells in {self._output}"):
            for path in final_parts(self._output, "results"):
                if path in changes:
                    altered = partial(self._altered, changes[path])
                    merge(store or LocalDisk(), self._output, [path], altered=altered)
                    refreshed += len(changes[path])
        return refreshed

    def _altered(self, changes: Mapping[int, Cells], batch: pa.RecordBatch, at: int) -> pa.RecordBatch:
        here = {place - at: cells for place, cells in changes.items() if at <= place < at + batch.num_rows}
        if not here:
            return batch
        for column, name, cast in self._columns:
            if name not in batch.schema.names:
                continue
            values = batch[name].to_pylist()
            for place, cells in here.items():
                cell = cells[column]
                values[place] = cast(self._mask(cell) if isinstance(cell, str) else cell)
            index = batch.schema.get_field_index(name)
            batch = batch.set_column(index, batch.schema.field(index), array_of(values, batch.schema.field(index).type))
        return batch


def _is_masked(cells: Cells) -> bool:
    """Whether a secret was taken out of one of them."""
    return any(isinstance(cell, str) and MASK in cell for cell in cells)
