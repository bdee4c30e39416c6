"""Pacing in virtual time: rates kept, nobody early, one probe at a time while the provider is away."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import anyio
import pytest
from anyio.lowlevel import checkpoint
from virtual_time import VIRTUAL

from batchvision.errors import ConnectFailed, ImageDownloadFailed, RateLimited, RequestRejected, ServerError
from batchvision.limits import OUTAGE_AFTER_FAILURES, Gate, Pace, Pacing, PacingLimits, TokenBucket
from batchvision.limits.pace import CREDIT_SECONDS

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


@dataclass
class Signs:
    limit_requests_per_minute: float | None = None
    limit_tokens_per_minute: float | None = None
    is_requests_window_stated: bool = True
    is_tokens_window_stated: bool = True
    reset_requests_seconds: float | None = None
    reset_tokens_seconds: float | None = None


async def departures(pacing: Pacing, requests: int, tokens: float = 0) -> list[float]:
    """Times at which so many requests leave, all waiting at once, the provider answering each at once."""
    times: list[float] = []

    async def one() -> None:
        departure = await pacing.admit(tokens)
        await pacing.depart(departure)
        times.append(anyio.current_time())
        pacing.observe(None, departure.departed_at)
        pacing.land(departure)
        pacing.gate.probe_home(probe=departure.probe)

    async with anyio.create_task_group() as tasks:
        for _ in range(requests):
            tasks.start_soon(one)
    return times


async def test_a_rate_of_ten_a_second_is_kept_and_used():
    times = await departures(Pacing(PacingLimits(requests_per_second=10)), 300)
    took = times[-1] - times[0]
    assert 28 <= took <= 30
    assert max(sum(1 for t in times if start <= t < start + 1) for start in times) <= 20


async def test_a_rate_below_one_a_second_is_kept():
    times = await departures(Pacing(PacingLimits(requests_per_second=0.1)), 4)
    assert all(later - earlier >= 9.9 for earlier, later in itertools.pairwise(times))


async def test_without_limits_nothing_waits():
    times = await departures(Pacing(PacingLimits()), 1000)
    assert times[-1] - times[0] < 0.5


async def test_tokens_a_minute_are_kept_over_minutes():
    times = await departures(Pacing(PacingLimits(tokens_per_minute=60_000)), 200, tokens=1_000)
    assert 194 <= times[-1] - times[0] <= 196  # 200 s of tokens, five of them in the bucket at the start


async def test_a_row_larger_than_the_whole_bucket_is_sent_and_paid_for_by_those_behind():
    bucket = TokenBucket(60_000)
    start = anyio.current_time()
    await bucket.take(20_000)
    assert anyio.current_time() - start < 0.1
    await bucket.take(1)
    assert anyio.current_time() - start >= 15


async def test_tokens_not_used_are_given_back_and_wake_the_one_who_waits():
    bucket = TokenBucket(60)
    await bucket.take(5)
    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bucket.take, 5)
        await anyio.sleep(0.5)
        bucket.give_back(5)
    assert anyio.current_time() - start < 1


async def test_the_first_request_travels_alone_until_it_is_answered():
    gate = Gate()
    assert await gate.enter() is True
    entered: list[bool] = []

    async def second() -> None:
        entered.append(await gate.enter())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(second)
        await anyio.sleep(3)
        assert entered == []
        gate.answered()
    assert entered == [False]


async def test_a_first_request_that_takes_long_holds_the_others_ten_seconds_at_most():
    gate = Gate()
    await gate.enter()
    start = anyio.current_time()
    assert await gate.enter() is False
    assert 9.9 <= anyio.current_time() - start <= 10.1


async def opened() -> Gate:
    gate = Gate()
    await gate.enter()
    gate.answered()
    return gate


async def test_an_outage_lets_one_probe_out_at_growing_intervals_up_to_a_minute():
    gate = await opened()
    for _ in range(OUTAGE_AFTER_FAILURES):
        gate.failed()
    assert not gate.is_open
    times = []
    for _ in range(12):
        assert await gate.enter() is True
        times.append(anyio.current_time())
        gate.failed()
        gate.probe_home(probe=True)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise(times)]
    assert gaps == [2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]


async def test_one_failure_less_than_an_outage_keeps_the_gate_open():
    gate = await opened()
    for _ in range(OUTAGE_AFTER_FAILURES - 1):
        gate.failed()
    assert gate.is_open
    gate.answered()
    assert gate.failures_in_a_row == 0


async def test_those_who_queue_for_their_turn_when_an_outage_begins_wait_for_its_end():
    pacing = Pacing(PacingLimits(requests_per_second=1))
    pacing.observe(None)
    left: list[float] = []

    async def one() -> None:
        await pacing.depart(departure := await pacing.admit(0))
        left.append(departure.departed_at)
        pacing.land(departure)

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
        await anyio.sleep(5.5)
        for _ in range(OUTAGE_AFTER_FAILURES):
            pacing.observe(ServerError("down"))
        closed_at = anyio.current_time()
        await anyio.sleep(600)
        assert len([at for at in left if at > closed_at]) <= 2, "the one whose turn it was, and the probe"
        pacing.observe(None)
    assert len(left) == 50


async def test_one_answer_ends_an_outage_for_all():
    gate = await opened()
    for _ in range(OUTAGE_AFTER_FAILURES):
        gate.failed()
    probe = await gate.enter()
    gate.answered()
    gate.probe_home(probe=probe)
    assert await gate.enter() is False


async def test_retry_after_pauses_everybody_and_nobody_leaves_early():
    pacing = Pacing(PacingLimits(requests_per_second=100))
    await departures(pacing, 1)
    start = anyio.current_time()
    pacing.observe(RateLimited("slow down", retry_after_seconds=7))
    times = await departures(pacing, 20)
    assert min(times) - start >= 7


async def test_a_pause_that_begins_while_others_wait_holds_for_them_too():
    pacing = Pacing(PacingLimits(requests_per_second=1))
    await departures(pacing, 1)
    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        times: list[float] = []

        async def wait() -> None:
            times.extend(await departures(pacing, 5))

        tasks.start_soon(wait)
        await anyio.sleep(0.5)
        pacing.observe(RateLimited("slow down", retry_after_seconds=30))
    assert min(times) - start >= 30


async def test_a_storm_of_429s_without_a_wish_pauses_once_for_a_volley_and_longer_each_time():
    pacing = Pacing(PacingLimits(requests_per_second=100))
    await departures(pacing, 1)
    waits = []
    for _ in range(3):
        await anyio.sleep(10)  # nothing is accepted any more
        start = anyio.current_time()
        for _ in range(50):
            pacing.observe(RateLimited("slow down"), departed_at=start)
        (left,) = await one_departure(pacing)
        waits.append(left - start)
    assert [round(wait) for wait in waits] == [1, 2, 4]


async def one_departure(pacing: Pacing) -> list[float]:
    departure = await pacing.admit(0)
    await pacing.depart(departure)
    pacing.land(departure)
    return [anyio.current_time()]


async def test_the_rate_named_in_a_429_is_kept_from_then_on():
    pacing = Pacing(PacingLimits())
    pacing.observe(RateLimited("(actual/limit): 40/2", limit_per_second=2, retry_after_seconds=1))
    times = await departures(pacing, 21)
    assert times[-1] - times[0] >= 8.9


async def test_limits_in_headers_are_taken_where_the_job_names_none():
    pacing = Pacing(PacingLimits())
    pacing.learn(Signs(limit_requests_per_minute=600))
    assert (await departures(pacing, 101))[-1] - 1_000 >= 8.9
    named = Pacing(PacingLimits(requests_per_second=1000))
    named.learn(Signs(limit_requests_per_minute=6))
    start = anyio.current_time()
    await departures(named, 50)
    assert anyio.current_time() - start < 1


async def test_polls_take_at_most_half_of_the_rate():
    pacing = Pacing(PacingLimits(requests_per_second=10))
    start = anyio.current_time()
    for _ in range(100):
        await pacing.admit_poll()
    assert anyio.current_time() - start >= 18


@pytest.mark.parametrize(("credit_seconds", "distance_seconds"), [(0.0, 0.1), (CREDIT_SECONDS, 0.0)])
async def test_behind_a_late_departure_the_distance_is_kept_where_the_burst_is_small(credit_seconds, distance_seconds):
    pacing = Pacing(PacingLimits(requests_per_second=10))
    pacing.observe(None)
    pacing.pace._credit_seconds = credit_seconds
    await pacing.depart(await pacing.admit(0))
    late, behind = await pacing.admit(0), await pacing.admit(0)
    await anyio.sleep(0.25)
    await pacing.depart(late)
    await pacing.depart(behind)
    assert behind.departed_at - late.departed_at == pytest.approx(distance_seconds, abs=0.01)


async def test_who_is_cancelled_at_the_door_holds_up_nobody():
    pacing = Pacing(PacingLimits(requests_per_second=1))
    await departures(pacing, 1)
    gives_up = await pacing.admit(0)
    with anyio.move_on_after(0.01) as scope:
        await pacing.depart(gives_up)
    assert scope.cancelled_caught
    pacing.land(gives_up)
    start = anyio.current_time()
    await departures(pacing, 1)
    assert anyio.current_time() - start <= 1


async def test_polls_have_their_turns_while_hundreds_of_requests_queue():
    pacing = Pacing(PacingLimits(requests_per_second=100))
    pacing.gate.answered()
    sent = {"requests": 0, "polls": 0}

    async def requests() -> None:
        while True:
            await pacing.depart(departure := await pacing.admit(0))
            sent["requests"] += 1
            pacing.land(departure)

    async def polls() -> None:
        while True:
            await pacing.admit_poll()
            sent["polls"] += 1

    with anyio.move_on_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(256):
                tasks.start_soon(requests)
            for _ in range(16):
                tasks.start_soon(polls)
    assert sent["requests"] + sent["polls"] == pytest.approx(1_000, abs=130)
    assert 400 <= sent["polls"] <= 560


@pytest.mark.parametrize("error", [None, RequestRejected("no"), ImageDownloadFailed("no"), RateLimited("slow")])
async def test_any_answer_of_the_provider_opens_the_gate(error):
    pacing = Pacing(PacingLimits())
    await pacing.gate.enter()
    pacing.observe(error)
    assert pacing.gate.is_open


@pytest.mark.parametrize("error", [ServerError("500"), ConnectFailed("refused")])
async def test_a_failure_on_the_way_keeps_the_gate_closed(error):
    pacing = Pacing(PacingLimits())
    await pacing.gate.enter()
    pacing.observe(error)
    assert not pacing.gate.is_open


async def test_a_request_cancelled_on_its_way_gives_back_its_tokens_and_its_probe():
    pacing = Pacing(PacingLimits(tokens_per_minute=60, requests_per_second=0.01))
    await departures(pacing, 1)
    with anyio.move_on_after(1) as scope:
        await pacing.admit(4)
    assert scope.cancelled_caught
    assert pacing._tokens is not None
    assert pacing._tokens._level >= 4


async def test_who_could_leave_at_once_does_not_overtake_one_whose_turn_has_just_come():
    """What has come free is promised then."""
    pacing = Pacing(PacingLimits(tokens_per_minute=600))
    pacing.observe(None)
    overtaken: list[bool] = []
    while pacing.admit_nowait(5):  # until there are no tokens left
        pass

    async def one() -> None:
        await pacing.admit(5)
        overtaken.append(pacing.admit_nowait(0) is not None)

    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)
    assert overtaken == [False] * 7 + [True]  # behind the last one nobody waits


async def test_where_many_answers_are_back_at_once_as_many_requests_leave_at_once():
    """One a turn of the loop is too few: where hundreds of answers are read in each, places would stay empty."""
    pacing = Pacing(PacingLimits(requests_per_second=1_000_000, in_flight=100))
    pacing.observe(None)
    landing = [pacing.admit_nowait(0) for _ in range(100)]
    assert pacing.admit_nowait(0) is None
    admitted: list[float] = []

    async def one() -> None:
        admitted.append((await pacing.admit(0)).tokens)

    async with anyio.create_task_group() as group:
        for _ in range(80):
            group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        for departure in landing:
            assert departure is not None
            pacing.land(departure)
        for _ in range(3):  # the first looks, those behind it are told, they go
            await checkpoint()
        assert len(admitted) == 80


async def test_at_a_slow_pace_a_few_refusals_too_many_are_seen_in_a_minute():
    pace = Pace(20.0, nap_until=lambda moment: False)
    pace._is_named, pace._credit_seconds, pace._most, pace._good = False, 0.0, None, 20.0
    for number in range(20 * 60):
        departed_at = await pace.depart()
        if number % 40 == 39:  # one in forty: too few to be noticed among three hundred
            pace.refused(departed_at)
        assert pace.per_second is not None
        if pace.per_second < 20.0:
            return
    raise AssertionError("a fortieth of all requests would be refused for ever")
