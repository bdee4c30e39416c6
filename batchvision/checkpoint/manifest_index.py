"""The index of the manifest: under which request each row of it has its answer, or is failed, now.

A run writes it at the end of each complete pass over the manifest, beside its journal. The index names each row's
current answer. No clock decides that.

The rule: of several divisions of an output into shards, only the files of the one that was written last count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchvision.checkpoint.journal import segment_paths
from batchvision.checkpoint.journal_records import Carry
from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.lock import STATE_FOLDER
from batchvision.checkpoint.log_file import read_log
from batchvision.checkpoint.parts import batches_of, part_paths, schema_of, write_batches
from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pairs
from batchvision.checkpoint.storage import PartStore
from batchvision.errors import CheckpointDamaged
from batchvision.keys import KEY_BYTES
from batchvision.records import Completed, Failed, Intent

INDEX_NAME = "index.parquet"
COMPLETED, FAILED = "completed", "failed"
_RUN, _GENERATION = b"batchvision.run_id", b"batchvision.generation"
_SCHEMA = pa.schema([("row_id", pa.string()), ("request_key", pa.string()), ("state", pa.string())])
_ANSWER_KEYS = ("row_id", "request_key", "skip_key")


class RowsMet:
    """The rows of one pass over the manifest, each under its skip_key, or its request_key where only that is known.

    The feed thread and the event loop add each row that they meet. No query adds one. The store reads the result at the
    end of the run. A row of ``done`` takes one byte, another row 12. Only a row with a failure, a carry or a ticket
    takes a Python object.
    """

    def __init__(self, done: KeySet | None = None) -> None:
        self.is_complete = False  #: later passes ask about rows of the first again, and add nothing
        self._done = KeySet() if done is None else done
        self._is_met = np.zeros(len(self._done), np.bool_)
        self._others = KeySet()
        self._open: set[tuple[str, str]] = set()  #: row_id and key of rows with a failure, a carry or a ticket

    def begin(self) -> None:
        """A complete pass begins. It meets the rows of earlier passes again: those that are not done are dropped."""
        self._others = KeySet()

    def add(self, packed: bytes) -> None:
        """Add ``row_keys.pairs`` of rows and their skip_keys."""
        if self.is_complete:
            return
        numbers = self._done.find_packed(packed)
        self._is_met[numbers[numbers >= 0]] = True
        self._others.add_packed(np.frombuffer(packed, f"V{KEY_BYTES}")[numbers < 0].tobytes())

    def add_done(self, key: bytes) -> None:
        """Add ``row_keys.pair`` of a done row and one of its keys."""
        self._is_met[self._done.find_packed(key)] = True

    def add_open(self, row_id: str, key: str) -> None:
        """Add a row with a failure, a carry or a ticket under ``key``, a request_key or skip_key."""
        self._open.add((row_id, key))

    def has(self, record: Failed | Carry | Completed | Intent) -> bool:
        """Whether the manifest has the row under the request of its failure, carry or ticket."""
        return not self._open.isdisjoint((record.row_id, key) for key in (record.request_key, record.skip_key) if key)

    def contain(self, packed: bytes) -> NDArray[np.bool_]:
        """Of each pair whether the manifest has it. Only after the pass."""
        numbers = self._done.find_packed(packed)
        found: NDArray[np.bool_] = numbers >= 0
        found[found] = self._is_met[numbers[found]]
        return found if found.all() else found | self._others.contains_packed(packed)


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
            is_current = met.contain(pairs(ids, packed_keys(batch["skip_key"])))
            if not is_current.all():
                is_current |= met.contain(pairs(ids, packed_keys(batch["request_key"])))
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
    return bool(runs) and all(read_log(path).header.run_id in runs for path in newest)
