"""The queue of open tickets: due in order, later each time, the oldest first near their expiry."""

from __future__ import annotations

import random
from dataclasses import replace

import anyio
import pytest
from virtual_time import VIRTUAL

from batchvision.providers import dialect
from batchvision.runner.exchange import OpenTicket
from batchvision.runner.lanes.ticket_queue import PLANNED_SHARE, URGENT_SECONDS, QueuedTicket, TicketQueue

pytestmark = pytest.mark.anyio

RULES = dialect("xai")


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


def ticket(name: str) -> OpenTicket:
    return OpenTicket(name)


async def due(queue: TicketQueue) -> QueuedTicket:
    waiting = await queue.next_due()
    assert waiting is not None
    return waiting


async def added(queue: TicketQueue, name: str) -> None:
    await queue.reserve(10_000)
    queue.add(ticket(name))


async def test_a_new_ticket_is_first_asked_for_after_the_median_latency_of_the_last_answers():
    queue = TicketQueue(RULES, random.Random(1))
    start = anyio.current_time()
    await added(queue, "a")
    waiting = await due(queue)
    assert anyio.current_time() - start == pytest.approx(RULES.first_poll_seconds, abs=0.01)
    await anyio.sleep(39)
    queue.read(waiting)
    assert queue.median_latency_seconds == pytest.approx(40, abs=0.01)
    start = anyio.current_time()
    await added(queue, "b")
    await due(queue)
    assert anyio.current_time() - start == pytest.approx(40, abs=0.01)


async def test_a_ticket_that_is_not_ready_waits_longer_each_time_up_to_half_a_minute():
    queue = TicketQueue(RULES, random.Random(1))
    await added(queue, "a")
    waits = []
    for _ in range(14):
        waiting = await due(queue)
        before = anyio.current_time()
        queue.again(waiting)
        queue_due = await due(queue)
        waits.append(anyio.current_time() - before)
        queue.again(queue_due)
    assert waits[0] < 1
    assert max(waits) <= RULES.longest_poll_wait_seconds * 1.25 + 0.01
    assert min(waits[-3:]) >= RULES.longest_poll_wait_seconds * 0.75


async def test_tickets_of_earlier_runs_are_due_at_once_in_their_order_as_far_as_polls_may_leave():
    queue = TicketQueue(RULES, random.Random(1), lambda: 2.0)
    start = anyio.current_time()
    for name, age in (("old", 500.0), ("middle", 100.0), ("young", 10.0)):
        queue.add_earlier(ticket(name), age)
    assert [(await due(queue)).ticket.exchange_id for _ in range(3)] == ["old", "middle", "young"]
    assert anyio.current_time() - start == pytest.approx(2 / (2.0 * PLANNED_SHARE), abs=0.05)


async def test_with_many_tickets_each_waits_longer_and_none_queues_for_its_turn():
    rate, start = 20.0, anyio.current_time()
    queue = TicketQueue(RULES, random.Random(1), lambda: rate)
    for number in range(1_500):
        await added(queue, f"t{number}")
    asked_at: dict[str, list[float]] = {}
    late = []
    while (now := anyio.current_time()) < start + 300:
        waiting = await due(queue)
        now = anyio.current_time()
        late.append(now - waiting.due_at)
        asked_at.setdefault(waiting.ticket.exchange_id, []).append(now - start)
        queue.again(waiting)
    assert max(late) < 0.1
    times = sorted(moment for moments in asked_at.values() for moment in moments if moment > 5)
    assert len(times) > 0.9 * rate * 295
    assert all(later - earlier >= 0.95 for earlier, later in zip(times, times[20:], strict=False))
    assert {len(moments) for moments in asked_at.values()} <= {3, 4, 5}, "each in its turn"


async def test_hundreds_who_wait_for_a_place_get_one_each_as_places_come():
    queue = TicketQueue(RULES, random.Random(1))
    for _ in range(10):
        await queue.reserve(10)
    got: list[int] = []

    async def waits(number: int) -> None:
        await queue.reserve(10)
        got.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(200):
            tasks.start_soon(waits, number)
        for count in range(1, 201):
            await anyio.sleep(1)
            queue.give_up_place()
            await anyio.sleep(1)
            assert got == list(range(count))


async def test_a_ticket_near_its_expiry_goes_before_all_that_are_due():
    queue = TicketQueue(RULES, random.Random(1))
    queue.add_earlier(ticket("overdue"), 3_000.0)
    queue.add_earlier(ticket("expiring"), RULES.ticket_lifetime.total_seconds() - URGENT_SECONDS + 1)
    first = await due(queue)
    assert first.ticket == ticket("expiring")
    queue.again(first)
    assert (await due(queue)).ticket == ticket("expiring"), "also when it was asked a moment ago"


async def test_the_queue_ends_when_it_is_closed_and_its_last_ticket_has_ended():
    queue = TicketQueue(RULES, random.Random(1))
    await added(queue, "a")
    waiting = await due(queue)
    ended: list[object] = []

    async def poller() -> None:
        ended.append(await queue.next_due())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(poller)
        queue.close()
        await anyio.sleep(5)
        assert ended == [], "a ticket that is being read may come back"
        queue.read(waiting)
    assert ended == [None]


async def test_places_are_bounded_and_a_place_given_up_lets_the_next_in():
    queue = TicketQueue(RULES, random.Random(1))
    await queue.reserve(2)
    await queue.reserve(2)
    got: list[str] = []

    async def third() -> None:
        await queue.reserve(2)
        got.append("third")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(third)
        await anyio.sleep(10)
        assert got == []
        queue.give_up_place()
    assert got == ["third"]
    assert len(queue) == 2


async def test_a_polled_ticket_comes_back_as_it_was():
    queue = TicketQueue(RULES, random.Random(1))
    await queue.reserve(3)
    queue.add(OpenTicket("a", tokens=1_500))
    queue.add_earlier(ticket("old"), 500.0)
    old = await due(queue)
    old.count_poll(anyio.current_time(), says_failed=True)
    old.unknown_polls = 2
    before = replace(old)
    queue.again(old)
    polled = {each.ticket.exchange_id: each for each in (await due(queue), await due(queue))}
    assert polled["a"].ticket == OpenTicket("a", tokens=1_500)
    assert (polled["a"].is_of_this_run, polled["a"].failed_since) == (True, float("inf"))
    assert replace(polled["old"], wait_seconds=before.wait_seconds, due_at=before.due_at) == before


async def test_thousands_of_tickets_cost_little_more_than_their_polls():
    queue = TicketQueue(RULES, random.Random(1))
    for number in range(5_000):
        await added(queue, f"t{number}")
    asked = 0
    while len(queue):
        waiting = await due(queue)
        asked += 1
        queue.read(waiting)
    assert asked == 5_000
