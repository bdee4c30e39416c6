"""The one writer: groups go to the journal, what is booked becomes parts, both as long as the disk lets them.

The rule: one group, or one seal, at a time. The same write or fsync is never made twice. When the disk fails nothing
new may begin, and answers that still come are written where it still takes them: to the old segment when a seal failed,
to fresh files when the segment did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import anyio

from batchvision.checkpoint.books import Books, Cut
from batchvision.checkpoint.disk import disk_failed, disk_failures
from batchvision.checkpoint.entries import Entry
from batchvision.checkpoint.identity import output_gone
from batchvision.checkpoint.journal import Group, Journal, Segment
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.reserve import Reserve
from batchvision.checkpoint.sealing import Sealer
from batchvision.errors import DiskFailed, OutputHeld
from batchvision.eventloop import loop_time
from batchvision.offload import Offload


@dataclass(frozen=True, slots=True)
class SealAfter:
    """When what has been booked becomes parts: whichever comes first."""

    attempts: int = 4_000
    journal_bytes: int = 16 * 1024 * 1024
    seconds: float = 600.0


def check_in_place(lock: OutputLock, segment: Segment) -> None:
    """Raises DiskFailed where the output was removed or replaced. Blocking."""
    lock.check_in_place()
    with disk_failures(f"looking for {segment.path}"):
        if not segment.is_in_place:
            raise output_gone(lock.output, segment.path)


class Writer:
    """Owns the open journal. ``run`` commits while a run lasts; before and after, who waits commits for himself."""

    def __init__(
        self,
        journal: Journal,
        books: Books,
        sealer: Sealer,
        seal_after: SealAfter,
        lock: OutputLock,
        reserve: Reserve,
        offload: Offload,
    ) -> None:
        self.journal = journal
        self.is_running = False
        self._books = books
        self._sealer = sealer
        self._seal_after = seal_after
        self._lock = lock
        self._reserve = reserve
        self._offload = offload
        self._has_failed: DiskFailed | None = None
        self._turn = asyncio.Lock()
        self._is_closing = False
        self._sealed_at: float | None = None

    # ---------------------------------------------------------------------------- may anything begin?

    @property
    def ending(self) -> DiskFailed | None:
        """Why the run is to end: the disk has failed. Nothing new may begin, and what still comes is written."""
        return self._has_failed or self._reserve.used_up

    def check_disk(self) -> None:
        """Raises DiskFailed."""
        if self.ending is not None:
            raise self.ending

    def check_lock(self) -> None:
        """Nothing is sent for, or written to, what has become another's. Raises OutputHeld."""
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
        """Return when the record is durable. Raises DiskFailed, OutputHeld where it will never be."""
        await self._settled(self.journal.append(entry))

    async def flush(self) -> None:
        """Return when everything that was handed in is durable."""
        if self.journal.gathering.bodies:
            with anyio.CancelScope(shield=True):
                await self._settled(self.journal.gathering)

    async def _settled(self, group: Group) -> None:
        if not self.is_running:  # nobody else will
            await self.commit()
        await group.durable()

    async def run(self) -> None:
        """Commit group after group until :meth:`close`. Raises DiskFailed: then nothing new may begin, and answers that
        still come are written by those who wait for them, if the disk lets them."""
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
        """What was booked before is in the books still, or in a part that has its name."""
        async with self._turn:
            yield

    async def commit(self) -> None:
        """Write what has gathered, and seal if it is time."""
        async with self._turn:
            with anyio.CancelScope(shield=True):
                await self._write()
                if self.ending is None and self.is_seal_due():
                    await self._seal()
                elif self._books.attempts.has_group:  # of completed rows others may ask for the answers
                    await self._offload(self._books.attempts.encode)

    async def _write(self) -> None:
        self.check_lock()
        await self.journal.commit(None if self._has_failed else self._go_elsewhere)

    async def _go_elsewhere(self, fault: OSError) -> None:
        """The segment has failed: all that is in memory goes to fresh files, once."""
        self._has_failed = disk_failed(f"writing the journal {self.journal.segment.path}", fault)
        await self._seal()

    # ---------------------------------------------------------------------------- seals

    def is_seal_due(self) -> bool:
        now = loop_time()
        if self._sealed_at is None:
            self._sealed_at = now
        books, limit = self._books, self._seal_after
        return (
            max(len(books.attempts), len(books.completed)) >= limit.attempts
            or self.journal.segment.appended_bytes >= limit.journal_bytes
            or (books.has_unsealed and now - self._sealed_at >= limit.seconds)
        )

    async def _seal(self) -> None:
        """Parts, then a new segment with all that is open, then the old segment goes.

        What gathers for the next group while this runs is part of the cut, so the new segment makes it durable too.
        Where the disk fails before that, the old segment goes on as the journal, unless it is the one that has failed.
        """
        journal, has_failed_before = self.journal, self._has_failed is not None
        group, cut, old = journal.take(), self._books.cut(), journal.segment
        doing = f"sealing {self._lock.output}"
        with journal.failing(doing, group):
            try:
                journal.segment = await self._offload(partial(self._turn_segment, old, cut))
            except OSError as fault:
                if has_failed_before or self._sealer.has_turned(old):
                    raise
                self._has_failed = disk_failed(doing, fault)
                await self._offload(partial(old.append, group.bodies))
        if self._has_failed is None and self._sealer.fault is not None:
            self._has_failed = disk_failed(doing, self._sealer.fault)
        group.settle()
        self._sealed_at = loop_time()

    def _turn_segment(self, old: Segment, cut: Cut) -> Segment:
        """Off the loop. Into a folder that is not this run's any more nothing is written."""
        check_in_place(self._lock, old)
        new = self._sealer.turn(old, cut)
        check_in_place(self._lock, new)
        return new

    async def close(
        self, before_the_last_seal: Callable[[], None], at_the_end: Callable[[], Iterable[Entry]] = tuple
    ) -> None:
        """Commit and seal what there is, then write ``at_the_end``; after a failed write only commit. Raises
        DiskFailed."""
        self._is_closing = True
        if self.journal.failure is not None:
            return
        with anyio.CancelScope(shield=True):
            async with self._turn:
                await self._write()
                if self.ending is None:
                    before_the_last_seal()
                    if self._books.has_unsealed:
                        await self._seal()
                    for entry in at_the_end():
                        self.journal.append(entry)
                    await self._write()
                self.journal.gathering.hurry()
        self.check_disk()
