"""Superseded answers: by the index of the manifest, their row has another one now.

The rule: an answer goes only where the row's current answer is another one that is there. A row that the index does not
name keeps all of its answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.manifest_index import COMPLETED, index_batches
from batchvision.checkpoint.parts import batches_of
from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pairs
from batchvision.keys import KEY_BYTES

#: Places in a part, in order.
Places = NDArray[np.int64]


def superseded(output: Path, paths: Sequence[Path]) -> Mapping[Path, Places]:
    """Where superseded answers stand in these parts of ``results``. Parts without any are not named."""
    current, rows = KeySet(), KeySet()
    for batch in index_batches(output):
        is_answer = [state == COMPLETED for state in batch["state"].to_pylist()]
        answered = batch.filter(pa.array(is_answer, pa.bool_()))
        current.add_packed(pairs(packed_ids(answered["row_id"]), packed_keys(answered["request_key"])))
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
