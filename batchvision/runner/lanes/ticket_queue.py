"""The queue of open tickets: which one is polled next, and when."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from batchvision.eventloop import Wakeup, loop_time
from batchvision.providers import Dialect
from batchvision.runner.exchange import OpenTicket

PLANNED_SHARE = 0.92  #: of the polls that the rate limiter allows, so that the queue catches up after a stall
FAILED_POLLS = 3  #: polls in a row that report failed work end a ticket,
FAILED_SECONDS = 600.0  #: if the first and the last are so far apart
URGENT_SECONDS = 4 * 3600.0  #: a ticket with so little of its lifetime left goes first


@dataclass(slots=True)
class QueuedTicket:
    """A ticket that is being polled. Its times are on the loop's clock, because the wall clock may jump."""

    ticket: OpenTicket
    born_at: float
    adopted_at: float
    wait_seconds: float
    due_at: float = 0.0  #: its slot in the timetable of polls
    is_of_this_run: bool = True
    failed_polls: int = 0  #: polls in a row that reported failed work
    failed_since: float = inf
    unknown_polls: int = 0  #: polls that were answered 404 for a ticket that was never read

    def has_stayed_failed(self, now: float) -> bool:
        """Whether one more poll that reports failed work ends the ticket."""
        return self.failed_polls >= FAILED_POLLS - 1 and now - self.failed_since >= FAILED_SECONDS

    def count_poll(self, now: float, *, says_failed: bool) -> None:
        self.failed_since = min(self.failed_since, now) if says_failed else inf
        self.failed_polls = self.failed_polls + 1 if says_failed else 0

    def age(self, now: float) -> float:
        return now - self.born_at


#: A queued ticket without its id: the tokens of :class:`OpenTicket`, then the fields of :class:`QueuedTicket`.
_FIELDS = np.dtype(
    [
        ("tokens", "f4"),
        ("born_at", "f8"),
        ("adopted_at", "f8"),
        ("wait_seconds", "f4"),
        ("due_at", "f8"),
        ("is_of_this_run", "?"),
        ("failed_polls", "i4"),
        ("failed_since", "f8"),
        ("unknown_polls", "i4"),
    ]
)


class WaitingTickets:
    """Tickets in the queue, about 60 bytes each beside the id. The first is found by a search over all of them."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._moments: NDArray[np.float64] = np.empty(64, np.float64)
        self._fields: NDArray[np.void] = np.empty(64, _FIELDS)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def first_moment(self) -> float:
        """Infinite without a ticket."""
        return float(self._moments[: len(self)].min(initial=inf))

    def add(self, moment: float, waiting: QueuedTicket) -> None:
        place = len(self)
        if place == len(self._moments):
            self._moments = np.concatenate([self._moments, np.empty(place // 8, np.float64)])
            self._fields = np.concatenate([self._fields, np.empty(place // 8, _FIELDS)])
        self._ids.append(waiting.ticket.exchange_id)
        self._moments[place] = moment
        self._fields[place] = (
            waiting.ticket.tokens,
            waiting.born_at,
            waiting.adopted_at,
            waiting.wait_seconds,
            waiting.due_at,
            waiting.is_of_this_run,
            waiting.failed_polls,
            waiting.failed_since,
            waiting.unknown_polls,
        )

    def pop(self) -> QueuedTicket:
        """Remove the ticket with the first moment. The last one takes its place."""
        last = len(self) - 1
        place = int(self._moments[: last + 1].argmin())
        exchange_id, (tokens, *fields) = self._ids[place], self._fields[place].item()
        self._ids[place] = self._ids[last]
        self._moments[place], self._fields[place] = self._moments[last], self._fields[last]
        self._ids.pop()
        return QueuedTicket(OpenTicket(exchange_id, tokens), *fields)


class TicketQueue:
    """Open tickets by the time of their next poll; those near their expiry first.

    ``rules``: the poll rules of the provider. ``polls_per_second``: the allowed rate; ``None``: unknown.
    Each poll has a slot in a timetable that holds at most as many polls as are allowed. So with many tickets each one
    waits longer, and a due poll leaves at once.
    """

    def __init__(
        self, rules: Dialect, rng: random.Random, polls_per_second: Callable[[], float | None] = lambda: None
    ) -> None:
        self._rules = rules
        self._waiting = WaitingTickets()
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
        return len(self._waiting) + self._being_read + self._reserved

    def __repr__(self) -> str:
        return f"<TicketQueue {len(self._waiting)} waiting, {self._being_read} being read, {self._reserved} to come>"

    @property
    def median_latency_seconds(self) -> float:
        """The median of the last answers read; the first poll of a new ticket waits this long."""
        if not self._latencies:
            return self._rules.first_poll_seconds
        return sorted(self._latencies)[len(self._latencies) // 2]

    def _slot(self, not_before: float) -> float:
        """The time of the next free slot."""
        may_leave = self._polls_per_second()
        most = self._rules.most_polls_per_second
        if may_leave is not None:
            most = min(most, may_leave * PLANNED_SHARE)
        self._next_slot = max(loop_time(), self._next_slot + 1 / most)
        return max(not_before, self._next_slot)

    # ---------------------------------------------------------------- coming in

    def open(self) -> None:
        self._closed = False

    def close(self) -> None:
        """End ``next_due`` after the last ticket. The queue takes no further tickets."""
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
        self._push(
            QueuedTicket(ticket, now, now, max(self._rules.first_poll_seconds, wait) / 4), self._slot(now + wait)
        )

    def add_earlier(self, ticket: OpenTicket, age_seconds: float) -> None:
        """A ticket of an earlier run, due at the next free slot. The caller adds the oldest first."""
        now = loop_time()
        waiting = QueuedTicket(ticket, now - age_seconds, now, self._rules.first_poll_seconds, is_of_this_run=False)
        self._push(waiting, self._slot(now))

    # ---------------------------------------------------------------- going out

    def pop_due(self) -> QueuedTicket | None:
        """The next ticket that is due. The caller ends with one of again, read, drop."""
        return None if self._waiting.first_moment > loop_time() else self.pop_any()

    def pop_any(self) -> QueuedTicket | None:
        """The next ticket, due or not."""
        if not len(self._waiting):
            return None
        self._being_read += 1
        return self._waiting.pop()

    async def next_due(self) -> QueuedTicket | None:
        """Wait for the next ticket that is due. ``None``: the queue is closed and empty."""
        async with self._turn:
            while (waiting := self.pop_due()) is None:
                if self._closed and not len(self):
                    return None
                await self._earlier_due.wait(until=self._waiting.first_moment)
            return waiting

    def again(self, waiting: QueuedTicket) -> None:
        """The ticket is not ready: wait longer than the last time, with jitter, up to the longest wait."""
        self._being_read -= 1
        waiting.wait_seconds = min(self._rules.longest_poll_wait_seconds, waiting.wait_seconds * 1.5)
        jittered = waiting.wait_seconds * self._random.uniform(0.75, 1.25)
        self._push(waiting, self._slot(loop_time() + jittered))

    def read(self, waiting: QueuedTicket) -> None:
        """The ticket has its answer. The latency of a ticket of this run sets the first wait of later tickets."""
        if waiting.is_of_this_run:
            self._latencies.append(waiting.age(loop_time()))
            del self._latencies[:-101]
        self.drop(waiting)

    def drop(self, waiting: QueuedTicket) -> None:
        """The ticket is not polled again in this run."""
        self._being_read -= 1
        self._tell_of_a_place()

    def _push(self, waiting: QueuedTicket, due: float) -> None:
        urgent_from = self._rules.ticket_lifetime.total_seconds() - URGENT_SECONDS
        is_old = waiting.age(loop_time()) >= urgent_from
        waiting.due_at = due
        moment = due - urgent_from if is_old else due
        is_first = moment < self._waiting.first_moment
        self._waiting.add(moment, waiting)
        if is_first:
            self._earlier_due.tell()

    def _tell_of_a_place(self) -> None:
        self._freed.tell()
        if self._closed and not len(self):
            self._earlier_due.tell()
