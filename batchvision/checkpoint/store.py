"""The checkpoint of a run: the one owner of an output's files.

A run calls :meth:`Store.open` (lock, columns), :meth:`Store.recover` (what a crash left becomes parts) and
:meth:`Store.row_index` (done rows), then :meth:`Store.run` beside the lanes, and :meth:`Store.close`.

A record is durable when its method returns. The store classifies no answer: ends come from the caller, live and on
replay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

from batchvision.checkpoint import compaction, figures, summaries
from batchvision.checkpoint.disk import disk_failures
from batchvision.checkpoint.journal import Journal
from batchvision.checkpoint.journal_records import (
    Accepted,
    BookedEnd,
    FailureRemoved,
    ReadDoubts,
    Received,
    Record,
    RowFailed,
    SegmentHeader,
    Shared,
    Voided,
    closed,
)
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.manifest_index import write_index
from batchvision.checkpoint.parts import part_paths, remove_leftovers
from batchvision.checkpoint.poll_watch import PollWatch
from batchvision.checkpoint.record_json import masked_answer
from batchvision.checkpoint.recovery import Classify, Recovery, ShardRecovery
from batchvision.checkpoint.registry import register
from batchvision.checkpoint.replicated_tickets import ReplicatedTickets
from batchvision.checkpoint.reserve import RESERVE_NAME, Reserve
from batchvision.checkpoint.row_index import RowIndex
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.schema import TableSchemas
from batchvision.checkpoint.sealing import Sealer
from batchvision.checkpoint.shards import lock_shard
from batchvision.checkpoint.storage import Disk
from batchvision.checkpoint.stored_answers import answers_to, by_request_key
from batchvision.checkpoint.submissions import SubmissionRecords
from batchvision.checkpoint.takeover import Takeover
from batchvision.checkpoint.writer import Projection, StoreSettings, Threads, Writer
from batchvision.errors import DiskFailed, StopRun
from batchvision.eventloop import Offload
from batchvision.records import (
    Completed,
    Exchange,
    Failed,
    Intent,
    PartFile,
    RawAnswer,
    RunFigures,
    RunSummary,
    Shard,
)
from batchvision.secrets import Secrets


class Store:
    """One output (and shard), held by this process. Leaving the context releases it without writing."""

    submissions: SubmissionRecords  #: of the batch lane, after :meth:`recover`

    def __init__(
        self,
        lock: OutputLock,
        owns_lock: bool,
        settings: StoreSettings,
        tables: TableSchemas,
        secrets: Secrets,
        disk: Disk,
        threads: Threads,
    ) -> None:
        self.output = lock.output
        self.folder = lock.folder
        self._lock = lock
        self._owns_lock = owns_lock
        self._settings = settings
        self._secrets = secrets
        self._reserve = Reserve(disk, lock.folder / RESERVE_NAME, settings.reserve_bytes)
        self._disk = disk
        self._tables = tables
        header = SegmentHeader(settings.job_name, settings.run_id, settings.started_at, lock.shard, 0)
        self._sealer = Sealer(lock, header, tables, disk)
        self._threads = threads
        self._run_state = RunState(tables)
        self.polls = PollWatch()  #: the lane notes each poll in it
        self._row_index: RowIndex | None = None
        self._opened: Writer | None = None
        self._tickets = ReplicatedTickets(partial(threads.replication, disk.replicate), str(lock.output))

    # ---------------------------------------------------------------------------- opening

    @staticmethod
    def lock(output: Path, shard: str = "0of1", disk: Disk | None = None) -> OutputLock:
        """Lock an output before anything else is done with it. Raises OutputHeld at once."""
        return lock_shard(output, Shard.named(shard), disk)

    @classmethod
    def open(
        cls,
        where: Path | OutputLock,
        settings: StoreSettings,
        *,
        shard: str = "0of1",
        secrets: Secrets | None = None,
        disk: Disk | None = None,
        offload: Offload | None = None,
    ) -> Store:
        """Open an output. A lock that is passed in stays the caller's. ``disk``: by default that of the lock.

        Raises OutputHeld, JobInvalid (another job's output, a changed column type), CheckpointDamaged, DiskFailed.
        """
        lock = where if isinstance(where, OutputLock) else cls.lock(where, shard, disk)
        disk, secrets, padded = disk or lock.disk, secrets or Secrets(), list[Path]()
        try:
            with disk_failures(f"opening {lock.output}"):
                columns = register(disk, lock.output, settings.job_name, settings.columns, padded.append)
        except BaseException:
            if lock is not where:
                lock.release()
            raise
        tables = TableSchemas(settings.job_name, columns, secrets.mask, settings.keep_raw)
        store = cls(lock, lock is not where, settings, tables, secrets, disk, Threads.of(offload))
        store._sealer.find(padded)
        return store

    def recover(self, classify: Classify, hold: bool = False) -> Recovery:
        """Seal the segments of the last run under its name, and begin this run's journal.

        ``classify`` reads every durable answer that was not classified. Requests in flight are booked as ambiguous.
        With ``hold`` their rows stay pending until a run without it. Journals of dead runs on other shards are
        recovered too. After a crash in here the next start does the same again. Raises CheckpointDamaged, DiskFailed.
        """
        with disk_failures(f"recovering {self.output}"):
            self._reserve.give_back()
            remove_leftovers(self._disk, self.output, self._lock.shard)
            compaction.finish(self._disk, self.output, self._lock.shard)
            own = ShardRecovery(self._lock, self._sealer, classify, hold)
            own.seal_segments()
            takeover = Takeover(self._disk, self._lock, self._sealer, classify, hold)
            with takeover.moving(own.run_state) as moved:
                own.close_open(moved)
            if own.was_cut_off or not all(summaries.has_ended(self.output, run_id) for run_id in own.run_ids):
                self._sealer.find(summaries.unlisted(self.output, self._lock.shard))
        with disk_failures(f"setting room aside in {self._lock.folder} for the answers in flight"):
            self._reserve.claim()
        with disk_failures(f"recovering {self.output}"):
            segment = self._sealer.begin(own.next_seq)
        self._run_state = own.run_state
        self._run_state.apply(segment.header)
        self._opened = Writer(
            Journal(segment, self._secrets.mask),
            self._run_state,
            self._sealer,
            self._settings.seal_after,
            self._lock,
            self._reserve,
            self._threads,
        )
        place = self._settings.ticket_place
        self.submissions = SubmissionRecords(self._opened, self._run_state, place, self._tickets)
        return own.recovery.plus(replace(takeover.recovery, tickets=()))

    def row_index(self, recipe_id: str) -> RowIndex:
        """Index the state of every row, from the parts of all shards and the open records of this shard."""
        self._row_index = RowIndex.read(self.output, self._run_state, recipe_id)
        for failed in self.failures():
            if failed.request_key and self._row_index.is_done(failed.row_id, failed.request_key):
                self._writer.note(FailureRemoved(failed.row_id))
        return self._row_index

    def project(self, projection: Projection) -> None:
        """Hand each further record to ``projection``, in the step that applies it to the run state."""
        self._writer.projections.append(projection)

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Release the files and the lock, as a crash would. The next start recovers the journal."""
        if self._opened is not None:
            self._opened.journal.segment.log.close()
        self._sealer.close()
        with suppress(OSError):
            (self._lock.folder / figures.FILE_NAME).unlink()
        with suppress(DiskFailed):
            self._lock.file.check_in_place(self.output)  # a folder that was replaced is not this run's
            self._reserve.give_back()
        if self._owns_lock:
            self._lock.release()

    # ---------------------------------------------------------------------------- records of the lanes

    async def intent(self, intent: Intent) -> None:
        """Return when the intent is durable (P2). Only then may its request leave. Raises DiskFailed, OutputHeld."""
        writer = self._writer
        await writer.ready()
        try:
            await writer.durable(intent)
            writer.check_disk()
        except StopRun:  # durable or not, the request does not leave
            if intent.exchange_id in self._run_state.open:
                self.void(intent.exchange_id)
            raise

    async def ticket(self, exchange_id: str, ticket: str, at: datetime) -> None:
        """Return when the ticket is durable (P2). Only then may it be polled."""
        await self._writer.durable(Accepted(exchange_id, ticket, at, self._settings.ticket_place))
        self._tickets.add(exchange_id)

    def check_lock(self) -> None:
        """Raise OutputHeld if another process may hold the output by now."""
        self._writer.check_lock()

    async def outlasts(self, exchange_id: str) -> None:
        """Return when the ticket outlives this machine (P2). Only then may it be polled. Raises StopRun."""
        self.check_lock()
        await self._tickets.outlasts(exchange_id)

    def exchange(self, exchange_id: str) -> Exchange:
        """An open exchange. Raises KeyError."""
        return self._run_state.open[exchange_id]

    def is_unread(self, exchange_id: str) -> bool:
        """Whether no poll can have taken the answer of this ticket of an earlier run."""
        of_this_run = self.exchange(exchange_id).intent.run_id == self._settings.run_id
        is_doubted = exchange_id in self._run_state.doubted or self.polls.is_doubted(exchange_id)
        return not of_this_run and not is_doubted

    async def answer(self, exchange_id: str, raw: RawAnswer) -> RawAnswer:
        """Return the stored answer, with secrets masked, when it is durable (P3). Only then may it be read."""
        written = masked_answer(raw, self._secrets)
        await self._writer.durable(Received(exchange_id, written))
        return written

    def void(self, exchange_id: str) -> None:
        """Record that the intent's request was never sent."""
        self._writer.note(Voided(exchange_id))

    def book(self, exchange_id: str, end: BookedEnd, hold: bool = False) -> None:
        """Close an exchange. Raises KeyError where it is not open.

        ``hold``: the row stays pending until a run that sends ambiguous rows again.
        """
        intent, index = end.attempt.intent, self._row_index
        is_repeat = index is not None and index.is_done(intent.row_id, intent.request_key)
        is_own = intent.run_id == self._settings.run_id and not intent.is_redo
        if index is not None and is_own and not isinstance(end.outcome, Completed):
            index.met.add_open(intent.row_id, intent.request_key)
        self._writer.note(closed(end, is_held=hold, is_repeat=is_repeat))

    def file(self, failed: Failed, *, is_correction: bool = False) -> bool:
        """Book a row that failed before anything was sent. False: its stored failure is the same, and stays.

        ``is_correction``: the stored failure is replaced, and the row did not fail again.
        """
        before = self._run_state.failures.get(failed.row_id)
        if self._row_index is not None and (key := failed.request_key or failed.skip_key):
            self._row_index.met.add_open(failed.row_id, key)
        stored = replace(failed, at_provider=False)
        is_new = before is None or replace(stored, failed_at=before.failed_at, run_id=before.run_id) != before
        if is_new:
            self._writer.note(RowFailed(failed, is_correction))
        return is_new

    def keep_failed(self, row_id: str, key: str, skip_key: str | None = None) -> None:
        """Keep the row failed beyond a complete pass. A record of the ledger, which lacks it, gets ``skip_key``."""
        failed = None if self._row_index is None else self._row_index.failed_before(row_id, key)
        if failed is not None and skip_key is not None and not failed.skip_key:
            self._writer.note(RowFailed(replace(failed, skip_key=skip_key), is_correction=True))

    def share(self, completed: Completed) -> None:
        """Book a row whose answer is durable already: of an identical request, or under another key."""
        self._writer.note(Shared(completed))

    async def seal_if_due(self) -> None:
        if self._writer.is_seal_due():
            await self._writer.commit()

    async def answers(self, request_keys: Set[str], offload: Offload | None = None) -> dict[str, list[Completed]]:
        """Return the completed rows with the given keys, by request_key. ``offload`` reads parts beside the seals."""
        newest = [each for each in self._run_state.results.newest if each.request_key in request_keys]
        tables = [table for each in self._writer.closed for table in each.cut.results] + self._run_state.results.tables
        paths, columns = part_paths(self.output, "results"), self._tables.columns
        stored = await (offload or self._threads.seal)(answers_to, request_keys, tables, paths, columns)
        return by_request_key(chain(newest, stored))

    # ---------------------------------------------------------------------------- the writer

    async def run(self) -> None:
        """Commit and seal until :meth:`close`. See :meth:`Writer.run`."""
        await self._writer.run()

    async def flush(self) -> None:
        """Return when every record is durable."""
        await self._writer.flush()

    @property
    def takes_answers(self) -> bool:
        """False: the journal has failed, and no further answer can be stored."""
        return self._writer.journal.failure is None

    async def close(self, complete: bool) -> None:
        """Seal every booked row. After a failed write the next run recovers the journal. Raises DiskFailed.

        ``complete``: the feed has passed over the whole manifest. Then ``failures/`` loses the rows that it did not
        meet.
        """

        def drop_unseen() -> None:
            met = None if self._row_index is None else self._row_index.met
            for failed in self.failures():  # a limited pass knows rows by their skip_keys only
                if met and (complete or (met.is_complete and failed.skip_key)) and not met.has(failed):
                    self._writer.note(FailureRemoved(failed.row_id))

        def doubts() -> Iterator[Record]:
            doubted = self._run_state.doubted | self.polls.doubted
            yield ReadDoubts(self._settings.run_id, tuple(sorted(doubted)), run_has_ended=True)

        await self._writer.close(drop_unseen, doubts)

    async def write_index(self) -> None:
        """Write the index of the manifest after :meth:`close`, if a pass over the whole manifest is complete.

        Raises DiskFailed, CheckpointDamaged.
        """
        met = None if self._row_index is None else self._row_index.met
        if met is None or not met.is_complete:
            return
        with disk_failures(f"writing the index of the manifest in {self.folder}"):
            named = (self.output, self._lock.shard, self._settings.run_id)
            await self._threads.seal(write_index, self._disk, *named, met, self.failures())

    def write_recipe(self, recipe_id: str, document: Mapping[str, Any]) -> None:
        summaries.write_recipe(self._disk, self.output, recipe_id, document, self._secrets, self._lock.shard)

    def note_figures(self, now: RunFigures) -> None:
        """Write the figures of the run for ``status``. Blocking. A failing disk is left to the journal to find."""
        with suppress(OSError):
            figures.write(self._disk, self._lock.folder, now, self._secrets)

    def write_summary(self, summary: RunSummary) -> None:
        self._lock.file.check_in_place(self.output)
        summaries.write_summary(self._disk, self.output, summary, self._secrets, self._lock.shard)

    # ---------------------------------------------------------------------------- queries

    def parts_to_list(self) -> tuple[PartFile, ...]:
        """Parts for the summary: of this run, of killed runs, padded ones, and ``failures`` as it is now."""
        return tuple(self._sealer.listed().values())

    def failures(self) -> tuple[Failed, ...]:
        """The rows that are failed now."""
        return tuple(self._run_state.failures.values())

    @property
    def tickets_open(self) -> int:
        return len(self._run_state.open.tickets)

    @property
    def oldest_ticket_at(self) -> datetime | None:
        """When the provider accepted the first of the open tickets."""
        return next((exchange.accepted_at for exchange in self._run_state.open.accepted()), None)

    @property
    def cut_off(self) -> tuple[Exchange, ...]:
        """Open exchanges that no lane will end: without a ticket, or answered while their lane was cancelled."""
        return tuple(self._run_state.open.others)

    @property
    def held_count(self) -> int:
        """Rows of the manifest that ``ambiguous = "hold"`` keeps pending."""
        met = None if self._row_index is None else self._row_index.met
        return sum(carry.held and (met is None or met.has(carry)) for carry in self._run_state.carries)

    @property
    def _writer(self) -> Writer:
        if self._opened is None:
            raise RuntimeError("recover() comes before anything is written")
        return self._opened
