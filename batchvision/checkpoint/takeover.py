"""Recover the journals that dead runs left on other shards of an output, and take over the rows of our own shard.

A crash is harmless after each of three steps. First the dead shard is recovered under its own name. Then our segment is
sealed, with the rows taken over. Then ``open.log`` and failures of the dead shard are written without these rows.
Between the last two steps both shards hold the same records of a row. No request is sent before the third step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from batchvision.checkpoint import compaction, summaries
from batchvision.checkpoint.journal_records import ReadDoubts, Record
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.parts import remove_leftovers
from batchvision.checkpoint.recovery import Classify, Recovery, ShardRecovery
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.sealing import Sealer
from batchvision.checkpoint.shards import mutex, shards_of
from batchvision.checkpoint.storage import Disk
from batchvision.errors import OutputHeld
from batchvision.records import Shard


class Takeover:
    """Recovers the dead shards of an output for the run on ``own``. Blocking. The run sends no request meanwhile."""

    def __init__(self, disk: Disk, own: OutputLock, sealer: Sealer, classify: Classify, holds: bool) -> None:
        self.recovery = Recovery()  #: of all dead shards together
        self._disk = disk
        self._output = own.output
        self._shard = Shard.named(own.shard)
        self._sealer = sealer
        self._classify = classify
        self._holds = holds

    @contextmanager
    def moving(self, own: RunState) -> Iterator[list[Record]]:
        """Inside the block the caller makes the records durable. They move our rows of every dead shard to ``own``.

        Raises OSError, CheckpointDamaged. The next start can recover after a crash or an error at any step.
        """
        others = [shard for shard in shards_of(self._output) if shard != self._shard]
        if not others:
            yield []
            return
        giving, moved, doubted = list[ShardRecovery](), list[Record](), set[str]()
        with ExitStack() as held:
            held.enter_context(mutex(self._output, self._disk))
            for other in others:
                try:
                    lock = held.enter_context(OutputLock.take(self._output, other.name, self._disk))
                except OutputHeld:
                    continue  # its own run is at work
                dead = self._recovered(lock)
                if dead.has_rows_of(self._shard.owns):
                    doubted |= dead.run_state.doubted_by_the_next_run
                    moved += dead.give(self._shard.owns, own)
                    giving.append(dead)
            if doubted:
                doubted |= own.doubted_by_the_next_run
                moved.append(ReadDoubts(self._sealer.header_of(0).run_id, tuple(doubted), run_has_ended=False))
            yield moved
            for dead in giving:
                dead.let_go()
                self._sealer.found |= dead.sealer.listed()

    def _recovered(self, lock: OutputLock) -> ShardRecovery:
        """The dead shard, with its dated parts sealed."""
        sealer = Sealer(lock, replace(self._sealer.header_of(0), shard=lock.shard), self._sealer.tables, self._disk)
        dead = ShardRecovery(lock, sealer, self._classify, self._holds)
        if dead.is_orderly:
            dead.load_orderly()
            return dead
        remove_leftovers(self._disk, self._output, lock.shard)
        compaction.finish(self._disk, self._output, lock.shard)
        dead.seal_segments()
        dead.close_open()
        for run_id in dead.run_ids:
            if not summaries.has_ended(self._output, run_id):
                sealer.find(summaries.unlisted(self._output, lock.shard))
        self._sealer.found |= sealer.listed()
        self.recovery = self.recovery.plus(dead.recovery)
        return dead
