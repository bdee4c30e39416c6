"""Replay of the newest segment of a crashed run into the run state. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from batchvision.checkpoint.entries import Entry, SegmentHeader
from batchvision.checkpoint.journal import damaged, read_segment
from batchvision.checkpoint.run_state import BookedEnd, RunState, is_unclear
from batchvision.records import Completed, Exchange, Failed, Intent
from batchvision.ticks import bound_words


@dataclass(frozen=True, slots=True)
class Recovery:
    """Result of a recovery. ``ambiguous`` requests were sent, perhaps billed, and have no stored answer."""

    ambiguous: tuple[Intent, ...] = ()
    tickets: tuple[Exchange, ...] = ()
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
            yield (
                f"{len(self.ambiguous)} requests were in flight when the last run ended and may have been billed "
                f"({rows}{more}), {self._bound}; {then}"
            )


def apply_entry(path: Path, run_state: RunState, entry: Entry) -> str | None:
    """Apply a record of a segment. Return the id of an exchange that has now ended. Raises CheckpointDamaged."""
    try:
        return run_state.apply(entry)
    except (KeyError, ValueError) as fault:
        raise damaged(path, 0, f"a record names an exchange that is not open ({fault})") from fault


def replay(
    path: Path, run_state: RunState, classify: Callable[[Exchange], BookedEnd], hold: bool
) -> tuple[SegmentHeader, Recovery]:
    """Apply a segment to the run state.

    Exchanges with an answer or an end are classified, those with a ticket stay open, and the rest is ambiguous. The
    same segment always gives the same state. Raises CheckpointDamaged.
    """
    scan = read_segment(path)
    run_state.run_id = scan.header.run_id
    completed = failed = 0
    for entry in scan.entries:
        exchange_id = apply_entry(path, run_state, entry)
        if exchange_id is None:
            continue
        exchange = run_state.open[exchange_id]
        end = classify(exchange)
        run_state.book(exchange_id, end, hold=hold and is_unclear(end))
        if exchange.intent.is_trial:
            continue
        completed += isinstance(end.outcome, Completed)
        failed += isinstance(end.outcome, Failed)
    if not hold:
        run_state.release_held()
    ambiguous = tuple(open_ for open_ in run_state.open.values() if open_.ticket is None)
    for open_ in ambiguous:
        run_state.book(open_.intent.exchange_id, classify(open_), hold=hold)
    return scan.header, Recovery(
        ambiguous=tuple(open_.intent for open_ in ambiguous),
        tickets=tuple(run_state.open.values()),
        completed=completed,
        failed=failed,
        torn_bytes=scan.torn_bytes,
        held=hold,
    )
