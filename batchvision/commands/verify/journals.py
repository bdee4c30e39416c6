"""Check the newest journal segment of each shard: is it whole, and which requests are open?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchvision.checkpoint import (
    STATE_FOLDER,
    Holder,
    Name,
    SegmentHeader,
    Unsealed,
    holder_at_work,
    read_shard,
)
from batchvision.commands.verify.findings import Finding, note, ok, wrong
from batchvision.errors import CheckpointDamaged
from batchvision.records import Intent
from batchvision.ticks import bound_words
from batchvision.wording import counted

TOPIC, OPEN = "journal", "open"


@dataclass(slots=True)
class ShardJournal:
    """One shard's journal. ``waiting``: outcomes and answers that are not sealed yet."""

    shard: str
    holder: Holder | None  #: the run at work
    unsealed: Unsealed = field(default_factory=Unsealed)
    in_flight: Sequence[Intent] = ()
    tickets: int = 0
    held: int = 0
    waiting: int = 0
    fault: CheckpointDamaged | None = None

    @property
    def path(self) -> Path | None:
        """The newest segment."""
        return self.unsealed.segments[-1][0] if self.unsealed.segments else None

    @property
    def header(self) -> SegmentHeader | None:
        return self.unsealed.segments[-1][1].header if self.unsealed.segments else None

    @property
    def records(self) -> int:
        return sum(1 + len(scan.records) for _, scan in self.unsealed.segments)

    def has_ended(self, ended: frozenset[str]) -> bool:
        """Whether the last run on this shard is in ``ended``."""
        return self.holder is None and self.header is not None and self.header.run_id in ended

    def is_sealing(self, name: str) -> bool:
        """Whether a seal of this journal was writing a part of this name when the run was cut off.

        The part may stand without the parts of the other tables.
        """
        part = Name.of(name)
        if part is None or part.shard != self.shard or part.digest is not None:
            return False
        return self.unsealed.is_making(part.run_id, part.seq)


def read_journals(output: Path) -> tuple[ShardJournal, ...]:
    """The journals of all shards."""
    folders = sorted(path for path in (output / STATE_FOLDER).glob("*of*") if path.is_dir())
    return tuple(_read(output, folder.name) for folder in folders)


def _read(output: Path, shard: str) -> ShardJournal:
    journal = ShardJournal(shard, holder_at_work(output, shard))
    try:
        read = read_shard(output, shard, reads_failures=False)
    except CheckpointDamaged as fault:
        journal.fault = fault
        return journal
    journal.unsealed, journal.in_flight, journal.tickets = read.unsealed, read.in_flight, read.tickets_open
    journal.held = sum(carry.held for carry in read.run_state.carries)
    journal.waiting = read.unread_answers + sum(rows.num_rows for _, rows in read.attempts)
    return journal


# ---------------------------------------------------------------------------------- findings


def journal_findings(journals: Sequence[ShardJournal], ended_whole: frozenset[str]) -> Iterator[Finding]:
    """``ended_whole``: the run_ids of runs that wrote all of their journal."""
    if not journals:
        yield note(TOPIC, "there is none: no run has begun here, or its folder .batchvision was removed")
    for journal in journals:
        if journal.holder is not None:
            who = f"process {journal.holder.pid} on {journal.holder.host}"
            yield note("run", f"{who} is running on this output: looked at as it stands, without its lock")
        yield _state(journal, ended_whole)


def _state(journal: ShardJournal, ended_whole: frozenset[str]) -> Finding:
    if journal.fault is not None:
        return wrong(
            TOPIC,
            journal.fault.what,
            "restore the file from a backup. Without one: copy the output, delete the file and run again; the tables "
            "stay as they are, and rows whose answers were only in this file are asked again",
        )
    if journal.path is None or journal.header is None:
        return ok(TOPIC, f"shard {journal.shard} has no segment: nothing was ever sent")
    torn_bytes = journal.unsealed.torn_bytes
    if torn_bytes and journal.holder is None:
        if journal.header.run_id in ended_whole:
            return wrong(
                TOPIC,
                f"{journal.path} ends in {counted(torn_bytes, 'byte')} that are not what was written, and the "
                f"run {journal.header.run_id} that wrote it ended as it should",
                "restore the file from a backup; otherwise run again, which cuts these bytes off",
            )
        return note(
            TOPIC,
            f"{journal.path.name} ends in {counted(torn_bytes, 'byte')} that were written when the run was cut "
            "off, and never acknowledged; the next run cuts them off",
        )
    return ok(TOPIC, f"{journal.path.name}: {counted(journal.records, 'record')}, every checksum is right")


def open_findings(journals: Sequence[ShardJournal]) -> Iterator[Finding]:
    """Findings about open requests, tickets and holds."""
    is_running = any(journal.holder for journal in journals)
    in_flight = [intent for journal in journals for intent in journal.in_flight]
    tickets = sum(journal.tickets for journal in journals)
    held = sum(journal.held for journal in journals)
    waiting = sum(journal.waiting for journal in journals)
    if waiting and not is_running:
        yield note(
            OPEN, f"{counted(waiting, 'answer')} of a run that was cut off: the next run puts them in the tables"
        )
    if in_flight:
        then = "now" if is_running else "when the run was cut off and may have been billed; the next run lists them"
        bounds = [intent.bound_ticks for intent in in_flight]
        at_most = bound_words(sum(bound or 0 for bound in bounds), bounds.count(None))
        yield note(OPEN, f"{counted(len(in_flight), 'request')} in flight {then}, {at_most}")
    if tickets:
        yield note(OPEN, f"{counted(tickets, 'ticket')} at the provider: the next run collects the answers")
    if held:
        yield note(
            OPEN, f'{counted(held, "row")} on hold after a crash: a run with limits.ambiguous = "retry" asks them again'
        )
    if not (waiting or in_flight or tickets or held):
        yield ok(OPEN, "no request, ticket or held row is open")
