"""Deferred: submitters hand requests in and get a ticket; pollers read each ticket's one-time answer.

Tickets of earlier runs are asked for before anything is submitted. A row whose answer asks for another try is asked in
a later pass over the manifest, so that a waiting ticket holds no image.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from batchvision.errors import AuthenticationFailed, DeadlineReached, DiskFailed, StopRun
from batchvision.exchange import Judged, NotYet, OpenTicket, utc_now
from batchvision.keys import row_digest
from batchvision.lanes.base import Delivery
from batchvision.records import Exchange, Request, Row, Tries

POLLERS = 16  #: polls on the wire at once; a poll is a short GET
FIRST_POLL_SECONDS = 1.0  #: before any latency is known
LONGEST_POLL_WAIT_SECONDS = 30.0
LAST_ROUND_SECONDS = 60.0  #: for collecting what is ready after a stop
NEAR_EXPIRY_SECONDS = 20 * 3600.0  #: from this age on a ticket goes before all others


@dataclass(slots=True)
class Waiting:
    """A ticket in the queue. Ages are on the loop's clock, so that a wall clock that jumps does no harm."""

    ticket: OpenTicket
    born_at: float
    adopted_at: float
    wait_seconds: float

    def age(self, now: float) -> float:
        return now - self.born_at


class TicketQueue:
    """Open tickets by the time of their next poll; those near their expiry first."""

    def __init__(self, rng: random.Random) -> None:
        self._heap: list[tuple[float, int, Waiting]] = []
        self._numbers = count()
        self._random = rng
        self._latencies: list[float] = []
        self._changed = anyio.Event()
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

    # ---------------------------------------------------------------- coming in

    def open(self) -> None:
        self._closed = False

    def close(self) -> None:
        """No more tickets are coming: ``next_due`` ends when the last one has."""
        self._closed = True
        self._tell()

    async def reserve(self, most: int) -> None:
        """Wait until fewer than ``most`` tickets are open, and keep a place."""
        while len(self) >= most:
            changed = self._changed
            await changed.wait()
        self._reserved += 1

    def give_up_place(self) -> None:
        self._reserved -= 1
        self._tell()

    def add(self, ticket: OpenTicket) -> None:
        """A new ticket takes its reserved place."""
        self._reserved -= 1
        now, wait = anyio.current_time(), self.median_latency_seconds
        self._push(Waiting(ticket, now, now, max(FIRST_POLL_SECONDS, wait) / 4), now + wait)

    def add_earlier(self, ticket: OpenTicket, age_seconds: float) -> None:
        """A ticket of an earlier run; it is due at once, the oldest first."""
        now = anyio.current_time()
        self._push(Waiting(ticket, now - age_seconds, now, FIRST_POLL_SECONDS), now - age_seconds)

    # ---------------------------------------------------------------- going out

    def pop_due(self) -> Waiting | None:
        """The next ticket whose time has come. The caller ends with one of again, read, drop."""
        if not self._heap or self._heap[0][0] > anyio.current_time():
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
        while (waiting := self.pop_due()) is None:
            if self._closed and not len(self):
                return None
            changed = self._changed
            with anyio.move_on_after(self._heap[0][0] - anyio.current_time() if self._heap else float("inf")):
                await changed.wait()
        return waiting

    def again(self, waiting: Waiting) -> None:
        """Not ready: wait longer than the last time, with jitter, up to 30 s."""
        self._being_read -= 1
        waiting.wait_seconds = min(LONGEST_POLL_WAIT_SECONDS, waiting.wait_seconds * 1.5)
        jittered = waiting.wait_seconds * self._random.uniform(0.75, 1.25)
        self._push(waiting, anyio.current_time() + jittered)

    def read(self, waiting: Waiting) -> None:
        """The ticket has ended; its age teaches when to look for the next ones."""
        self._latencies.append(waiting.age(anyio.current_time()))
        del self._latencies[:-101]
        self.drop(waiting)

    def drop(self, waiting: Waiting) -> None:
        """Not asked for any more in this run."""
        self._being_read -= 1
        self._tell()

    def _push(self, waiting: Waiting, due: float) -> None:
        is_old = waiting.age(anyio.current_time()) >= NEAR_EXPIRY_SECONDS
        heapq.heappush(self._heap, (due - NEAR_EXPIRY_SECONDS if is_old else due, next(self._numbers), waiting))
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


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
        self._queue = TicketQueue(rng or random.Random())
        self._given_up = 0

    async def deliver(self, rows: MemoryObjectReceiveStream[Row], tickets: Sequence[Exchange] = ()) -> None:
        """Collect what earlier runs left, then submit the rows and collect their answers as they come."""
        with rows:
            self._queue.open()
            for exchange in tickets:
                age = self._now() - (exchange.ticket_at or exchange.intent.sent_at)
                self._queue.add_earlier(self._delivery.adopt(exchange), max(0.0, age.total_seconds()))
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
        """Every ticket that is due is read, or found not ready, before anything new is submitted."""
        while not self._delivery.stop.is_set and (waiting := self._queue.pop_due()) is not None:
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
            if isinstance(result, Judged):
                self._end(result)

    async def _poll(self) -> None:
        """A stop ends polling at once; the last round follows."""
        while not self._delivery.stop.is_set:
            waiting: Waiting | None = None
            with self._delivery.stop.interruptible():
                waiting = await self._queue.next_due()
            if waiting is None:
                return
            await self._read(waiting)

    async def _read(self, waiting: Waiting) -> None:
        """One poll."""
        result: Judged | NotYet | None = None
        try:
            with self._delivery.stop.interruptible():
                result = await self._delivery.exchanges.collect(waiting.ticket)
        except StopRun as reason:
            self._delivery.stop.request(reason)
        match result:
            case Judged():
                self._queue.read(waiting)
                self._end(result)
            case NotYet() if anyio.current_time() - waiting.adopted_at >= self._max_wait_seconds:
                self._given_up += 1
                self._queue.drop(waiting)
            case _:
                self._queue.again(waiting)

    def _end(self, judged: Judged) -> None:
        again = self._delivery.conclude(None, judged)
        if again is not None:
            self._delivery.again[row_digest(judged.exchange.intent.row_id, "")] = again.tries

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
                async with self._delivery.room_for(row):
                    is_open = await self._submit_one(row)
            except StopRun as reason:  # the disk: nothing is sent without it
                stop.request(reason)
            if not is_open:
                self._queue.give_up_place()

    async def _submit_one(self, row: Row) -> bool:
        """Try until the provider has accepted the row's request (True) or there is nothing to wait for."""
        delivery = self._delivery
        request: Request | None = await delivery.request_of(row)
        tries: Tries = delivery.first_tries(row)
        while request is not None and not delivery.stop.is_set:
            lease = await delivery.lease(request)
            if lease is None:
                return False
            result = await delivery.exchanges.submit(request, tries, lease)
            if isinstance(result, OpenTicket):
                self._queue.add(result)
                return True
            again = delivery.conclude(row, result) if result else None
            if again is None or not await delivery.pause(again.delay_seconds):
                return False
            tries = again.tries
            request = await delivery.next_request(row, request, again)
        return False
