"""What a crash left: the newest segment, read record by record into the books. Writes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from batchvision.checkpoint.books import Books, Verdict, is_unclear
from batchvision.checkpoint.entries import Header
from batchvision.checkpoint.journal import damaged, read_segment
from batchvision.money import bound_words
from batchvision.records import Completed, Exchange, Failed, Intent


@dataclass(frozen=True, slots=True)
class Recovery:
    """What was found at the start. ``ambiguous``: sent, perhaps answered and billed, and no answer reached the disk."""

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
        """For people: nothing where the last run ended as it should."""
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


def replay(path: Path, books: Books, judge: Callable[[Exchange], Verdict], hold: bool) -> tuple[Header, Recovery]:
    """Apply a segment to the books: what has an answer or an end is judged, what has neither is ambiguous, and what has
    a ticket stays open. The same segment always gives the same books. Raises CheckpointDamaged."""
    scan = read_segment(path)
    books.run_id = scan.header.run_id
    completed = failed = 0
    for entry in scan.entries:
        try:
            exchange_id = books.apply(entry)
        except (KeyError, ValueError) as fault:
            raise damaged(path, 0, f"a record tells of an exchange that is not open ({fault})") from fault
        if exchange_id is None:
            continue
        exchange = books.open[exchange_id]
        verdict = judge(exchange)
        books.book(exchange_id, verdict, hold=hold and is_unclear(verdict))
        if exchange.intent.is_trial:
            continue
        completed += isinstance(verdict.outcome, Completed)
        failed += isinstance(verdict.outcome, Failed)
    if not hold:
        books.release_held()
    ambiguous = tuple(open_ for open_ in books.open.values() if open_.ticket is None)
    for open_ in ambiguous:
        books.book(open_.intent.exchange_id, judge(open_), hold=hold)
    return scan.header, Recovery(
        ambiguous=tuple(open_.intent for open_ in ambiguous),
        tickets=tuple(books.open.values()),
        completed=completed,
        failed=failed,
        torn_bytes=scan.torn_bytes,
        held=hold,
    )
