"""The steps that each lane takes with a row (permission to send, attempts, the end), and the online lane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol, runtime_checkable

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from batchvision.errors import StopRun, TooManyFailures
from batchvision.limits import Permit
from batchvision.records import Lane, Request, Row
from batchvision.runner.booking import Booking
from batchvision.runner.classify import Classification
from batchvision.runner.exchange import Exchanges, OpenTicket
from batchvision.runner.prepare import RowRequests
from batchvision.runner.refusals import RefusedRows
from batchvision.runner.retry import Again, Stop
from batchvision.runner.waiting_rows import LaterRows, Suspects
from batchvision.stopping import StopSignal

MOST_AHEAD = 256  #: rows that are prepared or written to disk, beside the requests in flight
ENDED_BEFORE_SHARE_COUNTS = 100  #: a share of failures is no sign in fewer rows


class RequestLane(Protocol):
    """Delivers all rows of the stream until the run stops, and collects the tickets of earlier runs.

    ``tickets``: their exchange_ids, the oldest first. A lane hands requests over in submissions: of one request
    (online, deferred) or of many (batch).
    """

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[str]) -> None: ...


@runtime_checkable
class TicketLane(RequestLane, Protocol):
    """A lane for providers that give tickets. ``collect`` reads the ready answers and leaves the rest open."""

    async def collect(self, tickets: Sequence[str]) -> None: ...


@runtime_checkable
class SubmissionControl(Protocol):
    """A lane that can cancel open tickets. Callers ask ``isinstance(lane, SubmissionControl)``."""

    async def cancel(self, tickets: Sequence[str]) -> None:
        """Cancel the tickets, and book what was finished."""


async def next_row(rows: MemoryObjectReceiveStream[Row], stop: StopSignal) -> Row | None:
    """The next row of the stream; ``None`` at its end, or if the run stops first."""
    try:
        return rows.receive_nowait()
    except anyio.EndOfStream:
        return None
    except anyio.WouldBlock:
        with stop.interruptible():
            return await anext(rows, None)
    return None


class Delivery:
    """``failures_allowed`` takes the rows that failed at the provider and all ended rows."""

    def __init__(
        self,
        exchanges: Exchanges,
        requests: RowRequests,
        booking: Booking,
        refused: RefusedRows,
        later: LaterRows,
        failures_allowed: Callable[[int, int], bool],
        stop: StopSignal,
    ) -> None:
        self.exchanges = exchanges
        self.requests = requests
        self.booking = booking
        self.refused = refused
        self.later = later
        self.stop = stop
        self._failures_allowed = failures_allowed
        self._suspects = Suspects(booking.book, later, lambda: exchanges.permits.rate.failures_in_a_row)

    def adopt(self, exchange_id: str) -> tuple[OpenTicket, datetime]:
        """Take a ticket of an earlier run, and return when it was given. Rows that ask the same wait for it.

        No row waits for a redo, because the request has an answer.
        """
        exchange = self.exchanges.adopt(exchange_id)
        if not exchange.intent.is_redo:
            self.requests.accepted(exchange.intent.request_key)
        return OpenTicket(exchange_id), exchange.accepted_at

    async def deliver(self, row: Row, lane: Lane) -> OpenTicket | None:
        """Ask about one row, until it has ended, the run stops, or the provider gives a ticket for it."""
        try:
            async with await self.requests.room_for(row) as room:
                request = await self.requests.request_of(row, room)
                return None if request is None else await self._attempts(row, request, lane)
        except StopRun as reason:  # a cap is reached, the disk failed, or there is no way to the provider
            self.stop.request(reason)
        return None

    async def _attempts(self, row: Row, request: Request, lane: Lane) -> OpenTicket | None:
        tries, permits = self.later.first_tries(row.row_id), self.exchanges.permits
        next_request: Request | None = request
        while next_request is not None and not self.stop.is_set:
            permit: Permit | None = None
            with self.stop.interruptible():
                permit = await permits.acquire(next_request.estimate)
            if permit is None:
                return None
            result = await self.exchanges.send(next_request, tries, permit, lane)
            if isinstance(result, OpenTicket):
                self.refused.succeeded(self.exchanges.sent_at(result))
                self.requests.accepted(next_request.request_key)
                return result
            again = self.conclude(result) if result else None
            if again is None or not await self._pause(again.delay_seconds):
                return None
            tries = again.tries
            next_request = await self.requests.next_request(row, next_request, again)
        return None

    async def _pause(self, seconds: float) -> bool:
        """Sleep before a retry. False: the run stops instead."""
        with self.stop.interruptible():
            await anyio.sleep(seconds)
        return not self.stop.is_set

    def conclude(self, classification: Classification, *, is_repeatable: bool = True) -> Again | None:
        """Book an attempt, or hold it until its meaning is clear. Again: the caller sends the same request once more.

        ``is_repeatable`` False: the images of the row are not at hand (an answer to a ticket).
        """
        if self.refused.take(classification):
            self._stop_if_too_many_failed()
            return None
        if is_repeatable and self._suspects.take(classification):
            self._suspects.settle()
            return None
        self.booking.book(classification)
        self._suspects.settle()
        self._stop_if_too_many_failed()
        match classification.step:
            case Stop(error=reason):
                self.stop.request(reason)
            case Again() as again:
                return again
        return None

    def end_suspects(self) -> None:
        """The lane has sent its last request."""
        self._suspects.end(is_stopped=self.stop.is_set)
        self._stop_if_too_many_failed()

    def end(self) -> None:
        """No row is left. Decide the refused rows that still wait."""
        self.refused.settle(is_stopped=self.stop.is_set)
        self._stop_if_too_many_failed()

    def _stop_if_too_many_failed(self) -> None:
        counters = self.booking.counts.counters
        failed = counters.rows_failed_at_provider
        ended = failed + counters.rows_completed + counters.rows_redone
        if failed and ended >= ENDED_BEFORE_SHARE_COUNTS and not self._failures_allowed(failed, ended):
            self.stop.request(
                TooManyFailures(
                    f"{failed} of {ended} rows failed at the provider, more than limits.max_failed allows: look at "
                    "`batchvision show --status failed`, mend the cause, and run again to go on"
                )
            )


def rows_at_once(concurrency: int) -> int:
    """The number of rows in memory for so many requests in flight."""
    return concurrency + min(MOST_AHEAD, -(-concurrency // 6))


class OnlineLane:
    """A fixed number of workers, each with one row. The rate limiter lets ``concurrency`` of them be on the wire.

    The other workers prepare the next rows or wait for the disk. So the next request leaves as soon as one is back.
    Rule (P5): at most ``concurrency`` exchanges are open in the journal. A place on the wire is reused after its answer
    was appended: in the same commit group as the next intent, or earlier.
    """

    def __init__(self, delivery: Delivery, *, concurrency: int) -> None:
        self._delivery = delivery
        self._workers = rows_at_once(concurrency)

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[str] = ()) -> None:
        """Deliver every row of the stream. This lane has no tickets."""
        with rows:
            async with anyio.create_task_group() as workers:
                for _ in range(self._workers):
                    workers.start_soon(self._work, rows)
        self._delivery.end_suspects()

    async def _work(self, rows: MemoryObjectReceiveStream[Row]) -> None:
        stop = self._delivery.stop
        while not stop.is_set and (row := await next_row(rows, stop)) is not None:
            await self._delivery.deliver(row, Lane.ONLINE)
