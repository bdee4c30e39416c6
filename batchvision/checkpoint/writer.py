"""The writer of an output: commits groups of records to the journal, and seals booked rows into parts.

One group, or one seal, runs at a time. The first failed write, full disk included, ends the run: no new request leaves,
the reserve is given back, and everything in memory is sealed into fresh files, once. Answers in flight go to the new
segment. After a second failure the journal takes nothing more. No write and no fsync is tried again on the same file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime

import anyio

from batchvision.checkpoint.disk import disk_failed
from batchvision.checkpoint.entries import Entry
from batchvision.checkpoint.journal import Journal, Segment
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.reserve import Reserve
from batchvision.checkpoint.run_state import Cut, RunState
from batchvision.checkpoint.schema import Columns
from batchvision.checkpoint.sealing import Sealer
from batchvision.errors import DiskFailed, OutputHeld, StopRun
from batchvision.eventloop import loop_time
from batchvision.offload import Offload


@dataclass(frozen=True, slots=True)
class SealAfter:
    """Limits of booked rows that wait for a seal. The first one reached starts it."""

    attempts: int = 4_000
    journal_bytes: int = 16 * 1024 * 1024
    seconds: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """What a run writes into its output.

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


def check_in_place(lock: OutputLock, segment: Segment) -> None:
    """Raise DiskFailed where the output was removed or replaced. Blocking."""
    for file in (lock.file, segment.file):
        file.check_in_place(lock.output)


class Writer:
    """Owns the open journal. While :meth:`run` is not active, each caller of :meth:`durable` commits its own group."""

    def __init__(
        self,
        journal: Journal,
        run_state: RunState,
        sealer: Sealer,
        seal_after: SealAfter,
        lock: OutputLock,
        reserve: Reserve,
        offload: Offload,
    ) -> None:
        self.journal = journal
        self.is_running = False
        self._run_state = run_state
        self._sealer = sealer
        self._seal_after = seal_after
        self._lock = lock
        self._reserve = reserve
        self._offload = offload
        self._failure: DiskFailed | None = None  #: the first failure of the disk
        self._one_at_a_time = asyncio.Lock()
        self._is_closing = False
        self._sealed_at: float | None = None

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
                "not inherit its parent's run, and a lease on a shared file system is lost when it was not renewed in "
                "time."
            )
            self.journal.fail(reason)
            raise reason

    # ---------------------------------------------------------------------------- groups

    async def durable(self, entry: Entry) -> None:
        """Return when the record is durable. Raises DiskFailed or OutputHeld where it never will be."""
        group = self.journal.append(entry)
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
        """Commit group after group until :meth:`close`.

        Raises DiskFailed: then no new request may leave, and answers in flight are stored if the disk takes them.
        """
        self.is_running = True
        try:
            while not self._is_closing:
                await self.journal.gathering.filled(self._seal_after.seconds)
                await self.commit()
                self.check_disk()
        finally:
            self.is_running = False
            if self.journal.failure is None:
                with anyio.CancelScope(shield=True):
                    await self.commit()

    @asynccontextmanager
    async def between_seals(self) -> AsyncIterator[None]:
        """Inside the block each booked row is either in memory or in a part with its final name."""
        async with self._one_at_a_time:
            yield

    async def commit(self) -> None:
        """Write the gathered records, and seal if a limit is reached."""
        async with self._one_at_a_time:
            with anyio.CancelScope(shield=True):
                await self._write()
                if self.ending is None and self.is_seal_due():
                    await self._seal()
                elif self._run_state.attempts.has_group:  # completed rows stay Arrow: the deduplicator reads them
                    await self._offload(self._run_state.attempts.encode)

    async def _write(self) -> None:
        self.check_lock()
        await self.journal.commit(self._rescue)

    async def _rescue(self, fault: OSError) -> None:
        """The segment has failed: everything in memory goes to fresh files."""
        self._note_failure(f"writing the journal {self.journal.segment.path}", fault)
        await self._seal()

    def _note_failure(self, doing: str, fault: OSError) -> None:
        """Free the reserve after the first failure. Raises ``fault`` after the second."""
        if self._failure is not None:
            raise fault
        self._failure = disk_failed(doing, fault)
        self._reserve.give_back()

    # ---------------------------------------------------------------------------- seals

    def is_seal_due(self) -> bool:
        now = loop_time()
        if self._sealed_at is None:
            self._sealed_at = now
        run_state, limit = self._run_state, self._seal_after
        return (
            max(len(run_state.attempts), len(run_state.completed)) >= limit.attempts
            or self.journal.segment.appended_bytes >= limit.journal_bytes
            or (run_state.has_unsealed and now - self._sealed_at >= limit.seconds)
        )

    async def _seal(self) -> None:
        """Write parts, then a new segment with the open records, then remove the old segment.

        Gathered records are part of the cut, so the new segment makes them durable too. All files have the same names
        and contents when a seal is made again.
        """
        self.check_lock()
        journal, doing = self.journal, f"sealing {self._lock.output}"
        group, cut, old = journal.take(), self._run_state.cut(), journal.segment
        with journal.failing(doing, group):
            try:
                journal.segment = await self._offload(self._replace_segment, old, cut)
            except OSError as fault:
                self._note_failure(doing, fault)
                journal.segment = await self._offload(self._replace_segment_again, old, cut)
        group.settle()
        self._sealed_at = loop_time()

    def _replace_segment(self, old: Segment, cut: Cut) -> Segment:
        """Seal where the folder still belongs to this run. Runs off the loop."""
        check_in_place(self._lock, old)
        return self._replace_segment_again(old, cut)

    def _replace_segment_again(self, old: Segment, cut: Cut) -> Segment:
        """Seal without a look at the old segment: a seal that failed may have removed it already."""
        self._lock.file.check_in_place(self._lock.output)
        new = self._sealer.replace_segment(old, cut)
        check_in_place(self._lock, new)
        return new

    async def close(
        self, before_the_last_seal: Callable[[], None], at_the_end: Callable[[], Iterable[Entry]] = tuple
    ) -> None:
        """Commit, seal, and append ``at_the_end``; after a failure only commit. Raises DiskFailed."""
        self._is_closing = True
        if self.journal.failure is not None:
            return
        with anyio.CancelScope(shield=True):
            async with self._one_at_a_time:
                await self._write()
                if self.ending is None:
                    before_the_last_seal()
                    if self._run_state.has_unsealed:
                        await self._seal()
                    for entry in at_the_end():
                        self.journal.append(entry)
                    await self._write()
                self.journal.gathering.hurry()
        self._reserve.give_back()  # room for the summary
        self.check_disk()
