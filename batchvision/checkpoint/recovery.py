"""Recover a shard after its last run: seal its segments, and close the exchanges that were cut off.

A segment is sealed under its own name, so a second recovery writes the same parts again. Exchanges with an answer and
no ``closed`` record are classified now. Their records begin a segment of this run, which is sealed at once. A crash at
any step leaves a state that the next start recovers in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from batchvision.checkpoint.journal import segment_paths, segment_seq
from batchvision.checkpoint.journal_records import (
    Accepted,
    BookedEnd,
    CarryRemoved,
    Closed,
    Ended,
    ExchangeRemoved,
    FailureRemoved,
    ReadDoubts,
    Received,
    Record,
    RowFailed,
    SegmentHeader,
    Shared,
    closed,
    is_unclear,
    records_of,
)
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.log_file import Scan, damaged, read_log
from batchvision.checkpoint.open_log import OpenWorkRead, read_open_log
from batchvision.checkpoint.parts import failures_path, part_paths, read_part, rows_with
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.schema import failures_of
from batchvision.checkpoint.sealing import ClosedSegment, Sealer
from batchvision.errors import AttemptsExhausted, CheckpointDamaged
from batchvision.records import AttemptState, Exchange, Failed, Intent
from batchvision.ticks import bound_words

#: Classifies an exchange that has ended, or was cut off.
Classify = Callable[[Exchange], BookedEnd]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Result of a recovery. ``ambiguous`` requests were sent, perhaps billed, and have no stored answer."""

    ambiguous: tuple[Intent, ...] = ()
    tickets: tuple[str, ...] = ()  #: the exchange_ids of open tickets
    completed: int = 0
    failed: int = 0
    torn_bytes: int = 0
    held: bool = False  #: the ambiguous rows stay pending; otherwise they are sent again

    @property
    def _bound(self) -> str:
        bounds = [intent.bound_ticks for intent in self.ambiguous]
        return bound_words(sum(bound or 0 for bound in bounds), bounds.count(None))

    def plus(self, other: Recovery) -> Recovery:
        """Both together."""
        return Recovery(
            ambiguous=(*self.ambiguous, *other.ambiguous),
            tickets=(*self.tickets, *other.tickets),
            completed=self.completed + other.completed,
            failed=self.failed + other.failed,
            torn_bytes=self.torn_bytes + other.torn_bytes,
            held=self.held or other.held,
        )

    def sentences(self) -> Iterator[str]:
        """Sentences for the terminal, where the last run did not end in order."""
        if self.torn_bytes:
            yield f"the journal ended in {self.torn_bytes} bytes that were never acknowledged: cut off"
        if self.completed or self.failed:
            yield (
                f"recovered from the journal of a run that did not end: {self.completed} completed rows, "
                f"{self.failed} failed"
            )
        if self.ambiguous:
            rows = ", ".join(intent.row_id for intent in self.ambiguous[:5])
            more = f" and {len(self.ambiguous) - 5} more" if len(self.ambiguous) > 5 else ""
            then = "they are sent again"
            if self.held:
                then = 'they stay pending until a run with limits.ambiguous = "retry"'
            if redone := sum(intent.is_redo for intent in self.ambiguous):
                then += f", but {redone} of them by `--redo` only: their rows keep their older answers"
            yield (
                f"{len(self.ambiguous)} requests were in flight when the last run ended and may have been billed "
                f"({rows}{more}), {self._bound}; {then}"
            )


# ---------------------------------------------------------------------------------- reading


class Unsealed(NamedTuple):
    """The files of a shard that its parts do not replace. ``segments`` are in order."""

    open_work: Sequence[Record] = ()
    sealed: int = 0
    segments: Sequence[tuple[Path, Scan]] = ()

    @property
    def torn_bytes(self) -> int:
        return self.segments[-1][1].torn_bytes if self.segments else 0

    def is_making(self, run_id: str, seq: int) -> bool:
        """Whether a seal of these segments makes (again) the parts with this run and number in their names."""
        return any((scan.header.run_id, scan.header.seq) == (run_id, seq) for _, scan in self.segments)


def read_unsealed(folder: Path) -> Unsealed:
    """Read a shard's ``open.log`` and the segments after its last seal. Raises CheckpointDamaged.

    A torn tail is allowed in the newest segment only. A run at work may seal a segment meanwhile; then all is read
    again.
    """
    while True:
        open_log = read_open_log(folder)
        try:
            return _segments_after(folder, open_log)
        except (FileNotFoundError, CheckpointDamaged):
            if read_open_log(folder).sealed == open_log.sealed:
                raise


def _segments_after(folder: Path, open_log: OpenWorkRead) -> Unsealed:
    paths = [path for path in segment_paths(folder) if segment_seq(path) > open_log.sealed]
    segments = [(path, read_log(path)) for path in paths]
    if segments and not open_log.exists and segments[-1][1].header.version == 1:  # older segments are sealed
        newest = segments[-1]
        return Unsealed((), newest[1].header.seq - 1, (newest,))
    for expected, (path, scan) in enumerate(segments, start=open_log.sealed + 1):
        if scan.header.seq != expected:
            raise damaged(path, 0, f"the segment before it is missing (number {expected})")
    for path, scan in segments[:-1]:
        if scan.torn_bytes:
            raise damaged(path, path.stat().st_size - scan.torn_bytes, "its end is missing, and a later segment exists")
    return Unsealed(open_log.records, open_log.sealed, segments)


def read_failures(output: Path, shard: str) -> dict[str, Failed]:
    """The failed rows of a shard, by row_id. Raises CheckpointDamaged."""
    path = output / failures_path(shard)
    if not path.exists():
        return {}
    try:
        return {failed.row_id: failed for failed in failures_of(read_part(path))}
    except KeyError as fault:
        raise CheckpointDamaged(
            f"{path} has no column {fault}", next_step=f"`batchvision verify {output}` lists what is whole"
        ) from fault


def apply_record(path: Path, run_state: RunState, record: Record) -> Exchange | None:
    """:meth:`RunState.apply` for a record of a file. Raises CheckpointDamaged."""
    try:
        return run_state.apply(record)
    except KeyError as fault:
        raise damaged(path, 0, f"a record names an exchange that is not open ({fault})") from fault


# ---------------------------------------------------------------------------------- recovering


class ShardRecovery:
    """Recovers one shard. ``classify`` reads every durable answer that was not classified. Blocking.

    With ``holds`` the rows of requests that may have been billed stay pending until a run without it. Each method is
    one step, in this order. Raises OSError, CheckpointDamaged.
    """

    def __init__(self, lock: OutputLock, sealer: Sealer, classify: Classify, holds: bool) -> None:
        self.run_state = RunState(sealer.tables, read_failures(lock.output, lock.shard))
        self.recovery = Recovery(held=holds)
        self.sealer = sealer
        self._output = lock.output
        self._classify = classify
        self._holds = holds
        self._unsealed = read_unsealed(lock.folder)
        self._sealed = max((scan.header.seq for _, scan in self._unsealed.segments), default=self._unsealed.sealed)
        self.run_state.load(self._unsealed.open_work)

    @property
    def next_seq(self) -> int:
        return self._sealed + 1

    def seal_segments(self) -> None:
        """Apply and seal the segments of earlier runs."""
        self.sealer.clean(self._unsealed.sealed)
        self.recovery = replace(self.recovery, torn_bytes=self._unsealed.torn_bytes)
        for path, scan in self._unsealed.segments:
            self.run_state.apply(scan.header)
            if scan.header.version == 1:
                self._apply_version_1(path, scan)
            else:
                self._apply(path, scan.records)
            self._seal(scan.header)

    def _apply(self, path: Path, records: Iterable[Record]) -> None:
        for record in records:
            self._count(record, apply_record(path, self.run_state, record))

    def _apply_version_1(self, path: Path, scan: Scan) -> None:
        """Journals of version 1 have no ``closed`` records: each exchange is classified where its end stands."""
        unread = set[str]()
        for record in scan.records:
            self._apply(path, (record,))
            if isinstance(record, Received | Ended):
                end = self._classify(self.run_state.open[record.exchange_id])
                self._apply(path, (closed(end, is_held=self._holds and is_unclear(end)),))
            elif isinstance(record, Accepted) and record.is_unread:
                unread.add(record.exchange_id)
        doubted = tuple(set(self.run_state.open) - unread)
        self.run_state.apply(ReadDoubts(scan.header.run_id, doubted, run_has_ended=True))

    def _count(self, record: Record, exchange: Exchange | None) -> None:
        completed = failed = False
        match record:
            case Closed() if exchange is not None and not exchange.intent.is_trial:
                completed, failed = record.completed is not None, record.failed is not None
            case Shared():
                completed = True
            case RowFailed(is_correction=False):
                failed = True
        now = self.recovery
        self.recovery = replace(now, completed=now.completed + completed, failed=now.failed + failed)

    def _seal(self, header: SegmentHeader, *, with_failures: bool = False) -> None:
        self.sealer.seal(ClosedSegment(header, self.sealer.cut(self.run_state, with_failures=with_failures)))
        self._sealed = header.seq

    def close_open(self, more: Sequence[Record] = ()) -> None:
        """Close what was cut off, and apply ``more``, in a segment of this run that is sealed at once."""
        records = [*self._ends(), *more]
        if records:
            segment = self.sealer.begin(self.next_seq, records)
            segment.log.close()
            self.run_state.apply(segment.header)
            self._apply(segment.log.path, records)
            self._seal(segment.header, with_failures=True)
        self.recovery = replace(self.recovery, tickets=tuple(self.run_state.open))

    def _ends(self) -> Iterator[Record]:
        """Exchanges with a ticket and no answer stay open."""
        unclosed = self.run_state.open.others
        is_done = _stored_answers(self._output, unclosed)
        for exchange in unclosed:
            end = self._classify(exchange)
            has_ended = exchange.answer is not None or exchange.ended is not None
            if not has_ended:
                self.recovery = replace(self.recovery, ambiguous=(*self.recovery.ambiguous, exchange.intent))
            is_held = self._holds and (is_unclear(end) or not has_ended)
            is_repeat = (exchange.intent.row_id, exchange.intent.request_key) in is_done
            yield _pending_if_exhausted(closed(end, is_held=is_held, is_repeat=is_repeat))
        if not self._holds:
            yield from (replace(carry, held=False) for carry in self.run_state.carries if carry.held)

    # ---------------------------------------------------------------------------- of a dead shard

    @property
    def run_ids(self) -> frozenset[str]:
        """The runs whose segments were not sealed."""
        return frozenset(scan.header.run_id for _, scan in self._unsealed.segments)

    @property
    def was_cut_off(self) -> bool:
        """Whether the last start was cut off between its seal and its first segment."""
        return self._unsealed.sealed > 0 and not self._unsealed.segments

    @property
    def is_orderly(self) -> bool:
        """Whether the last run ended in order. Then there is nothing to recover."""
        unsealed = self._unsealed
        records = [record for _, scan in unsealed.segments for record in scan.records]
        is_whole = not unsealed.torn_bytes and all(isinstance(record, ReadDoubts) for record in records)
        return is_whole and not self.run_state.open.others

    def load_orderly(self) -> None:
        """Instead of the steps before, for a run that ended in order: nothing is written."""
        for path, scan in self._unsealed.segments:
            self._apply(path, (scan.header, *scan.records))

    def has_rows_of(self, owns: Callable[[str], bool]) -> bool:
        """Whether a row that ``owns`` accepts has open work or a failure here."""
        state = self.run_state
        rows = chain((each.intent.row_id for each in state.open.values()), state.failures)
        return any(map(owns, chain(rows, (each.row_id for each in state.carries))))

    def give(self, owns: Callable[[str], bool], has: RunState) -> list[Record]:
        """Records that move rows to the state ``has`` of another shard. They are gone from this one.

        After a crash between two steps both states hold the same records. The later of two failures of a row counts.
        """
        state, given, tickets = self.run_state, list[Record](), set[str]()
        for exchange_id in list(state.open):
            exchange = state.open[exchange_id]
            if owns(exchange.intent.row_id):
                if exchange_id not in has.open:
                    given += records_of(exchange)
                    tickets.add(exchange.ticket or "")
                state.apply(ExchangeRemoved(exchange_id))
        for submission_id, submission in state.submissions.items():  # both may have exchanges of it, so both keep it
            if submission_id in tickets and submission_id not in has.submissions:
                given.append(submission)
        for failed in [each for each in state.failures.values() if owns(each.row_id)]:
            mine = has.failures.get(failed.row_id)
            if mine is None or mine.failed_at < failed.failed_at:
                given.append(RowFailed(failed))
            state.apply(FailureRemoved(failed.row_id))
        for carry in [each for each in state.carries if owns(each.row_id)]:
            if has.carries.get(carry.row_id, carry.request_key) is None:
                given.append(carry)
            state.apply(CarryRemoved(carry.row_id, carry.request_key))
        return given

    def let_go(self) -> None:
        """Commit what was given away, after the other shard has it."""
        header = self.sealer.header_of(self._sealed)
        self._seal(header, with_failures=True)
        self.sealer.close()


def _pending_if_exhausted(record: Closed) -> Closed:
    """Keep a row pending if its last attempt was cut off: this run has attempts left."""
    if record.failed is None or record.failed.error_kind != AttemptsExhausted.kind:
        return record
    state = AttemptState.RETRIED if record.state is AttemptState.FAILED else record.state
    return replace(record, state=state, failed=None)


def _stored_answers(output: Path, exchanges: Iterable[Exchange]) -> set[tuple[str, str]]:
    """The requests, by row_id and request_key, that have a result row. Only tickets of earlier runs can have one."""
    keys = sorted({each.intent.request_key for each in exchanges if each.ticket is not None})
    if not keys:
        return set()
    wanted = pa.array(keys, pa.string())
    tables = (table for path in part_paths(output, "results") for table in rows_with(path, "request_key", wanted))
    return {
        (row["row_id"], row["request_key"])
        for table in tables
        for row in table.select(["row_id", "request_key"]).to_pylist()
    }
