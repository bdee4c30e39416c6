"""The run state: open exchanges, and rows booked since the last seal. The same rules hold live and on replay.

There is no I/O and no clock here. The same records in the same order give the same state, so a replay writes the same
parts as the crashed run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

import pyarrow as pa

from batchvision.checkpoint.entries import (
    Accepted,
    Carry,
    Ended,
    Entry,
    Received,
    SegmentHeader,
    Voided,
    accepted,
    entries_of,
)
from batchvision.checkpoint.parts import SEALED_GROUP_ROWS, Encoded
from batchvision.errors import ROW_FAULTS, TRANSIENTS, EmptyAnswer
from batchvision.records import (
    Attempt,
    AttemptState,
    Completed,
    EndedWithout,
    Exchange,
    Failed,
    Intent,
    Outcome,
)

#: So many rows at once become Arrow, in a few milliseconds. Row groups are multiples of it.
AT_ONCE = 256
_GROUP_TABLES = SEALED_GROUP_ROWS // AT_ONCE

R = TypeVar("R")


class BookedEnd(Protocol):
    """How an exchange ended: its line in the ledger, and the outcome of its row.

    A row without an outcome is still pending.
    """

    @property
    def attempt(self) -> Attempt: ...

    @property
    def outcome(self) -> Outcome | None: ...


def end_of(end: BookedEnd) -> EndedWithout | None:
    """The record of an end without an answer. An interrupted exchange gets no record: it stays open on replay."""
    attempt, outcome = end.attempt, end.outcome
    if attempt.error_kind not in ROW_FAULTS and attempt.error_kind not in TRANSIENTS:
        return None
    exchange = attempt.exchange
    at = outcome.failed_at if isinstance(outcome, Failed) else exchange.ended_at or exchange.intent.sent_at
    return EndedWithout(attempt.error_kind, attempt.error_message or "", at)


def is_unclear(end: BookedEnd) -> bool:
    """Whether a row is pending after an attempt that may have been billed. ``ambiguous = "hold"`` keeps it pending."""
    return end.outcome is None and end.attempt.state is AttemptState.AMBIGUOUS


class Unsealed(Generic[R]):
    """Rows of one table that wait for the next seal. Without ``table_of`` they stay records, and cannot be sealed.

    The newest rows are records, older ones Arrow, and the oldest Parquet where :meth:`encode` was called. An Arrow row
    takes a third of the memory of its record, and Parquet still less. A seal, which holds the journal, has less to do.
    The same rows in the same order make the same part, byte for byte, whenever they were encoded.
    """

    def __init__(self, table_of: Callable[[Sequence[R]], pa.Table] | None = None) -> None:
        self.newest: list[R] = []
        self.tables: list[pa.Table] = []
        self._table_of = table_of
        self._converted = 0
        self._encoded = Encoded()

    def __len__(self) -> int:
        return self._converted + len(self.newest)

    def append(self, row: R) -> None:
        self.newest.append(row)
        if len(self.newest) >= AT_ONCE:
            self._convert()

    def _convert(self) -> None:
        if self._table_of is not None and self.newest:
            self.tables.append(self._table_of(self.newest))
            self._converted += len(self.newest)
            self.newest = []

    @property
    def has_group(self) -> bool:
        return len(self.tables) >= _GROUP_TABLES

    def encode(self) -> None:
        """Move one row group from ``tables`` to Parquet. Blocking. The event loop may append meanwhile."""
        self._encoded.add(pa.concat_tables(self.tables[:_GROUP_TABLES]))
        del self.tables[:_GROUP_TABLES]

    def encoded(self) -> Encoded:
        """Every row as Parquet, in the order of its arrival."""
        self._convert()
        while self.tables:
            self.encode()
        return self._encoded

    def cut(self) -> Unsealed[R]:
        """Hand over every row, and begin empty."""
        cut: Unsealed[R] = Unsealed(self._table_of)
        cut.newest, cut.tables, cut._converted, cut._encoded = self.newest, self.tables, self._converted, self._encoded
        self.newest, self.tables, self._converted, self._encoded = [], [], 0, Encoded()
        return cut


class Cut(NamedTuple):
    """The input of one seal. ``failures`` is missing where that table has not changed."""

    attempts: Unsealed[Attempt]
    completed: Unsealed[Completed]
    failures: tuple[Failed, ...] | None
    open: tuple[Exchange, ...]
    carries: tuple[Carry, ...]

    @property
    def has_rows(self) -> bool:
        return bool(self.attempts or self.completed) or self.failures is not None

    def entries(self) -> Iterator[Entry]:
        """The first records of the next segment, which replaces the one before."""
        yield from self.carries
        for exchange in self.open:
            yield from entries_of(exchange)


class Carries:
    """Attempts and cost of pending requests, by row_id and request_key. A row may have several requests."""

    def __init__(self, carries: Iterable[Carry] = ()) -> None:
        self._by_row: dict[str, dict[str, Carry]] = {}
        for carry in carries:
            self.put(carry)

    def __iter__(self) -> Iterator[Carry]:
        for of_row in self._by_row.values():
            yield from of_row.values()

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._by_row

    def __len__(self) -> int:
        return sum(map(len, self._by_row.values()))

    def get(self, row_id: str, key: str) -> Carry | None:
        """``key``: request_key or skip_key."""
        of_row = self._by_row.get(row_id)
        if of_row is None:
            return None
        return of_row.get(key) or next((carry for carry in of_row.values() if carry.skip_key == key), None)

    def put(self, carry: Carry) -> None:
        self._by_row.setdefault(carry.row_id, {})[carry.request_key] = carry

    def pop(self, row_id: str, request_key: str) -> None:
        of_row = self._by_row.get(row_id, {})
        of_row.pop(request_key, None)
        if not of_row:
            self._by_row.pop(row_id, None)


@dataclass(slots=True)
class RunState:
    """The state that a journal's records add up to.

    ``is_done`` is True where earlier parts hold a (row_id, request_key) (promise P9).
    """

    #: the run at work, or the replayed one
    run_id: str = ""
    #: the rows that are failed now, by row_id; the ledger has their failures under other requests
    failures: dict[str, Failed] = field(default_factory=dict)
    carries: Carries = field(default_factory=Carries)
    open: dict[str, Exchange] = field(default_factory=dict)
    attempts: Unsealed[Attempt] = field(default_factory=Unsealed)
    completed: Unsealed[Completed] = field(default_factory=Unsealed)
    #: (row_id, request_key) of the completed rows
    answered: set[tuple[str, str]] = field(default_factory=set)
    failures_changed: bool = False
    #: tickets after a poll that may have taken the answer
    doubted: set[str] = field(default_factory=set)
    #: tickets with a poll on the wire, or cut off there
    polled: set[str] = field(default_factory=set)
    #: rows that this run has found failed
    touched: set[str] = field(default_factory=set)
    #: (row_id, request_key) that this run leaves pending after an attempt
    carried: set[tuple[str, str]] = field(default_factory=set)
    is_done: Callable[[str, str], bool] = lambda row_id, request_key: False

    # ---------------------------------------------------------------------------- an exchange

    def apply(self, entry: Entry) -> str | None:
        """Apply a record, live or on replay. Return the id of an exchange that is now to be classified, if any."""
        match entry:
            case Intent(exchange_id=exchange_id):
                self.open[exchange_id] = Exchange(entry)
                if not entry.is_trial:  # the row is pending again, and the intent carries the failure's cost
                    self._drop_failure(entry.row_id)
            case Accepted(exchange_id, ticket, at, place, is_unread):
                self.open[exchange_id] = self.open[exchange_id]._replace(
                    ticket=ticket, ticket_at=at, ticket_place=place, is_unread=is_unread
                )
            case Received(exchange_id, raw):
                self.open[exchange_id] = self.open[exchange_id]._replace(answer=raw)
                return exchange_id
            case Ended(exchange_id, ended):
                self.open[exchange_id] = self.open[exchange_id]._replace(ended=ended)
                return exchange_id
            case Voided(exchange_id):
                self.void(exchange_id)
            case Carry():
                self.carries.put(entry)
            case SegmentHeader():
                raise ValueError("a second segment header")
        return None

    def poll_begins(self, exchange_id: str) -> None:
        self.polled.add(exchange_id)

    def poll_ends(self, exchange_id: str, *, may_be_read: bool) -> None:
        self.polled.discard(exchange_id)
        if may_be_read:
            self.doubted.add(exchange_id)

    def is_doubted(self, exchange_id: str) -> bool:
        """Whether a poll of this run may have taken the ticket's answer."""
        return exchange_id in self.doubted or exchange_id in self.polled

    def unread(self, run_id: str) -> Iterator[Accepted]:
        """The open tickets that no poll, of ``run_id`` or of an earlier run, can have read."""
        for exchange_id, exchange in self.open.items():
            is_open = exchange.ticket is not None and exchange.answer is None
            was_unread = exchange.intent.run_id == run_id or exchange.is_unread
            if is_open and was_unread and not self.is_doubted(exchange_id):
                yield replace(accepted(exchange), is_unread=True)

    def void(self, exchange_id: str) -> None:
        """Drop an exchange that was never sent. The row's earlier attempts and cost are carried on."""
        intent = self.open.pop(exchange_id).intent
        if intent.is_trial:
            return
        is_carried = self.carries.get(intent.row_id, intent.request_key) is not None
        if (intent.attempt > 1 or intent.runs_failed) and not is_carried:
            self._carry(intent, intent.attempt - 1, 0, None)  # the intent's tries count the empty answers

    def book(self, exchange_id: str, end: BookedEnd, hold: bool = False) -> Exchange:
        """Close an exchange. Raises KeyError where it is not open."""
        exchange = self.open.pop(exchange_id)
        attempt, intent = end.attempt, exchange.intent
        self.attempts.append(attempt)
        if intent.is_trial:
            return exchange
        match end.outcome:
            case Completed() as completed:
                self.publish(completed, is_current=intent.run_id == self.run_id)
            case Failed() as failed:
                self.carries.pop(intent.row_id, intent.request_key)
                if intent.run_id == self.run_id:
                    self.file(failed)
                else:
                    self._file_collected(failed)
            case None:
                ticks = attempt.answer.usage.cost_ticks or 0
                self._carry(intent, intent.attempt, ticks, attempt.bound_ticks, hold, attempt.error_kind)
        return exchange

    def publish(self, completed: Completed, *, is_current: bool = True) -> None:
        """Book an answer, once for each request (P9).

        ``is_current`` is False for a ticket of an earlier run: the row's cells may have changed since. Then only a
        failure of the same request is dropped.
        """
        self.carries.pop(completed.row_id, completed.request_key)
        failed = self.failures.get(completed.row_id)
        if failed is not None and (is_current or failed.request_key == completed.request_key):
            self._drop_failure(completed.row_id)
        key = (completed.row_id, completed.request_key)
        if key not in self.answered and not self.is_done(*key):
            self.answered.add(key)
            self.completed.append(completed)

    def file(self, failed: Failed) -> None:
        """Book a failed row. A row that failed in the same way before keeps its record, and the table its bytes."""
        stored = replace(failed, at_provider=False)
        if failed.request_key is not None:
            self.carries.pop(failed.row_id, failed.request_key)
        before = self.failures.get(failed.row_id)
        self.touched.add(failed.row_id)
        if before is not None and replace(stored, failed_at=before.failed_at, run_id=before.run_id) == before:
            return
        self.failures[failed.row_id] = stored
        self.failures_changed = True

    def _file_collected(self, failed: Failed) -> None:
        """Book a failed ticket of an earlier run. A failure of another request of the row stays."""
        before = self.failures.get(failed.row_id)
        if before is None or before.request_key == failed.request_key:
            self.failures[failed.row_id] = replace(failed, at_provider=False)
            self.failures_changed = True

    def keep(self, failed: Failed) -> None:
        """Book a failure that the ledger holds."""
        if self.failures.get(failed.row_id) != failed:
            self.failures[failed.row_id] = failed
            self.failures_changed = True

    def _drop_failure(self, row_id: str) -> None:
        if self.failures.pop(row_id, None) is not None:
            self.failures_changed = True

    def _carry(
        self,
        intent: Intent,
        attempts: int,
        ticks: int,
        bound: int | None,
        hold: bool = False,
        error_kind: str | None = None,
    ) -> None:
        before = self.carries.get(intent.row_id, intent.request_key)
        bound = (bound or 0) + (before.bound_ticks or 0 if before else 0)
        self.carried.add((intent.row_id, intent.request_key))
        self.carries.put(
            Carry(
                row_id=intent.row_id,
                request_key=intent.request_key,
                skip_key=intent.skip_key,
                attempts=attempts,
                cost_ticks=intent.cost_before_ticks + ticks,
                runs_failed=intent.runs_failed,
                held=hold,
                bound_ticks=bound or None,
                empties=intent.tries.empties + (error_kind == EmptyAnswer.kind),
            )
        )

    # ---------------------------------------------------------------------------- between runs and seals

    def begin(self, run_id: str) -> None:
        """End the recovery: later records are of this run."""
        self.run_id, self.touched, self.carried = run_id, set(), set()

    def held_count(self, is_seen: Callable[[Carry], bool]) -> int:
        """Count the held rows of the manifest. ``is_seen`` is asked about rows held before this run."""
        held = [carry for carry in self.carries if carry.held]
        return sum((carry.row_id, carry.request_key) in self.carried or is_seen(carry) for carry in held)

    def release_held(self) -> None:
        """Release every held row: this run sends ambiguous rows again."""
        self.carries = Carries(replace(carry, held=False) for carry in self.carries)

    def drop_answered(self) -> None:
        """Drop failures of completed rows: a seal that was cut off may leave a row in both tables."""
        for failed in list(self.failures.values()):
            if failed.request_key and self.is_done(failed.row_id, failed.request_key):
                del self.failures[failed.row_id]
                self.failures_changed = True

    def drop_unseen(self, is_seen: Callable[[Failed], bool]) -> None:
        """Drop failures of rows that a complete pass over the manifest did not meet under the same request."""
        for failed in list(self.failures.values()):
            if failed.row_id not in self.touched and not is_seen(failed):
                self._drop_failure(failed.row_id)

    @property
    def has_unsealed(self) -> bool:
        return bool(self.attempts or self.completed) or self.failures_changed

    def cut(self) -> Cut:
        """Hand over every booked row, and begin empty."""
        cut = Cut(
            attempts=self.attempts.cut(),
            completed=self.completed.cut(),
            failures=tuple(self.failures.values()) if self.failures_changed else None,
            open=tuple(self.open.values()),
            carries=tuple(self.carries),
        )
        self.answered, self.failures_changed = set(), False
        return cut
