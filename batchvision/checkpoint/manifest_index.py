"""The index of the manifest: under which request each row of it has its answer, or is failed, now.

A run writes it at the end of each complete pass over the manifest, beside its journal. The index names each row's
current answer. No clock decides that.

The rule: of several divisions of an output into shards, only the files of the one that was written last count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchvision.checkpoint.journal import read_segment, segment_paths
from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.lock import STATE_FOLDER
from batchvision.checkpoint.parts import batches_of, part_paths, schema_of, write_batches
from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pairs
from batchvision.checkpoint.storage import PartStore
from batchvision.errors import CheckpointDamaged
from batchvision.records import Failed

INDEX_NAME = "index.parquet"
COMPLETED, FAILED = "completed", "failed"
_RUN, _GENERATION = b"batchvision.run_id", b"batchvision.generation"
_SCHEMA = pa.schema([("row_id", pa.string()), ("request_key", pa.string()), ("state", pa.string())])
_ANSWER_KEYS = ("row_id", "request_key", "skip_key")


@dataclass(slots=True)
class RowsMet:
    """The rows of one pass over the manifest, each under its skip_key, or its request_key where only that is known.

    Two threads add rows, each by a method of its own; a row takes 13 bytes.
    """

    is_complete: bool = False  #: later passes ask about rows of the first again, and add nothing
    _by_skip_key: KeySet = field(default_factory=KeySet)
    _by_request_key: KeySet = field(default_factory=KeySet)

    def add(self, packed: bytes) -> None:
        """``row_keys.pairs`` of rows and their skip_keys: for the thread that reads the manifest."""
        if not self.is_complete:
            self._by_skip_key.add_packed(packed)

    def add_one(self, key: bytes) -> None:
        """``row_keys.pair`` of a row and a request_key that is answered: for the event loop."""
        self._by_request_key.add(key)

    def contain(self, packed: bytes) -> NDArray[np.bool_]:
        """Of each pair whether the manifest has it. Only after the pass."""
        return self._by_skip_key.contains_packed(packed) | self._by_request_key.contains_packed(packed)


# ---------------------------------------------------------------------------------- writing


def write_index(
    store: PartStore, output: Path, shard: str, run_id: str, met: RowsMet, failures: Iterable[Failed]
) -> None:
    """Replace the shard's index. The run's records are sealed already. Raises OSError, CheckpointDamaged."""
    generation = 1 + max((each.generation for each in _found(output, skips_damaged=True)), default=0)
    written = {_RUN: run_id.encode(), _GENERATION: str(generation).encode()}
    path = output / STATE_FOLDER / shard / INDEX_NAME
    with store.growing(path) as file:
        write_batches(file, _SCHEMA.with_metadata(written), _lines(output, met, failures))
        file.publish(path)


def _lines(output: Path, met: RowsMet, failures: Iterable[Failed]) -> Iterator[pa.RecordBatch]:
    for path in part_paths(output, "results"):
        for batch in batches_of(path, _ANSWER_KEYS):
            ids = packed_ids(batch["row_id"])
            is_current = np.zeros(batch.num_rows, np.bool_)
            for name in ("request_key", "skip_key"):
                is_current |= met.contain(pairs(ids, packed_keys(batch[name])))
            chosen = batch.filter(pa.array(is_current.tolist(), pa.bool_()))  # of an array, pyarrow loads numpy.ma
            if chosen.num_rows:
                yield _batch(chosen["row_id"], chosen["request_key"], COMPLETED)
    failed = list(failures)
    if failed:
        names, requests = [each.row_id for each in failed], [each.request_key for each in failed]
        yield _batch(pa.array(names, pa.string()), pa.array(requests, pa.string()), FAILED)


def _batch(ids: pa.Array, keys: pa.Array, state: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([ids, keys, pa.repeat(pa.scalar(state, pa.string()), len(ids))], schema=_SCHEMA)


# ---------------------------------------------------------------------------------- reading


class _File(NamedTuple):
    path: Path
    run_id: str
    generation: int

    @property
    def division(self) -> str:
        """How many shards the output had."""
        return self.path.parent.name.partition("of")[2]


def index_paths(output: Path) -> list[Path]:
    """The index files of all shards, of every division."""
    return sorted((output / STATE_FOLDER).glob(f"*of*/{INDEX_NAME}"))


def _found(output: Path, *, skips_damaged: bool = False) -> list[_File]:
    """``skips_damaged``: a new index takes the place of one that cannot be read."""
    files = []
    for path in index_paths(output):
        with suppress(CheckpointDamaged) if skips_damaged else nullcontext():
            written = schema_of(path).metadata or {}
            files.append(_File(path, written.get(_RUN, b"").decode(), int(written.get(_GENERATION, b"0"))))
    return files


def index_batches(output: Path) -> Iterator[pa.RecordBatch]:
    """The lines that count: row_id, request_key, state. Nothing where no run has written an index."""
    files = _found(output)
    newest = max(files, key=lambda each: each.generation, default=None)
    for each in files:
        if newest is not None and each.division == newest.division:
            yield from batches_of(each.path)


def is_up_to_date(output: Path) -> bool:
    """Whether each shard's last run has written the index, or was taken in by one that has. Else answers may have come
    that it does not know. Raises CheckpointDamaged."""
    runs = {each.run_id for each in _found(output)}
    folders = (output / STATE_FOLDER).glob("*of*")
    newest = [segments[-1] for folder in folders if (segments := segment_paths(folder))]
    return bool(runs) and all(read_segment(path).header.run_id in runs for path in newest)
