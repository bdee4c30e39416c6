"""Deferred: submitters hand requests in and get a ticket; pollers read each ticket's one-time answer.

Tickets of earlier runs are asked for before anything is submitted. A row whose answer asks for another try is asked in
a later pass over the manifest, so that a waiting ticket holds no image.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from math import inf
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from batchvision.errors import AuthenticationFailed, DeadlineReached, DiskFailed, StopRun
from batchvision.eventloop import loop_time
from batchvision.records import Exchange, Request, Row, Tries
from batchvision.runner.exchange import EndedExchange, NotYet, OpenTicket, utc_now
from batchvision.runner.lanes.base import Delivery
from batchvision.wakeup import Wakeup

log = logging.getLogger(__name__)

POLLERS = 64  #: polls on the wire at once; a poll is a short GET
MOST_POLLS_PER_SECOND = 300.0  #: with ten thousand tickets open, each is asked for about twice a minute
PLANNED_SHARE = 0.92  #: of the polls that may leave: what a stall made late is made up for in a dozen times its length
FIRST_POLL_SECONDS = 1.0  #: before any latency is known
LONGEST_POLL_WAIT_SECONDS = 30.0
MOST_UNKNOWN_POLLS = 3  #: of a ticket that the place does not know: then it waits for another run
LAST_ROUND_SECONDS = 60.0  #: for collecting what is ready after a stop
FAILED_POLLS = 3  #: so many polls that say the work failed end a ticket,
FAILED_SECONDS = 600.0  #: when so much time lies between the first and the last
NEAR_EXPIRY_SECONDS = 20 * 3600.0  #: from this age on a ticket goes before all others


@dataclass(slots=True)
class Waiting:
    """A ticket in the queue. Ages are on the loop's clock, so that a wall clock that jumps does no harm."""

    ticket: OpenTicket
    born_at: float
    adopted_at: float
    wait_seconds: float
    due_at: float = 0.0  #: its slot in the timetable of polls
    is_of_this_run: bool = True
    failed_polls: int = 0  #: polls in a row that said the work failed
    failed_since: float = inf
    unknown_polls: int = 0  #: so many were answered 404, and nobody has read it

    def has_stayed_failed(self, now: float) -> bool:
        """Whether one more poll that says so ends the ticket."""
        return self.failed_polls >= FAILED_POLLS - 1 and now - self.failed_since >= FAILED_SECONDS

    def count_poll(self, now: float, *, says_failed: bool) -> None:
        self.failed_since = min(self.failed_since, now) if says_failed else inf
        self.failed_polls = self.failed_polls + 1 if says_failed else 0

    def age(self, now: float) -> float:
        return now - self.born_at


class TicketQueue:
    """Open tickets by the time of their next poll; those near their expiry first.

    Every poll has a slot in a timetable that holds no more of them than may leave (``polls_per_second``): with many
    tickets each waits longer, and none queues for its turn when its time has come.
    """

    def __init__(self, rng: random.Random, polls_per_second: Callable[[], float | None] = lambda: None) -> None:
        self._heap: list[tuple[float, int, Waiting]] = []
        self._numbers = count()
        self._random = rng
        self._polls_per_second = polls_per_second
        self._next_slot = float("-inf")
        self._latencies: list[float] = []
        self._turn, self._earlier_due = asyncio.Lock(), Wakeup()  # one poller watches the clock for all
        self._entrance, self._freed = asyncio.Lock(), Wakeup()
        self._being_read = 0
        self._reserved = 0
        self._closed = False

    def __len__(self) -> int:
        return len(self._heap) + self._being_read + self._reserved

    def __repr__(self) -> str:
        return f"<TicketQueue {len(self._heap)} waiting, {self._being_read} being read, {self._reserved} to come>"

    @property
    def median_latency_seconds(self) -> float:
        """Of the last answers read; the first poll of a new ticket waits this long."""
        if not self._latencies:
            return FIRST_POLL_SECONDS
        return sorted(self._latencies)[len(self._latencies) // 2]

    def _slot(self, not_before: float) -> float:
        """When the next poll that is planned may be."""
        may_leave = self._polls_per_second()
        most = MOST_POLLS_PER_SECOND if may_leave is None else min(MOST_POLLS_PER_SECOND, may_leave * PLANNED_SHARE)
        self._next_slot = max(loop_time(), self._next_slot + 1 / most)
        return max(not_before, self._next_slot)

    # ---------------------------------------------------------------- coming in

    def open(self) -> None:
        self._closed = False

    def close(self) -> None:
        """No more tickets are coming: ``next_due`` ends when the last one has."""
        self._closed = True
        self._earlier_due.tell()

    async def reserve(self, most: int) -> None:
        """Wait until fewer than ``most`` tickets are open, and keep a place."""
        async with self._entrance:
            while len(self) >= most:
                await self._freed.wait()
            self._reserved += 1

    def give_up_place(self) -> None:
        self._reserved -= 1
        self._tell_of_a_place()

    def add(self, ticket: OpenTicket) -> None:
        """A new ticket takes its reserved place."""
        self._reserved -= 1
        now, wait = loop_time(), self.median_latency_seconds
        self._push(Waiting(ticket, now, now, max(FIRST_POLL_SECONDS, wait) / 4), self._slot(now + wait))

    def add_earlier(self, ticket: OpenTicket, age_seconds: float) -> None:
        """A ticket of an earlier run, due as soon as there is a slot: they are to come the oldest first."""
        now = loop_time()
        waiting = Waiting(ticket, now - age_seconds, now, FIRST_POLL_SECONDS, is_of_this_run=False)
        self._push(waiting, self._slot(now))

    # ---------------------------------------------------------------- going out

    def pop_due(self) -> Waiting | None:
        """The next ticket whose time has come. The caller ends with one of again, read, drop."""
        if not self._heap or self._heap[0][0] > loop_time():
            return None
        self._being_read += 1
        return heapq.heappop(self._heap)[2]

    def pop_any(self) -> Waiting | None:
        """The next ticket, due or not."""
        if not self._heap:
            return None
        self._being_read += 1
        return heapq.heappop(self._heap)[2]

    async def next_due(self) -> Waiting | None:
        """Wait for the next ticket whose time has come; None when none is left and none is coming."""
        async with self._turn:
            while (waiting := self.pop_due()) is None:
                if self._closed and not len(self):
                    return None
                await self._earlier_due.wait(until=self._heap[0][0] if self._heap else inf)
            return waiting

    def again(self, waiting: Waiting) -> None:
        """Not ready: wait longer than the last time, with jitter, up to 30 s."""
        self._being_read -= 1
        waiting.wait_seconds = min(LONGEST_POLL_WAIT_SECONDS, waiting.wait_seconds * 1.5)
        jittered = waiting.wait_seconds * self._random.uniform(0.75, 1.25)
        self._push(waiting, self._slot(loop_time() + jittered))

    def read(self, waiting: Waiting) -> None:
        """The ticket has its answer. What this run saw of it, from acceptance on, teaches when to look for the next."""
        if waiting.is_of_this_run:
            self._latencies.append(waiting.age(loop_time()))
            del self._latencies[:-101]
        self.drop(waiting)

    def drop(self, waiting: Waiting) -> None:
        """Not asked for any more in this run."""
        self._being_read -= 1
        self._tell_of_a_place()

    def _push(self, waiting: Waiting, due: float) -> None:
        is_old = waiting.age(loop_time()) >= NEAR_EXPIRY_SECONDS
        waiting.due_at = due
        item = (due - NEAR_EXPIRY_SECONDS if is_old else due, next(self._numbers), waiting)
        heapq.heappush(self._heap, item)
        if self._heap[0] is item:
            self._earlier_due.tell()

    def _tell_of_a_place(self) -> None:
        self._freed.tell()
        if self._closed and not len(self):
            self._earlier_due.tell()


class DeferredLane:
    """Hand in, poll, read once."""

    def __init__(
        self,
        delivery: Delivery,
        *,
        concurrency: int,
        max_open_tickets: int,
        max_ticket_wait_seconds: float,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
    ) -> None:
        self._delivery = delivery
        self._submitters = min(concurrency, max_open_tickets)
        self._max_open_tickets = max_open_tickets
        self._max_wait_seconds = max_ticket_wait_seconds
        self._now = now
        self._queue = TicketQueue(rng or random.Random(), lambda: delivery.exchanges.polls_per_second)
        self._not_asked_yet = 0
        self._given_up = 0
        self._unknown = 0

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[Exchange] = ()) -> None:
        """Collect what earlier runs left, then submit the rows and collect their answers as they come."""
        with rows:
            self._queue.open()
            for exchange in sorted(tickets, key=lambda exchange: exchange.accepted_at):
                age = self._now() - exchange.accepted_at
                self._queue.add_earlier(self._delivery.adopt(exchange), max(0.0, age.total_seconds()))
            self._not_asked_yet = len(tickets)
            await self._with_pollers(self._ask_once)
            async with anyio.create_task_group() as pollers:
                for _ in range(POLLERS):
                    pollers.start_soon(self._poll)
                async with anyio.create_task_group() as submitters:
                    for _ in range(self._submitters):
                        submitters.start_soon(self._submit, rows)
                self._queue.close()
        self._delivery.end_suspects()
        await self._last_round()
        self._say_what_was_given_up()

    async def collect(self, tickets: Sequence[Exchange]) -> None:
        """Only the tickets: beside another lane's deliveries."""
        send, rows = anyio.create_memory_object_stream[Row]()
        send.close()
        await self.deliver(rows, tickets)

    def _say_what_was_given_up(self) -> None:
        if self._unknown:
            log.warning(
                "%d open tickets are not known here, and no run has read them: perhaps the key is of another account. "
                "They are kept for 24 hours after they were given: run with the key that asked to collect them",
                self._unknown,
            )
        if self._given_up:
            self._delivery.stop.request(
                DeadlineReached(
                    f"{self._given_up} tickets are still open after delivery.max_ticket_wait_seconds "
                    f"({self._max_wait_seconds:g} s). They are kept: run again within 24 hours to collect them"
                )
            )

    # ---------------------------------------------------------------------------- tickets

    async def _with_pollers(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with anyio.create_task_group() as pollers:
            for _ in range(POLLERS):
                pollers.start_soon(task)

    async def _ask_once(self) -> None:
        """Every ticket of an earlier run is read, or found not ready, before anything new is submitted."""
        with self._delivery.stop.interruptible():
            while self._not_asked_yet > 0:
                self._not_asked_yet -= 1
                waiting = await self._queue.next_due()
                if waiting is None:
                    return
                await self._read(waiting)

    async def _last_round(self) -> None:
        """After a stop, what is ready still comes in: every ticket is asked for once more (not with a refused key)."""
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
                result = NotYet()
            self._queue.drop(waiting)
            if isinstance(result, EndedExchange):
                self._end(result)

    async def _poll(self) -> None:
        """A stop ends polling at once; the last round follows."""
        with self._delivery.stop.interruptible():
            while (waiting := await self._queue.next_due()) is not None:
                await self._read(waiting)

    async def _read(self, waiting: Waiting) -> None:
        """One poll. Cancelled before it has left, its ticket stays in the queue."""
        result: EndedExchange | NotYet | None = None
        try:
            has_stayed = waiting.has_stayed_failed(loop_time())
            result = await self._delivery.exchanges.collect(waiting.ticket, has_stayed=has_stayed)
        except StopRun as reason:
            self._delivery.stop.request(reason)
        finally:
            self._back(waiting, result)

    def _back(self, waiting: Waiting, result: EndedExchange | NotYet | None) -> None:
        match result:
            case EndedExchange(exchange, _):
                is_answered = exchange.answer is not None and exchange.answer.status == 200
                (self._queue.read if is_answered else self._queue.drop)(waiting)
                self._end(result)
            case NotYet(is_unknown=True) if waiting.unknown_polls + 1 >= MOST_UNKNOWN_POLLS:
                self._unknown += 1
                self._queue.drop(waiting)
            case NotYet() if loop_time() - waiting.adopted_at >= self._max_wait_seconds:
                self._given_up += 1
                self._queue.drop(waiting)
            case NotYet(says_failed=says_failed, is_unknown=is_unknown):
                waiting.count_poll(loop_time(), says_failed=says_failed)
                waiting.unknown_polls += is_unknown
                self._queue.again(waiting)
            case _:
                self._queue.again(waiting)

    def _end(self, judged: EndedExchange) -> None:
        again = self._delivery.conclude(None, judged)
        if again is not None:
            self._delivery.ask_later(judged.exchange.intent, again.tries)

    # ---------------------------------------------------------------------------- submissions

    async def _submit(self, rows: MemoryObjectReceiveStream[Row]) -> None:
        stop = self._delivery.stop
        while not stop.is_set:
            row: Row | None = None
            is_reserved = False
            with stop.interruptible():
                await self._queue.reserve(self._max_open_tickets)
                is_reserved = True
                row = await anext(rows, None)
            if row is None:
                if is_reserved:
                    self._queue.give_up_place()
                return
            is_open = False
            try:
                async with await self._delivery.room_for(row):
                    is_open = await self._submit_one(row)
            except StopRun as reason:  # the disk: nothing is sent without it
                stop.request(reason)
            if not is_open:
                self._queue.give_up_place()

    async def _submit_one(self, row: Row) -> bool:
        """Try until the provider has accepted the row's request (True) or there is nothing to wait for."""
        delivery = self._delivery
        request: Request | None = await delivery.request_of(row)
        if request is None:
            return False
        tries: Tries = delivery.first_tries(row)
        while request is not None and not delivery.stop.is_set:
            lease = await delivery.lease(request)
            if lease is None:
                return False
            result = await delivery.exchanges.submit(request, tries, lease)
            if isinstance(result, OpenTicket):
                delivery.refused.succeeded(result.exchange.intent.sent_at)
                self._queue.add(result)
                return True
            again = delivery.conclude(row, result) if result else None
            if again is None or not await delivery.pause(again.delay_seconds):
                return False
            tries = again.tries
            request = await delivery.next_request(row, request, again)
        return False
