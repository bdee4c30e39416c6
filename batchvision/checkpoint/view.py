"""A read-only view of an output, without its lock, also while a run writes to it.

Nothing here writes or waits. Sealed parts never change under a reader. The journal is read as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint import waits
from batchvision.checkpoint.current import current_places
from batchvision.checkpoint.entries import Carry
from batchvision.checkpoint.journal import read_segment, segment_paths
from batchvision.checkpoint.lock import STATE_FOLDER, Holder, lock_path
from batchvision.checkpoint.parts import batches_of, part_paths, row_count
from batchvision.checkpoint.recovery import apply_entry
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.spent import LedgerSums, read_sums
from batchvision.checkpoint.summaries import has_ended, read_latest
from batchvision.records import Exchange, Intent, RunSummary, WaitNotice


class AmbiguousAttempt(NamedTuple):
    """An attempt in the ledger that may have been billed without an answer."""

    row_id: str
    state: str
    bound_ticks: int | None
    run_id: str


class OpenWork(NamedTuple):
    """Work that the journals hold open, of a run at work or of one that was cut off."""

    in_flight: tuple[Intent, ...]
    tickets: tuple[Intent, ...]
    held: tuple[Carry, ...]


class OutputView:
    """The tables of one output, and its open work."""

    def __init__(self, output: Path) -> None:
        self.output = output

    @property
    def exists(self) -> bool:
        """Whether a run has ever written here."""
        return (self.output / STATE_FOLDER).is_dir()

    def latest(self) -> RunSummary | None:
        """The summary of the last run that ended."""
        return read_latest(self.output)

    def holder(self, shard: str = "0of1") -> Holder | None:
        """The process that holds the output, or held it last."""
        return Holder.written_in(lock_path(self.output, shard))

    # ---------------------------------------------------------------------------- tables

    def rows(self, table: str, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows of ``results``, ``failures`` or ``attempts``, a batch at a time, oldest part name first."""
        for path in part_paths(self.output, table):
            with suppress(FileNotFoundError):  # removed since it was listed
                yield from batches_of(path, names)

    def count(self, table: str) -> int:
        return sum(row_count(path) for path in part_paths(self.output, table))

    def current_results(self, recipe_id: str | None, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The current answer of each row that has one (see ``current.py``), a batch at a time."""
        for path, places in current_places(self.output, recipe_id).items():
            at = 0
            with suppress(FileNotFoundError):  # removed since it was listed
                for batch in batches_of(path, names):
                    first, last = np.searchsorted(places, (at, at + batch.num_rows))
                    if first < last:
                        yield batch.take(pa.array(places[first:last] - at))
                    at += batch.num_rows

    def failures_by_kind(self) -> dict[str, int]:
        """Numbers of failed rows by ``error_kind``, the most frequent first."""
        counts: dict[str, int] = {}
        for batch in self.rows("failures", ("error_kind",)):
            for pair in pc.value_counts(batch["error_kind"]).to_pylist():
                counts[pair["values"]] = counts.get(pair["values"], 0) + pair["counts"]
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def quarantined_count(self) -> int:
        return sum(pc.sum(batch["quarantined"]).as_py() or 0 for batch in self.rows("failures", ("quarantined",)))

    def sums(self) -> LedgerSums:
        """The sums of the ledger."""
        return read_sums(self.output)

    def ambiguous(self) -> Iterator[AmbiguousAttempt]:
        """Every attempt that may have been billed without an answer."""
        for batch in self.rows("attempts", ("row_id", "state", "bound_ticks", "run_id")):
            unsure = batch.filter(pc.is_in(batch["state"], pa.array(["ambiguous", "lost_after_read"])))
            for row in unsure.to_pylist():
                yield AmbiguousAttempt(**row)

    # ---------------------------------------------------------------------------- the journals

    def is_cut_off(self) -> bool:
        """Whether a run was cut off, or is still at work. Then only its journal may hold paid answers.

        Raises CheckpointDamaged.
        """
        folders = (self.output / STATE_FOLDER).glob("*of*")
        newest = [segments[-1] for folder in folders if (segments := segment_paths(folder))]
        return any(not has_ended(self.output, read_segment(path).header.run_id) for path in newest)

    def waits(self, now: datetime) -> tuple[WaitNotice, ...]:
        """The current waits of runs at work."""
        return tuple(waits.read(self.output, now))

    def open_work(self) -> OpenWork:
        """The open work of every shard's newest segment. Raises CheckpointDamaged."""
        open_: dict[str, Exchange] = {}
        held: dict[tuple[str, str], Carry] = {}
        for folder in sorted((self.output / STATE_FOLDER).glob("*of*")):
            run_state = _newest_state(folder)
            open_ |= run_state.open
            held |= {(carry.row_id, carry.request_key): carry for carry in run_state.carries if carry.held}
        return OpenWork(
            in_flight=tuple(each.intent for each in open_.values() if each.ticket is None),
            tickets=tuple(each.intent for each in open_.values() if each.ticket is not None),
            held=tuple(held.values()),
        )


def _newest_state(folder: Path) -> RunState:
    """The state after the newest segment, without ended exchanges.

    A running writer may replace the segment between listing and reading. Then it is listed again.
    """
    run_state = RunState()
    while segments := segment_paths(folder):
        with suppress(FileNotFoundError):
            for entry in read_segment(segments[-1]).entries:
                ended = apply_entry(segments[-1], run_state, entry)
                if ended is not None:
                    del run_state.open[ended]
            break
    return run_state
