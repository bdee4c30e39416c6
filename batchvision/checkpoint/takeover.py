"""Recover the journals that dead runs left on other shards of an output, and take over the rows of our own shard.

A crash is harmless after each of three steps. First the parts of the dead shard are written. Then our failures and our
segment are written, with the rows taken over. Then the failures and the next segment of the dead shard are written,
without these rows. Between the last two steps both shards hold the same records of a row. No request is sent before the
third step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from batchvision.checkpoint import compaction, summaries
from batchvision.checkpoint.entries import SegmentHeader
from batchvision.checkpoint.journal import segment_paths
from batchvision.checkpoint.lock import OutputLock
from batchvision.checkpoint.parts import failures_path, read_part, remove_leftovers
from batchvision.checkpoint.recovery import Recovery, replay
from batchvision.checkpoint.run_state import BookedEnd, Cut, RunState, Unsealed
from batchvision.checkpoint.schema import TableSchemas, failures_of
from batchvision.checkpoint.sealing import Sealer, leftovers
from batchvision.checkpoint.shards import mutex, shards_of
from batchvision.checkpoint.storage import Disk
from batchvision.errors import OutputHeld
from batchvision.records import Exchange, Failed, Shard

_NO_RUN = ""
Classify = Callable[[Exchange], BookedEnd]


@dataclass(slots=True)
class DeadShard:
    """A shard that no process holds, as its last run left it. Without a segment there is no ``header``."""

    lock: OutputLock
    run_state: RunState
    segments: list[Path]
    header: SegmentHeader | None
    recovery: Recovery
    has_given: bool = False

    @property
    def is_changed(self) -> bool:
        return self.has_given or self.run_state.has_unsealed or self.recovery.torn_bytes > 0


class Takeover:
    """Recovers the dead shards of an output for the run on ``own``. Blocking. The run sends no request meanwhile."""

    def __init__(self, disk: Disk, own: OutputLock, sealer: Sealer, tables: TableSchemas) -> None:
        self.recovery = Recovery()  #: of all dead shards together
        self._disk = disk
        self._output = own.output
        self._shard = Shard.named(own.shard)
        self._sealer = sealer
        self._tables = tables
        self._giving: list[tuple[DeadShard, Cut]] = []

    @contextmanager
    def beginning(self, run_state: RunState, classify: Classify, hold: bool) -> Iterator[None]:
        """Inside the block the caller makes ``run_state`` durable. It then holds our rows of every dead shard.

        Raises OSError, CheckpointDamaged. The next start can recover after a crash or an error at any step.
        """
        others = [shard for shard in shards_of(self._output) if shard != self._shard]
        if not others:
            yield
            return
        with ExitStack() as held:
            held.enter_context(mutex(self._output, self._disk))
            for other in others:
                self._recover(other, run_state, classify, hold, held)
            yield
            for dead, cut in self._giving:
                self._let_go(dead, cut)

    # ---------------------------------------------------------------------------- one dead shard

    def _recover(self, other: Shard, run_state: RunState, classify: Classify, hold: bool, held: ExitStack) -> None:
        try:
            lock = OutputLock.take(self._output, other.name, self._disk)
        except OutputHeld:
            return  # its own run is at work
        with ExitStack() as until_kept:
            until_kept.callback(lock.release)
            dead = self._read(lock, classify, hold)
            dead.has_given = take_over(dead.run_state, run_state, self._shard.owns)
            self.recovery = self.recovery.plus(dead.recovery)
            if not dead.is_changed:
                return
            cut = self._seal(dead)
            if dead.has_given:  # held until our own segment has its rows
                self._giving.append((dead, cut))
                held.push(until_kept.pop_all())
            else:
                self._let_go(dead, cut)

    def _read(self, lock: OutputLock, classify: Classify, hold: bool) -> DeadShard:
        run_state = RunState(
            failures=read_failures(self._output, lock.shard),
            attempts=Unsealed(self._tables.attempts),
            completed=Unsealed(self._tables.results),
        )
        segments = segment_paths(lock.folder)
        header, recovery = replay(segments[-1], run_state, classify, hold) if segments else (None, Recovery())
        return DeadShard(lock, run_state, segments, header, recovery)

    def _seal(self, dead: DeadShard) -> Cut:
        """Its dated parts, named by its own run: a second recovery writes the same again."""
        remove_leftovers(self._disk, self._output, dead.lock.shard)
        compaction.finish(self._disk, self._output, dead.lock.shard)
        cut = dead.run_state.cut()
        if dead.header is not None:
            self._sealer.found |= self._sealer.write_dated(dead.header, cut)
            if not summaries.has_ended(self._output, dead.header.run_id):
                self._sealer.find(summaries.unlisted(self._output, dead.lock.shard))
        return cut

    def _let_go(self, dead: DeadShard, cut: Cut) -> None:
        """Leave the other records of the dead shard to the next run on that shard."""
        if cut.failures is not None:
            self._sealer.found[failures_path(dead.lock.shard)] = self._sealer.failures(dead.lock.shard, cut)
        if dead.header is not None:
            entries = (*cut.entries(), *dead.run_state.unread(_NO_RUN))  # this run polls no ticket of that shard
            self._sealer.leave(dead.lock.folder, dead.lock.shard, dead.header.seq + 1, entries)
            self._sealer.remove([*dead.segments, *leftovers(dead.lock.folder)])


def read_failures(output: Path, shard: str) -> dict[str, Failed]:
    """The failed rows of a shard, by row_id. Raises CheckpointDamaged."""
    path = output / failures_path(shard)
    return {failed.row_id: failed for failed in failures_of(read_part(path))} if path.exists() else {}


def take_over(dead: RunState, own: RunState, owns: Callable[[str], bool]) -> bool:
    """Move failures, carries and tickets of our rows from a dead shard's state to our own. False: nothing was moved.

    After a crash between two steps both states hold the same records. The later of two failures of a row counts.
    """
    failures = [failed for row_id, failed in dead.failures.items() if owns(row_id)]
    for failed in failures:
        del dead.failures[failed.row_id]
        dead.failures_changed = True
        mine = own.failures.get(failed.row_id)
        if mine is None or mine.failed_at < failed.failed_at:
            own.failures[failed.row_id] = failed
            own.failures_changed = True
    carries = [carry for carry in dead.carries if owns(carry.row_id)]
    for carry in carries:
        dead.carries.pop(carry.row_id, carry.request_key)
        if own.carries.get(carry.row_id, carry.request_key) is None:
            own.carries.put(carry)
    open_ = [exchange for exchange in dead.open.values() if owns(exchange.intent.row_id)]
    for exchange in open_:
        own.open.setdefault(exchange.intent.exchange_id, dead.open.pop(exchange.intent.exchange_id))
    return bool(failures or carries or open_)
