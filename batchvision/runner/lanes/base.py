"""What every lane does alike: take a row, make its request, try until it ends, give up in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from batchvision.checkpoint import RowIndex, RowState
from batchvision.errors import AttemptsExhausted, RowFault, StopRun, TooManyFailures
from batchvision.keys import row_digest
from batchvision.limits import OUTAGE_AFTER_FAILURES, Lease, Room
from batchvision.records import Completed, Counters, Exchange, Failed, ImageKind, Intent, Request, Row, Tries
from batchvision.runner.exchange import EndedExchange, Exchanges, OpenTicket
from batchvision.runner.lanes.deduplicator import LATE_ROWS, RequestDeduplicator, is_shared
from batchvision.runner.lanes.refused import RefusedRows
from batchvision.runner.prepare import Preparer
from batchvision.runner.refusals import Refusals
from batchvision.runner.retry import Again, Stop
from batchvision.stopping import StopSignal

ENDED_BEFORE_SHARE_COUNTS = 100  #: a share of failures says nothing of fewer rows


_FIRST = Tries()


class Lane(Protocol):
    """Delivers all rows of the stream and all tickets, or until the stop."""

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[Exchange]) -> None: ...


async def next_row(rows: MemoryObjectReceiveStream[Row], stop: StopSignal) -> Row | None:
    """The next row of the stream; None at its end, or where the run stops first."""
    try:
        return rows.receive_nowait()
    except anyio.EndOfStream:
        return None
    except anyio.WouldBlock:
        with stop.interruptible():
            return await anext(rows, None)
    return None


@dataclass(frozen=True, slots=True)
class Suspect:
    """A row out of attempts, in a streak of failures that no success has ended yet: its own fault, or an outage?"""

    row: Row
    judged: EndedExchange


class Delivery:
    """The life of one row, shared by the lanes.

    ``again`` holds the rows that are to be asked once more in a later pass over the manifest, with their tries so far:
    a lane that has let go of a row's images (deferred) does not keep them, and an outage's victims come back.
    """

    def __init__(
        self,
        exchanges: Exchanges,
        preparer: Preparer,
        row_index: RowIndex,
        counters: Counters,
        stop: StopSignal,
        failures_in_a_row: Callable[[], int],
        failures_allowed: Callable[[int, int], bool],
        wants: Callable[[Failed], bool],
        sharing: RequestDeduplicator,
        refusals: Refusals | None = None,
        last: frozenset[str] = frozenset(),
    ) -> None:
        self.exchanges = exchanges
        self.stop = stop
        self.again: dict[bytes, Tries] = {}
        self._again_now: dict[bytes, Tries] = {}
        self._preparer = preparer
        self._row_index = row_index
        self._counters = counters
        self._failures_in_a_row = failures_in_a_row
        self._failures_allowed = failures_allowed
        self._wants = wants
        self._deduplicator = sharing
        self._room = Room()
        self._suspects: list[Suspect] = []
        self._spared: set[bytes] = set()
        self._last = set(last)  #: rows that are asked after all others: they stopped the run before this one
        self.refused = RefusedRows(refusals or Refusals(), self._book, exchanges.of_the_row, stop.request)

    def next_pass(self) -> frozenset[bytes]:
        """The rows of the next pass over the manifest. Each is asked, or ends, in that pass, or is not met again: what
        was to be asked may have its answer by then from another row, or be gone from the manifest."""
        self._again_now, self.again = self.again, {}
        return frozenset(self._again_now)

    # ---------------------------------------------------------------------------- before the wire

    async def room_for(self, row: Row) -> AbstractAsyncContextManager[None]:
        """Memory for the row's images, from their reading until its request has ended; rows wait in order."""
        weight_bytes = 0
        with self.stop.interruptible():
            weight_bytes = await self._preparer.weight_bytes(row)
        return self._room.of(weight_bytes)

    async def request_of(self, row: Row) -> Request | None:
        """The row's request; None where there is nothing to send: it failed here, its content is done already, or it
        waits for a later pass."""
        request: Request | None = None
        if row.row_id in self._last:
            self._last.discard(row.row_id)
            self.again[row_digest(row.row_id, "")] = Tries()
            return None
        try:
            with self.stop.interruptible():  # a download, or a file on a network that hangs
                request = await self._preparer.prepare(row)
        except RowFault as fault:
            self.exchanges.fail(row, fault)
        else:
            self._counters.images_found += sum(ref.kind is ImageKind.PATH for ref in row.images)
        if request is None or not self._is_to_be_sent(row, request):
            return None
        return None if await self._is_answered(request) else request

    async def _is_answered(self, request: Request) -> bool:
        """Whether an identical request has an answer, or will have one."""
        if self._deduplicator.is_full(request):
            self.again[row_digest(request.row_id, "")] = Tries()
            return True
        answer = self._deduplicator.answer_for(request)
        if isinstance(answer, Completed):
            self.exchanges.share(answer, request)
            return True
        if len(self._deduplicator.late) >= LATE_ROWS:
            await self.serve_late()
        return answer

    async def serve_late(self) -> None:
        """Rows whose answer is on the disk already, from earlier runs or from long ago in this one."""
        late = self._deduplicator.take_late()
        if not late:
            return
        found = await self.exchanges.read_answers({request.request_key for request in late})
        for request in late:
            answers = found.get(request.request_key)
            if answers is None:
                self._deduplicator.not_found(request.request_key)
                self.again[row_digest(request.row_id, "")] = Tries()
            elif any(answer.row_id == request.row_id for answer in answers):
                self._counters.rows_done_before += 1  # its own: the image was touched, and is the same
            else:
                self.exchanges.share(answers[0], request)

    def _is_to_be_sent(self, row: Row, request: Request) -> bool:
        """P1, by content: the feed knows a row by what is cheap to see of its images; a touched file looks new."""
        match self._row_index.state(row.row_id, request.request_key):
            case RowState.DONE:
                self._counters.rows_done_before += 1
                return False
            case RowState.FAILED:
                before = self._row_index.failed_before(row.row_id, request.request_key)
                if before is None or self._wants(before):
                    return True
                self._row_index.keep_failed(row.row_id, request.request_key, row.skip_key)
                self._counters.rows_failed += 1
                self._counters.rows_failed_before += 1
                self._counters.rows_quarantined += before.quarantined
                return False
            case RowState.AWAITING | RowState.HELD:
                return False
            case RowState.NEW:
                pass
        return True

    async def lease(self, request: Request) -> Lease | None:
        """Leave to send; None: the run stops first."""
        lease = self.exchanges.lease_nowait(request.estimate)
        if lease is not None:
            return lease
        with self.stop.interruptible():
            try:
                lease = await self.exchanges.lease(request.estimate)
            except StopRun as reason:
                self.stop.request(reason)
        return lease

    async def next_request(self, row: Row, request: Request, again: Again) -> Request | None:
        """The same request for its next try: with images inlined, or with more tokens to answer in, where asked."""
        if again.tries.raised and request.raised_estimate is not None:
            return request._replace(estimate=request.raised_estimate)
        if not again.inline_images:
            return request
        try:
            return await self._preparer.inlined(row, request)
        except RowFault as fault:
            self.exchanges.fail(row, fault, request)
            return None

    def adopt(self, exchange: Exchange) -> OpenTicket:
        """A ticket of an earlier run; rows that ask the same wait for it."""
        self._deduplicator.lead(exchange.intent.row_id, exchange.intent.request_key)
        return self.exchanges.adopt(exchange)

    def first_tries(self, row: Row) -> Tries:
        if not self.again and not self._again_now:
            return _FIRST
        digest = row_digest(row.row_id, "")
        return self.again.pop(digest, None) or self._again_now.pop(digest, Tries())

    # ---------------------------------------------------------------------------- after the wire

    def conclude(self, row: Row | None, judged: EndedExchange) -> Again | None:
        """Book what a verdict means. Again: the same request is to be sent once more by the caller."""
        if self.refused.take(judged):
            self._check_failures()
            return None
        if row is not None and self._may_be_an_outage(judged):
            self._suspects.append(Suspect(row, judged))
            self._settle_suspects()
            return None
        self._book(judged)
        self._settle_suspects()
        self._check_failures()
        match judged.classification.step:
            case Stop(error=reason):
                self.stop.request(reason)
            case Again() as again:
                return again
        return None

    def ask_later(self, intent: Intent, tries: Tries) -> None:
        """In another pass: its images are not at hand any more."""
        self._row_index.collected(intent)
        self.again[row_digest(intent.row_id, "")] = tries

    def _book(self, judged: EndedExchange) -> None:
        """The row's end is also that of the rows which ask the same."""
        self.exchanges.book(judged)
        outcome = judged.classification.outcome
        if outcome is None:
            return
        for follower in self._deduplicator.ended(judged.exchange.intent.request_key, outcome):
            if is_shared(outcome):
                self.exchanges.share(outcome, follower)
            else:
                self.again[row_digest(follower.row_id, "")] = Tries()

    def _may_be_an_outage(self, judged: EndedExchange) -> bool:
        error, outcome = judged.classification.error, judged.classification.outcome
        exhausted = isinstance(outcome, Failed) and outcome.error_kind == AttemptsExhausted.kind
        spared = row_digest(judged.exchange.intent.row_id, "") in self._spared
        return exhausted and error is not None and not spared and self._failures_in_a_row() > 0

    def _settle_suspects(self) -> None:
        """An answer to anybody: the suspects failed by their own fault. An outage: they are asked again later."""
        if not self._suspects:
            return
        streak = self._failures_in_a_row()
        if streak >= OUTAGE_AFTER_FAILURES:
            suspects, self._suspects = self._suspects, []
            for suspect in suspects:
                self._spare(suspect)
        elif streak == 0:
            self.end_suspects()

    def _spare(self, suspect: Suspect) -> None:
        digest = row_digest(suspect.row.row_id, "")
        self._spared.add(digest)
        self.again[digest] = Tries(unspent=1)  # it is not the first try in this run
        self.exchanges.book(suspect.judged.as_retried())

    def end_suspects(self) -> None:
        """They have failed; but where the run stops in a streak of failures, they stay pending like all the rest."""
        suspects, self._suspects = self._suspects, []
        is_unclear = self.stop.is_set and self._failures_in_a_row() > 0
        for suspect in suspects:
            self._book(suspect.judged.as_retried() if is_unclear else suspect.judged)
        self._check_failures()

    def end(self) -> None:
        """No row is left: what is still undecided is decided by what there is."""
        self.refused.settle(is_stopped=self.stop.is_set)
        self._check_failures()

    def _check_failures(self) -> None:
        counters = self._counters
        failed = counters.rows_failed_at_provider
        ended = failed + counters.rows_completed
        if failed and ended >= ENDED_BEFORE_SHARE_COUNTS and not self._failures_allowed(failed, ended):
            self.stop.request(
                TooManyFailures(
                    f"{failed} of {ended} rows failed at the provider, more than limits.max_failed allows: look at "
                    "`batchvision show --status failed`, mend the cause, and run again to go on"
                )
            )

    async def pause(self, seconds: float) -> bool:
        """Sleep before a retry; False: the run stops instead."""
        with self.stop.interruptible():
            await anyio.sleep(seconds)
        return not self.stop.is_set
