"""Deferred: submitters send requests and get tickets; pollers read the one-time answer of each ticket.

Tickets of earlier runs are polled before anything is submitted. A row that needs another try is asked in a later pass
over the manifest. So an open ticket holds no image.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from batchvision.errors import AuthenticationFailed, DeadlineReached, DiskFailed, StopRun
from batchvision.eventloop import loop_time
from batchvision.providers import Dialect
from batchvision.records import Lane, Row
from batchvision.runner.classify import Classification
from batchvision.runner.exchange import StillOpen
from batchvision.runner.lanes.delivery import Delivery
from batchvision.runner.lanes.ticket_queue import QueuedTicket, TicketQueue

log = logging.getLogger(__name__)

POLLERS = 64  #: polls on the wire at once; a poll is a short GET
MOST_UNKNOWN_POLLS = 3  #: polls of a ticket that this account does not know; then it waits for another run
LAST_ROUND_SECONDS = 60.0  #: for collecting the answers that are ready after a stop


@dataclass(frozen=True, slots=True)
class DeferredSettings:
    """``rules``: the provider's poll rules and ticket lifetime."""

    rules: Dialect
    concurrency: int
    max_open_tickets: int
    max_ticket_wait_seconds: float


class DeferredLane:
    """Submits requests, polls their tickets, and reads each answer once."""

    def __init__(
        self, delivery: Delivery, settings: DeferredSettings, now: Callable[[], datetime], rng: random.Random
    ) -> None:
        self._delivery = delivery
        self._settings = settings
        self._now = now
        permits = delivery.exchanges.permits
        self._queue = TicketQueue(settings.rules, rng, lambda: permits.rate.polls_per_second)
        self._not_asked_yet = 0
        self._given_up = 0
        self._unknown = 0

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[str] = ()) -> None:
        """Poll the tickets of earlier runs, then submit the rows and collect their answers as they come.

        ``tickets``: exchange_ids, the oldest first.
        """
        with rows:
            self._queue.open()
            for exchange_id in tickets:
                ticket, accepted_at = self._delivery.adopt(exchange_id)
                age = self._now() - accepted_at
                self._queue.add_earlier(ticket, max(0.0, age.total_seconds()))
            self._not_asked_yet = len(tickets)
            await self._with_pollers(self._ask_once)
            async with anyio.create_task_group() as pollers:
                for _ in range(POLLERS):
                    pollers.start_soon(self._poll)
                async with anyio.create_task_group() as submitters:
                    for _ in range(min(self._settings.concurrency, self._settings.max_open_tickets)):
                        submitters.start_soon(self._submit, rows)
                self._queue.close()
        self._delivery.end_suspects()
        await self._last_round()
        self._report_open_tickets()

    async def collect(self, tickets: Sequence[str]) -> None:
        """Collect tickets without submitting anything, beside another lane."""
        send, rows = anyio.create_memory_object_stream[Row]()
        send.close()
        await self.deliver(rows, tickets)

    def _report_open_tickets(self) -> None:
        hours = f"{self._settings.rules.ticket_lifetime.total_seconds() / 3600:g} hours"
        if self._unknown:
            log.warning(
                "%d open tickets are not known here, and no run has read them: perhaps the key is of another account. "
                "They are kept for %s after they were given: run with the key that asked to collect them",
                self._unknown,
                hours,
            )
        if self._given_up:
            self._delivery.stop.request(
                DeadlineReached(
                    f"{self._given_up} tickets are still open after delivery.max_ticket_wait_seconds "
                    f"({self._settings.max_ticket_wait_seconds:g} s). They are kept: run again within {hours} to "
                    "collect them"
                )
            )

    # ---------------------------------------------------------------------------- submissions

    async def _submit(self, rows: MemoryObjectReceiveStream[Row]) -> None:
        """Take rows and submit them while there is a place for their tickets."""
        stop = self._delivery.stop
        while not stop.is_set:
            row: Row | None = None
            is_reserved = False
            with stop.interruptible():
                await self._queue.reserve(self._settings.max_open_tickets)
                is_reserved = True
                row = await anext(rows, None)
            ticket = None if row is None else await self._delivery.deliver(row, Lane.DEFERRED)
            if ticket is not None:
                self._queue.add(ticket)
            elif is_reserved:
                self._queue.give_up_place()
            if row is None:
                return

    # ---------------------------------------------------------------------------- polls

    async def _with_pollers(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with anyio.create_task_group() as pollers:
            for _ in range(POLLERS):
                pollers.start_soon(task)

    async def _ask_once(self) -> None:
        """Poll each ticket of an earlier run once, before anything new is submitted."""
        with self._delivery.stop.interruptible():
            while self._not_asked_yet > 0:
                self._not_asked_yet -= 1
                waiting = await self._queue.next_due()
                if waiting is None:
                    return
                await self._read(waiting)

    async def _poll(self) -> None:
        """Poll until the queue is closed and empty. A stop ends polling at once; the last round follows."""
        with self._delivery.stop.interruptible():
            while (waiting := await self._queue.next_due()) is not None:
                await self._read(waiting)

    async def _last_round(self) -> None:
        """Poll each ticket once more after a stop, unless the key was refused or the disk failed."""
        stop = self._delivery.stop
        if not stop.is_set or isinstance(stop.reason, AuthenticationFailed | DiskFailed):
            return
        with anyio.move_on_after(LAST_ROUND_SECONDS):
            await self._with_pollers(self._ask_last)

    async def _ask_last(self) -> None:
        while (waiting := self._queue.pop_any()) is not None:
            try:
                result = await self._delivery.exchanges.collect(waiting.ticket)
            except StopRun:
                result = StillOpen()
            self._queue.drop(waiting)
            if isinstance(result, Classification):
                self._end(result)

    async def _read(self, waiting: QueuedTicket) -> None:
        """Poll once. If the poll is cancelled before it has left, the ticket stays in the queue."""
        result: Classification | StillOpen | None = None
        try:
            has_stayed = waiting.has_stayed_failed(loop_time())
            result = await self._delivery.exchanges.collect(waiting.ticket, has_stayed=has_stayed)
        except StopRun as reason:
            self._delivery.stop.request(reason)
        finally:
            self._back(waiting, result)

    def _back(self, waiting: QueuedTicket, result: Classification | StillOpen | None) -> None:
        """Put a polled ticket back into the queue, or book its answer."""
        match result:
            case Classification(attempt=attempt):
                (self._queue.read if attempt.http_status == 200 else self._queue.drop)(waiting)
                self._end(result)
            case StillOpen(is_unknown=True) if waiting.unknown_polls + 1 >= MOST_UNKNOWN_POLLS:
                self._unknown += 1
                self._leave_open(waiting)
            case StillOpen() if loop_time() - waiting.adopted_at >= self._settings.max_ticket_wait_seconds:
                self._given_up += 1
                self._leave_open(waiting)
            case StillOpen(says_failed=says_failed, is_unknown=is_unknown):
                waiting.count_poll(loop_time(), says_failed=says_failed)
                waiting.unknown_polls += is_unknown
                self._queue.again(waiting)
            case _:
                self._queue.again(waiting)

    def _leave_open(self, waiting: QueuedTicket) -> None:
        """Leave a ticket for another run."""
        self._delivery.exchanges.leave_open(waiting.ticket)
        self._queue.drop(waiting)

    def _end(self, classification: Classification) -> None:
        again = self._delivery.conclude(classification, is_repeatable=False)
        if again is not None:
            self._delivery.requests.ask_later(classification.intent, again.tries)
