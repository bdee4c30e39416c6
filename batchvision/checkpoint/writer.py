"""The writer of an output: commits groups of records to the journal, and hands closed segments to the seal.

One group at a time is written. A segment that is large enough closes at the end of a group, and the run goes on in the
next segment. Closed segments are sealed one after the other, beside the run.

The first failed write ends the run, also on a full disk. No new request leaves, the reserve is given back, and
everything in memory is sealed into fresh files, once. Answers in flight go to the next segment. After a second failure
the journal takes nothing more. A seal that fails twice leaves its segment to the next start.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

import anyio

from batchvision.checkpoint.disk import disk_failed
from batchvision.checkpoint.journal import Group, Journal, Segment
from batchvision.checkpoint.journal_records import Record
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.reserve import Reserve
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.schema import Columns
from batchvision.checkpoint.sealing import ClosedSegment, Sealer
from batchvision.errors import DiskFailed, OutputHeld, StopRun
from batchvision.eventloop import Offload, OwnThread, Wakeup, loop_time
from batchvision.records import Exchange

#: So many closed segments may wait for their seal. Then no request leaves until one is sealed.
MOST_CLOSED = 4
#: The table ``failures`` is written at most once in so many seconds while a run lasts.
FAILURES_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class SealAfter:
    """Limits of booked rows that wait for a seal. The first one reached starts it."""

    attempts: int = 8_000
    journal_bytes: int = 32 * 1024 * 1024
    seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """Settings of one run's output.

    ``ticket_place`` is the base URL that gives this run's tickets. ``reserve_bytes`` is the space that
    :meth:`Store.recover` sets aside for answers in flight (``reserve.py``).
    """

    job_name: str
    run_id: str
    started_at: datetime
    columns: Columns
    keep_raw: bool = True
    #: looked up at each opening, so that a test can make parts small
    seal_after: SealAfter = field(default_factory=lambda: SealAfter())
    reserve_bytes: int = 0
    ticket_place: str | None = None


class Threads(NamedTuple):
    """Where blocking work runs: groups of the journal, seals, and waiting for an object store."""

    journal: Offload
    seal: Offload
    replication: Offload

    @classmethod
    def of(cls, offload: Offload | None) -> Threads:
        """``offload`` for all, or a thread of its own for each."""
        return cls(*(offload or OwnThread(f"batchvision-{name}") for name in ("writer", "sealer", "replication")))


class Projection(Protocol):
    """A view of a run that is kept up to date from its records."""

    def apply(self, record: Record, exchange: Exchange | None) -> None:
        """``exchange``: of an answer or a ``closed`` record, as it was before the record."""


def check_in_place(lock: OutputLock, segment: Segment) -> None:
    """Raise DiskFailed where the output was removed or replaced. Blocking."""
    for file in (lock.file, segment.log.file):
        file.check_in_place(lock.output)


class Writer:
    """Owns the journal. While :meth:`run` is not active, each caller of :meth:`durable` commits its own group."""

    def __init__(
        self,
        journal: Journal,
        run_state: RunState,
        sealer: Sealer,
        seal_after: SealAfter,
        lock: OutputLock,
        reserve: Reserve,
        threads: Threads,
    ) -> None:
        self.journal = journal
        self.closed: deque[ClosedSegment] = deque()  #: segments that wait for their seal, the oldest first
        self.is_running = False
        self.projections: list[Projection] = []
        self._run_state = run_state
        self._sealer = sealer
        self._seal_after = seal_after
        self._lock = lock
        self._reserve = reserve
        self._threads = threads
        self._failure: DiskFailed | None = None  #: the first failure of the disk
        self._seal_fault: OSError | None = None  #: of a seal that failed twice
        self._one_group, self._one_seal = asyncio.Lock(), asyncio.Lock()
        self._closed_changed = Wakeup()
        self._is_closing = False
        self._closed_at: float | None = None
        self._failures_at: float | None = None

    # ---------------------------------------------------------------------------- checks before a request

    @property
    def ending(self) -> StopRun | None:
        """Reason to end the run. No new request may leave."""
        return self._failure or self.journal.failure

    def check_disk(self) -> None:
        """Raises DiskFailed."""
        if self.ending is not None:
            raise self.ending

    def check_lock(self) -> None:
        """Check the lock before each request and each write. Raises OutputHeld."""
        if not self._lock.is_held:
            reason = OutputHeld(
                f"{self._lock.output} is not this process's (any more), so nothing more was sent: a forked child does "
                "not inherit its parent's run, and a lock on a shared file system or object store is lost when it was "
                "not renewed in time."
            )
            self.journal.fail(reason)
            raise reason

    async def ready(self) -> None:
        """Return when a request may leave: few enough closed segments wait for their seal. Raises StopRun."""
        while len(self.closed) >= MOST_CLOSED and self.ending is None:
            await self._closed_changed.wait()
        self.check_disk()
        self.check_lock()

    # ---------------------------------------------------------------------------- records

    def add(self, record: Record) -> Group:
        """Apply a record and append it, in one step. It is durable when the returned group is."""
        if self.journal.failure is not None:
            raise self.journal.failure
        self.note(record)
        return self.journal.gathering

    def note(self, record: Record) -> None:
        """:meth:`add` for a record that follows from durable ones. A journal that has failed no longer needs it."""
        exchange = self._run_state.apply(record)
        for projection in self.projections:
            projection.apply(record, exchange)
        if self.journal.failure is None:
            self.journal.append(record)

    async def durable(self, record: Record) -> None:
        """:meth:`add`, and return when it is durable. Raises DiskFailed or OutputHeld where it never will be."""
        group = self.add(record)
        if not self.is_running:
            await self.commit()
        await group.durable()

    async def flush(self) -> None:
        """Return when every appended record is durable."""
        group = self.journal.gathering
        if group.bodies:
            with anyio.CancelScope(shield=True):
                if not self.is_running:
                    await self.commit()
                await group.durable()

    async def run(self) -> None:
        """Commit group after group until :meth:`close`, and seal beside it.

        Raises DiskFailed: then no new request may leave, and answers in flight are stored if the disk takes them.
        """
        self.is_running = True
        try:
            async with anyio.create_task_group() as beside:
                beside.start_soon(self._seal_beside)
                with suppress(StopRun):  # raised below, outside the task group
                    while not self._is_closing and self.ending is None:
                        await self.journal.gathering.filled(self._seal_after.seconds)
                        await self.commit()
                beside.cancel_scope.cancel()
            self.check_disk()
        finally:
            self.is_running = False
            if self.journal.failure is None:
                with anyio.CancelScope(shield=True):
                    await self.commit()

    # ---------------------------------------------------------------------------- groups

    async def commit(self, *, closes: bool = False) -> None:
        """Write the gathered records. ``closes``: close the segment with them, also a small one."""
        async with self._one_group:
            with anyio.CancelScope(shield=True):
                await self._write(closes or (self.ending is None and self.is_seal_due()))
        if not self.is_running:
            await self.seal_closed()

    async def _write(self, closes: bool) -> None:
        """The cut is taken together with the group: it is the state after the segment's last record."""
        self.check_lock()
        group, segment = self.journal.take(), self.journal.segment
        cut = self._cut(segment, with_failures=self._is_closing) if closes else None
        groups, doing = [group], f"writing the journal {segment.log.path}"
        with self.journal.failing(doing, groups):
            try:
                if group.bodies:
                    await self._threads.journal(self._append, segment, group.bodies)
                group.settle()
            except OSError as fault:  # seal everything in memory, with this group
                self._note_failure(doing, fault)
                if cut is None:
                    groups.append(self.journal.take())
                    cut = self._cut(segment, with_failures=True)
                await self._seal_all(cut)
            else:
                if cut is not None:
                    self._close_segment(cut)
            if cut is not None:
                await self._begin_after(segment)
        for each in groups:
            each.settle()

    def _close_segment(self, cut: ClosedSegment) -> None:
        self.closed.append(cut)
        self._closed_changed.tell()

    async def _seal_all(self, *closed: ClosedSegment) -> None:
        """Raises the error of the seal."""
        for each in closed:
            self._close_segment(each)
        await self.seal_closed()
        if self._seal_fault is not None:
            raise self._seal_fault

    async def _begin_after(self, segment: Segment) -> None:
        try:
            self.journal.segment = await self._threads.journal(self._begin, segment)
        except OSError as fault:
            self._note_failure(f"beginning a segment in {segment.log.path.parent}", fault)
            await self._seal_all()
            self.journal.segment = await self._threads.journal(self._begin, segment)

    def _append(self, segment: Segment, bodies: list[bytes]) -> None:
        segment.log.append(bodies)
        check_in_place(self._lock, segment)

    def _begin(self, old: Segment) -> Segment:
        """The segment after ``old``. Runs off the loop."""
        new = self._sealer.begin(old.header.seq + 1)
        old.log.close()
        check_in_place(self._lock, new)
        return new

    def _note_failure(self, doing: str, fault: OSError) -> None:
        """Free the reserve after the first failure. Raises ``fault`` after the second."""
        if self._failure is not None:
            raise fault
        self._failure = disk_failed(doing, fault)
        self._reserve.give_back()
        self._closed_changed.tell()
        self.journal.gathering.hurry()

    # ---------------------------------------------------------------------------- seals

    def is_seal_due(self) -> bool:
        now = loop_time()
        if self._closed_at is None:
            self._closed_at = self._failures_at = now
        run_state, limit = self._run_state, self._seal_after
        return (
            max(run_state.attempts.count, run_state.results.count) >= limit.attempts
            or self.journal.segment.log.appended_bytes >= limit.journal_bytes
            or (now - self._closed_at >= limit.seconds and run_state.has_unsealed)
        )

    def _cut(self, segment: Segment, *, with_failures: bool) -> ClosedSegment:
        now = self._closed_at = loop_time()
        if with_failures or self._failures_at is None or now - self._failures_at >= FAILURES_SECONDS:
            self._failures_at, with_failures = now, True
        return ClosedSegment(segment.header, self._sealer.cut(self._run_state, with_failures=with_failures))

    async def _seal_beside(self) -> None:
        while True:
            while not self.closed or self._seal_fault is not None:
                await self._closed_changed.wait()
            with anyio.CancelScope(shield=True), suppress(StopRun):  # it is the reason to end the run
                await self.seal_closed()

    async def seal_closed(self) -> None:
        """Seal the closed segments, the oldest first. After a seal that failed twice they stay."""
        async with self._one_seal:
            while self.closed and self._seal_fault is None:
                try:
                    await self._threads.seal(self._seal, self.closed[0])
                except OSError as fault:
                    await self._seal_again(fault)
                except StopRun as fault:
                    self.journal.fail(fault)
                    raise
                else:
                    self.closed.popleft()
                    self._closed_changed.tell()

    async def _seal_again(self, fault: OSError) -> None:
        """The next round of the caller tries once more, with the space of the reserve."""
        try:
            self._note_failure(f"sealing {self._lock.output}", fault)
        except OSError:
            self._seal_fault = fault

    def _seal(self, closed: ClosedSegment) -> None:
        """Seal where the folder still belongs to this run. Runs off the loop."""
        if not self._lock.is_held:
            raise OutputHeld(f"{self._lock.output} is not this process's any more: its last segments were not sealed")
        self._lock.file.check_in_place(self._lock.output)
        self._sealer.seal(closed)
        self._lock.file.check_in_place(self._lock.output)

    async def close(
        self, before_the_last_seal: Callable[[], None], at_the_end: Callable[[], Iterable[Record]] = tuple
    ) -> None:
        """Commit, seal, and append ``at_the_end``; after a failure only commit. Raises DiskFailed."""
        self._is_closing = True
        if self.journal.failure is not None:
            return
        with anyio.CancelScope(shield=True):
            if self.ending is None:
                before_the_last_seal()
                await self.commit(closes=self._run_state.has_unsealed)
                await self.seal_closed()
            if self.ending is None:
                for record in at_the_end():
                    self.add(record)
            await self.commit()
            self.journal.gathering.hurry()
        self._reserve.give_back()  # room for the summary
        self.check_disk()
