"""A read-only view of an output, without its lock, also while a run writes to it.

Nothing here writes or waits. A view shows everything that is durable: the parts, and the rows of the segments that are
not sealed yet. It reads the journals once, at its first use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint.current import Source, UnsealedRows, current_batches, source_batches
from batchvision.checkpoint.journal_records import Carry, SegmentHeader
from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.lock import STATE_FOLDER, Holder, lock_path
from batchvision.checkpoint.parts import FAILURES_TABLE, failures_path, part_paths, row_count, rows_with
from batchvision.checkpoint.recovery import Unsealed, apply_record, read_failures, read_unsealed
from batchvision.checkpoint.registry import read_registry
from batchvision.checkpoint.row_keys import packed_ids
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.schema import Columns, TableSchemas
from batchvision.checkpoint.sealing import part_path
from batchvision.checkpoint.spent import LedgerSums, read_sums
from batchvision.checkpoint.summaries import has_ended, read_latest
from batchvision.records import Exchange, Intent, RunSummary


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
    oldest_ticket_at: datetime | None = None


class ShardState(NamedTuple):
    """A shard as its files stand."""

    shard: str
    run_state: RunState
    unsealed: Unsealed
    results: tuple[tuple[SegmentHeader, pa.Table], ...]
    attempts: tuple[tuple[SegmentHeader, pa.Table], ...]
    has_other_failures: bool  #: than its table ``failures``

    @property
    def in_flight(self) -> list[Intent]:
        """Requests without a ticket and without an end."""
        return [each.intent for each in self.run_state.open.others if each.answer is None and each.ended is None]

    @property
    def tickets_open(self) -> int:
        return len(self.run_state.open.tickets)

    @property
    def unread_answers(self) -> int:
        """Durable answers that no run has classified yet."""
        return len(self.run_state.open.others) - len(self.in_flight)


def read_shard(output: Path, shard: str, *, reads_failures: bool = True) -> ShardState:
    """Replay a shard's journal. ``reads_failures``: begin with its table ``failures``. Raises CheckpointDamaged."""
    unsealed = read_unsealed(output / STATE_FOLDER / shard)
    columns = read_registry(output) or Columns()
    job = unsealed.segments[-1][1].header.job if unsealed.segments else ""
    # the failures after the journal: where a seal has written both meanwhile, the journal changes them once more
    failures = read_failures(output, shard) if reads_failures else {}
    run_state = RunState(TableSchemas(job, columns, str), failures)
    run_state.load(unsealed.open_work)
    has_other_failures = run_state.has_other_failures
    results, attempts = list[tuple[SegmentHeader, pa.Table]](), list[tuple[SegmentHeader, pa.Table]]()
    for path, scan in unsealed.segments:
        for record in (scan.header, *scan.records):
            apply_record(path, run_state, record)
        has_other_failures = has_other_failures or run_state.has_other_failures
        cut = run_state.cut(with_failures=False)
        results += [(scan.header, pa.concat_tables(cut.results))] if cut.results else []
        attempts += [(scan.header, pa.concat_tables(cut.attempts))] if cut.attempts else []
    return ShardState(shard, run_state, unsealed, tuple(results), tuple(attempts), has_other_failures)


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

    @cached_property
    def shards(self) -> tuple[ShardState, ...]:
        """The journals of all shards, as they stood at the first look. Raises CheckpointDamaged."""
        folders = sorted(path for path in (self.output / STATE_FOLDER).glob("*of*") if path.is_dir())
        return tuple(read_shard(self.output, folder.name) for folder in folders)

    # ---------------------------------------------------------------------------- tables

    def rows(self, table: str, names: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows of ``results``, ``failures`` or ``attempts``, a batch at a time, oldest part name first."""
        for source in self.sources(table):
            yield from source_batches(source, names)

    def sources(self, table: str) -> list[Source]:
        """The parts of a table, and the rows that are in no part yet."""
        shards = self.shards  # before the parts: a segment that is sealed meanwhile has a part then
        paths = part_paths(self.output, table)
        if table == FAILURES_TABLE:
            return [*_failures_parts(paths, shards), *map(self._failures, filter(_has_other_failures, shards))]
        names = {path.name for path in paths}
        unsealed = [rows for shard in shards for rows in (shard.results if table == "results" else shard.attempts)]
        in_no_part = (rows for header, rows in unsealed if Path(part_path(table, header)).name not in names)
        return [*paths, *map(UnsealedRows, in_no_part)]

    def _failures(self, shard: ShardState) -> UnsealedRows:
        tables = TableSchemas("", read_registry(self.output) or Columns(), str)
        return UnsealedRows(tables.failures(list(shard.run_state.failures.values())))

    def rows_of(self, table: str, row_id: str) -> list[dict[str, Any]]:
        """The rows of a table that belong to one row of the manifest. Only their row groups are read in full."""
        return [row for found in self._tables_of(table, row_id) for row in found.to_pylist()]

    def current_of(self, row_id: str, recipe_id: str | None) -> dict[str, Any] | None:
        """The current answer of one row, with ``in_manifest``. ``None`` where the row has none."""
        if self.rows_of("failures", row_id):
            return None
        sources = [UnsealedRows(found) for found in self._tables_of("results", row_id)]
        chosen = current_batches(self.output, sources, KeySet(), recipe_id, with_in_manifest=True)
        return next((row for batch in chosen for row in batch.to_pylist()), None)

    def _tables_of(self, table: str, row_id: str) -> Iterator[pa.Table]:
        wanted = pa.array([row_id], pa.string())
        for source in self.sources(table):
            if isinstance(source, Path):
                with suppress(FileNotFoundError):  # the part was removed since it was listed
                    yield from rows_with(source, "row_id", wanted)
            else:
                found = source.table.filter(pc.is_in(source.table["row_id"], value_set=wanted))
                if found.num_rows:
                    yield found

    def count(self, table: str) -> int:
        return sum(row_count(each) if isinstance(each, Path) else each.table.num_rows for each in self.sources(table))

    def current_results(
        self,
        recipe_id: str | None,
        names: Sequence[str] | None = None,
        *,
        with_in_manifest: bool = False,
        at: datetime | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """The current answer of each row that has one (see ``current.py``), a batch at a time.

        ``with_in_manifest``: add the last column ``in_manifest``, true where the index of the manifest names the row.
        ``at``: the answers of that time, as far as the parts hold them. Rows that are failed now have theirs too.
        """
        failed = KeySet()
        for batch in self.rows("failures", ("row_id",)) if at is None else ():
            failed.add_packed(packed_ids(batch["row_id"]))
        yield from current_batches(
            self.output,
            self.sources("results"),
            failed,
            recipe_id,
            names,
            with_in_manifest=with_in_manifest,
            at=at,
        )

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
        newest = [shard.unsealed.segments[-1][1].header for shard in self.shards if shard.unsealed.segments]
        return any(not has_ended(self.output, header.run_id) for header in newest)

    def open_work(self) -> OpenWork:
        """The open work of every shard. Raises CheckpointDamaged."""
        in_flight, accepted = dict[str, Intent](), dict[str, Exchange]()
        held: dict[tuple[str, str], Carry] = {}
        for shard in self.shards:
            in_flight |= {intent.exchange_id: intent for intent in shard.in_flight}
            accepted |= {each.intent.exchange_id: each for each in shard.run_state.open.accepted()}
            held |= {(carry.row_id, carry.request_key): carry for carry in shard.run_state.carries if carry.held}
        tickets = tuple(each.intent for each in accepted.values())
        oldest = min((each.accepted_at for each in accepted.values()), default=None)
        return OpenWork(tuple(in_flight.values()), tickets, tuple(held.values()), oldest)


def _has_other_failures(shard: ShardState) -> bool:
    return shard.has_other_failures


def _failures_parts(paths: Sequence[Path], shards: Sequence[ShardState]) -> Iterator[Path]:
    """The parts of ``failures`` that are up to date with their journals."""
    changed = {failures_path(shard.shard) for shard in shards if shard.has_other_failures}
    return (path for path in paths if f"{FAILURES_TABLE}/{path.name}" not in changed)
