"""Which stored answer of each row is current, chosen in Arrow and numpy without a Python object per row.

The index of the manifest names current answers. Without it, an answer of the given recipe comes before the newest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.manifest_index import COMPLETED, index_batches
from batchvision.checkpoint.parts import batches_of
from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pairs
from batchvision.keys import KEY_BYTES

Places = NDArray[np.int64]  #: positions of rows in one source, ascending


class UnsealedRows(NamedTuple):
    """Rows of a table that are in no part yet."""

    table: pa.Table


Source = Path | UnsealedRows

_COLUMNS = ("row_id", "request_key", "recipe_id", "updated_at")
_ORDER = ("row_id", "is_indexed", "is_of_recipe", "updated_at", "request_key")


def source_batches(source: Source, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a source, a batch at a time. A part that was removed since it was listed has none."""
    if isinstance(source, Path):
        with suppress(FileNotFoundError):
            yield from batches_of(source, names)
    else:
        yield from (source.table if names is None else source.table.select(list(names))).to_batches()


def current_places(
    output: Path, sources: Sequence[Source], failed_ids: pa.Array, recipe_id: str | None
) -> Iterator[tuple[Source, Places]]:
    """The positions of the current answers in each source. A failed row has no current answer."""
    indexed = _indexed_answers(output)
    found: list[pa.Table] = []
    for number, source in enumerate(sources):
        at = 0
        for batch in source_batches(source, _COLUMNS):
            ranked = _ranked(batch, indexed, recipe_id, number, at)
            found.append(ranked.filter(pc.invert(pc.is_in(ranked["row_id"], value_set=failed_ids))))
            at += batch.num_rows
    if not found:
        return
    newest = _last_of_each_row(pa.concat_tables(found))
    parts, places = newest["part"].to_numpy(), newest["place"].to_numpy()
    for number, source in enumerate(sources):
        chosen = np.sort(places[parts == number])
        if len(chosen):
            yield source, chosen


def _ranked(batch: pa.RecordBatch, indexed: KeySet, recipe_id: str | None, part: int, at: int) -> pa.Table:
    """The rows of a batch with everything that decides which answer of a row is current."""
    packed = pairs(packed_ids(batch["row_id"]), packed_keys(batch["request_key"]))
    recipe = pa.scalar(recipe_id, pa.string())
    return pa.table(
        {
            "row_id": batch["row_id"],
            "is_indexed": pa.array(indexed.contains_packed(packed)),
            "is_of_recipe": pc.fill_null(pc.equal(batch["recipe_id"], recipe), False),
            "updated_at": batch["updated_at"],
            "request_key": batch["request_key"],
            "part": pa.repeat(pa.scalar(part, pa.int32()), batch.num_rows),
            "place": pa.array(np.arange(at, at + batch.num_rows)),
        }
    )


def _last_of_each_row(rows: pa.Table) -> pa.Table:
    order = pc.sort_indices(rows, sort_keys=[(name, "ascending") for name in _ORDER])
    ids = rows["row_id"].take(order)
    is_last = np.ones(len(ids), np.bool_)
    is_last[:-1] = pc.not_equal(ids[1:], ids[:-1]).to_numpy()
    return rows.select(["part", "place"]).take(order.filter(pa.array(is_last)))


def _indexed_answers(output: Path) -> KeySet:
    """The answers that the index of the manifest names, as pairs of row_id and request_key."""
    named = KeySet()
    for batch in index_batches(output):
        answered = batch.filter(pc.equal(batch["state"], pa.scalar(COMPLETED, pa.string())))
        named.add_packed(pairs(packed_ids(answered["row_id"]), packed_keys(answered["request_key"])))
    return named


# ---------------------------------------------------------------------------------- superseded answers


def superseded(output: Path, paths: Sequence[Path]) -> Mapping[Path, Places]:
    """Return the positions of superseded answers in these parts of ``results``. Parts without any are not named.

    An answer is superseded only where the row's current answer is stored too. A row that the index does not name keeps
    all of its answers.
    """
    current, rows = _indexed_answers(output), KeySet()
    for path in paths:  # rows with their current answer
        for ids, is_current in _answers(path, current):
            rows.add_packed(np.frombuffer(ids, f"V{KEY_BYTES}")[is_current].tobytes())
    found = {path: _superseded_in(path, current, rows) for path in paths}
    return {path: places for path, places in found.items() if len(places)}


def _answers(path: Path, current: KeySet) -> Iterator[tuple[bytes, NDArray[np.bool_]]]:
    """The hashed row_ids of a part, a batch at a time, and which answers are current."""
    for batch in batches_of(path, ("row_id", "request_key")):
        ids = packed_ids(batch["row_id"])
        yield ids, current.contains_packed(pairs(ids, packed_keys(batch["request_key"])))


def _superseded_in(path: Path, current: KeySet, rows: KeySet) -> Places:
    found, at = [np.array([], np.int64)], 0
    for ids, is_current in _answers(path, current):
        found.append(np.flatnonzero(rows.contains_packed(ids) & ~is_current) + at)
        at += len(is_current)
    return np.concatenate(found)
