"""The run state: the sum of a journal's records. One pure function applies a record, live and on replay.

There is no I/O, no clock and no reading of answers here. The same records give the same state, and the same parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, NamedTuple, TypeVar

import pyarrow as pa

from batchvision.checkpoint.journal_records import (
    Accepted,
    Carry,
    CarryRemoved,
    Closed,
    Ended,
    ExchangeRemoved,
    FailureRemoved,
    ReadDoubts,
    Received,
    Record,
    RowFailed,
    Sealed,
    SegmentHeader,
    Shared,
    Submission,
    SubmissionEnded,
    Voided,
)
from batchvision.checkpoint.schema import TableSchemas
from batchvision.checkpoint.tracked import OpenExchanges, Packed, Tracked
from batchvision.errors import EmptyAnswer, Truncated
from batchvision.records import Attempt, Completed, Exchange, Failed, Intent

#: So many rows at once become Arrow, in a few milliseconds.
ROWS_AT_ONCE = 256
R = TypeVar("R")


class TableRows(Generic[R]):
    """The newest rows are records, earlier ones Arrow, which takes a third of the memory.

    Without ``table_of`` all rows stay records. The same rows in the same order make the same part, byte for byte.
    """

    def __init__(self, table_of: Callable[[Sequence[R]], pa.Table] | None = None) -> None:
        self.newest: list[R] = []
        self.tables: list[pa.Table] = []
        self.count = 0
        self._table_of = table_of

    def append(self, row: R) -> None:
        self.newest.append(row)
        self.count += 1
        if len(self.newest) >= ROWS_AT_ONCE:
            self._convert()

    def _convert(self) -> None:
        if self._table_of is not None and self.newest:
            self.tables.append(self._table_of(self.newest))
            self.newest = []

    def cut(self) -> tuple[pa.Table, ...]:
        """Hand over every row as Arrow, and begin empty."""
        self._convert()
        tables, self.tables, self.count = tuple(self.tables), [], 0
        return tables


class Cut(NamedTuple):
    """The input of one seal: the rows of a segment, and the state after its last record.

    ``open_work`` is for ``open.log``: the changes since the last cut, or (``is_whole``) the whole open work.
    ``failures`` are all failed rows, where their table is to be written again.
    """

    attempts: tuple[pa.Table, ...]
    results: tuple[pa.Table, ...]
    open_work: tuple[Record | Packed, ...]
    is_whole: bool
    failures: tuple[Failed, ...] | None

    def open_records(self) -> Iterator[Record]:
        """The records for ``open.log``. The thread of the seal unpacks accepted work, one exchange at a time."""
        for each in self.open_work:
            yield from each.records() if isinstance(each, Packed) else (each,)


class Carries:
    """Attempts and cost of pending requests, by row_id and request_key. A row may have several requests."""

    def __init__(self, carries: Iterable[Carry] = ()) -> None:
        self.stored: Tracked[tuple[str, str], Carry] = Tracked()
        self._keys: dict[str, list[str]] = {}  #: the request_keys of a row
        for carry in carries:
            self.put(carry)

    def __iter__(self) -> Iterator[Carry]:
        return iter(self.stored.values())

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._keys

    def __len__(self) -> int:
        return len(self.stored)

    def get(self, row_id: str, key: str) -> Carry | None:
        """``key``: request_key or skip_key."""
        carry = self.stored.get((row_id, key))
        if carry is not None:
            return carry
        # the feed thread asks too, so a key may have gone meanwhile
        found = (self.stored.get((row_id, request_key)) for request_key in tuple(self._keys.get(row_id, ())))
        return next((each for each in found if each is not None and each.skip_key == key), None)

    def put(self, carry: Carry) -> None:
        keys = self._keys.setdefault(carry.row_id, [])
        if carry.request_key not in keys:
            keys.append(carry.request_key)
        self.stored[carry.row_id, carry.request_key] = carry

    def pop(self, row_id: str, request_key: str) -> None:
        if self.stored.take((row_id, request_key)) is not None:
            self._keys[row_id].remove(request_key)
            if not self._keys[row_id]:
                del self._keys[row_id]


# ---------------------------------------------------------------------------------- the state


class RunState:
    """``tables`` makes Arrow of the rows. A state that is never sealed needs no ``tables``."""

    def __init__(
        self,
        tables: TableSchemas | None = None,
        failures: Mapping[str, Failed] | None = None,
        carries: Iterable[Carry] = (),
        open_: Iterable[Exchange] = (),
    ) -> None:
        self.run_id = ""  #: of the last segment header
        self.open = OpenExchanges(open_)
        #: the rows that are failed now, by row_id; the ledger has their failures under other requests
        self.failures: Tracked[str, Failed] = Tracked(failures)
        self.carries = Carries(carries)
        self.submissions: Tracked[str, Submission] = Tracked()  #: of the batch lane, by submission_id
        self.attempts: TableRows[Attempt] = TableRows(None if tables is None else tables.attempts)
        self.results: TableRows[Completed] = TableRows(None if tables is None else tables.results)
        self.has_other_failures = False  #: than the table ``failures``
        self.run_has_ended = False  #: in order: its doubts are known
        #: open tickets whose one-time answer a poll of an earlier run may have taken
        self.doubted: set[str] = set()
        self._new_doubts: ReadDoubts | None = None
        #: row_id, request_key and the run of a redo, of the result rows since the last cut
        self._answered: set[tuple[str, str, str]] = set()

    # ---------------------------------------------------------------------------- records

    def apply(self, record: Record) -> Exchange | None:
        """Apply one record. Raises KeyError for an exchange that is not open.

        Returns the exchange that the record answers, closes or voids, as it was before.
        """
        match record:
            case Intent():
                self.open.put(Exchange(record))
                if not record.is_trial:  # the row is pending again, and the intent carries the failure's cost
                    self._drop_failure(record.row_id)
            case Accepted(exchange_id, ticket, at, place):
                exchange = self.open[exchange_id]
                self.open.put(exchange._replace(ticket=ticket, ticket_at=at, ticket_place=place))
            case Received(exchange_id, raw):
                exchange = self.open.take(exchange_id)
                self.open.put(exchange._replace(answer=raw))
                return exchange
            case Ended(exchange_id, ended):
                self.open.put(self.open[exchange_id]._replace(ended=ended))
            case Closed(exchange_id):
                exchange = self.open.take(exchange_id)
                self._close(record, exchange)
                return exchange
            case Voided(exchange_id):
                return self._void(exchange_id)
            case Submission(submission_id):
                self.submissions[submission_id] = record
            case SubmissionEnded(submission_id):
                self.submissions.take(submission_id)
            case RowFailed(failed):
                self._fail(failed)
            case Shared(completed):
                self._publish(completed)
            case Carry():
                self.carries.put(record)
            case SegmentHeader():
                self._begin(record.run_id)
            case ExchangeRemoved(exchange_id):
                if exchange_id in self.open:
                    self.open.take(exchange_id)
                self.doubted.discard(exchange_id)
            case CarryRemoved(row_id, request_key):
                self.carries.pop(row_id, request_key)
            case FailureRemoved(row_id):
                self._drop_failure(row_id)
            case ReadDoubts():
                self._doubt(record)
            case Sealed():
                pass
        return None

    def _begin(self, run_id: str) -> None:
        """A run before this one that was killed may have polled any open ticket."""
        if run_id != self.run_id:
            self._doubt(ReadDoubts(run_id, tuple(self.doubted) if self.run_has_ended else None, run_has_ended=False))

    @property
    def doubted_by_the_next_run(self) -> set[str]:
        """The tickets that a run after this one doubts."""
        return set(self.doubted if self.run_has_ended else self.open)

    def _doubt(self, record: ReadDoubts) -> None:
        doubted = self.open if record.exchange_ids is None else self.open.keys() & set(record.exchange_ids)
        self.doubted, self.run_id, self.run_has_ended = set(doubted), record.run_id, record.run_has_ended
        self._new_doubts = record

    def _close(self, record: Closed, exchange: Exchange) -> None:
        self.doubted.discard(record.exchange_id)
        intent = exchange.intent
        self.attempts.append(record.attempt_of(exchange))
        if intent.is_trial:
            return
        is_current = intent.run_id == self.run_id
        if record.completed is not None:
            completed = Completed(intent, record.answer, *record.completed)
            self._publish(completed, is_current=is_current, is_repeat=record.is_repeat)
        elif record.failed is not None and intent.is_redo:  # the row keeps its older answer
            self.carries.pop(intent.row_id, intent.request_key)
        elif record.failed is not None:
            self.carries.pop(intent.row_id, intent.request_key)
            before = self.failures.get(intent.row_id)
            if is_current or before is None or before.request_key == record.failed.request_key:
                self._fail(record.failed)
        else:
            ticks = record.answer.usage.cost_ticks or 0
            self._carry(intent, intent.attempt, ticks, record.bound_ticks, record.is_held, record.error_kind)

    def _publish(self, completed: Completed, *, is_current: bool = True, is_repeat: bool = False) -> None:
        """Add a result row, once for each request (P9), and once more for each run that redoes it.

        ``is_current`` is False for a ticket of an earlier run: the row's cells may have changed since. Then only a
        failure of the same request is dropped.
        """
        self.carries.pop(completed.row_id, completed.request_key)
        failed = self.failures.get(completed.row_id)
        if failed is not None and (is_current or failed.request_key == completed.request_key):
            self._drop_failure(completed.row_id)
        key = (completed.row_id, completed.request_key, completed.intent.run_id if completed.intent.is_redo else "")
        if key not in self._answered and not is_repeat:
            self._answered.add(key)
            self.results.append(completed)

    def _fail(self, failed: Failed) -> None:
        if failed.request_key is not None:
            self.carries.pop(failed.row_id, failed.request_key)
        self.failures[failed.row_id] = replace(failed, at_provider=False)
        self.has_other_failures = True

    def _drop_failure(self, row_id: str) -> None:
        if self.failures.take(row_id) is not None:
            self.has_other_failures = True

    def _void(self, exchange_id: str) -> Exchange:
        """Drop an exchange that was never sent. The row's earlier attempts and cost are carried on."""
        exchange = self.open.take(exchange_id)
        intent = exchange.intent
        is_new = self.carries.get(intent.row_id, intent.request_key) is None and not intent.is_trial
        if is_new and (intent.attempt > 1 or intent.runs_failed):
            self._carry(intent, intent.attempt - 1, 0, None)  # the intent's tries count the empty answers
        return exchange

    def _carry(
        self,
        intent: Intent,
        attempts: int,
        ticks: int,
        bound_ticks: int | None,
        is_held: bool = False,
        error_kind: str | None = None,
    ) -> None:
        before = self.carries.get(intent.row_id, intent.request_key)
        bound = (bound_ticks or 0) + (before.bound_ticks or 0 if before else 0)
        carry = Carry(
            row_id=intent.row_id,
            request_key=intent.request_key,
            skip_key=intent.skip_key,
            attempts=attempts,
            cost_ticks=intent.cost_before_ticks + ticks,
            runs_failed=intent.runs_failed,
            held=is_held,
            bound_ticks=bound or None,
            empties=intent.tries.empties + (error_kind == EmptyAnswer.kind),
            raised=intent.tries.raised or error_kind == Truncated.kind,
        )
        self.carries.put(carry)

    # ---------------------------------------------------------------------------- seals

    def load(self, records: Iterable[Record]) -> None:
        """Apply the content of ``open.log``. The next difference is from here on."""
        before = dict(self.failures)
        for record in records:
            if isinstance(record, Intent):  # it dropped a failure when it was sent; the row may have another since
                self.open.put(Exchange(record))
            else:
                self.apply(record)
        list(self._difference())
        self.has_other_failures = dict(self.failures) != before

    @property
    def has_unsealed(self) -> bool:
        stored = (self.open, self.carries.stored, self.failures, self.submissions)
        changed = any(each.has_changed for each in stored)
        return (
            bool(self.attempts.count or self.results.count)
            or changed
            or self.has_other_failures
            or self._new_doubts is not None
        )

    @property
    def live_records(self) -> int:
        """Records that ``open.log`` needs at most."""
        return 2 * len(self.open) + len(self.submissions) + len(self.carries) + len(self.failures)

    def cut(self, *, with_failures: bool, is_whole: bool = False) -> Cut:
        """Hand over the rows, and the difference of the rest since the last cut.

        ``with_failures``: hand over all failures, if their table is out of date. ``is_whole``: the whole open work.
        """
        failures = tuple(self.failures.values()) if with_failures and self.has_other_failures else None
        open_work = tuple(self._difference())
        if is_whole:
            open_work = tuple(self._everything())
        self._answered = set()
        if with_failures:
            self.has_other_failures = False
        return Cut(self.attempts.cut(), self.results.cut(), open_work, is_whole, failures)

    def _difference(self) -> Iterator[Record | Packed]:
        """Intents come before failures, because they drop failures."""
        carries, failures, submissions = self.carries.stored.cut(), self.failures.cut(), self.submissions.cut()
        doubts, self._new_doubts = self._new_doubts, None
        if doubts is not None and doubts.exchange_ids is None:  # about everything that was open before
            yield doubts
        yield from self.open.cut()
        yield from map(SubmissionEnded, submissions.removed)
        yield from submissions.put
        yield from map(FailureRemoved, failures.removed)
        yield from map(RowFailed, failures.put)
        yield from (CarryRemoved(*key) for key in carries.removed)
        yield from carries.put
        if doubts is not None and doubts.exchange_ids is not None:
            yield doubts

    def _everything(self) -> Iterator[Record | Packed]:
        """All but the failures: the same seal writes their table."""
        yield from self.open.records()
        yield from self.submissions.values()
        yield from self.carries
        yield ReadDoubts(self.run_id, tuple(self.doubted), self.run_has_ended)
