"""The rate limiter in virtual time: rates kept, no request early, one probe at a time while the provider is down."""

from __future__ import annotations

import asyncio
import itertools

import anyio
import pytest
from anyio.lowlevel import checkpoint
from limited_provider import stated
from virtual_time import VIRTUAL

from batchvision.errors import ConnectFailed, ImageDownloadFailed, RateLimited, RequestRejected, ServerError
from batchvision.limits import OUTAGE_AFTER_FAILURES, LocalRateLimiter, RateSettings, RateState, WaitPeriod
from batchvision.limits.controller import CREDIT_SECONDS, IN_A_ROW, VOLLEY
from batchvision.limits.limiter import LocalSendSlot
from batchvision.limits.pacing import LocalPacing, LocalPause
from batchvision.limits.tokens import TokenBucket

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


def limiter_of(**settings: float) -> LocalRateLimiter:
    return LocalRateLimiter(RateSettings(**settings))


def place_at_once(limiter: LocalRateLimiter, tokens: float = 0) -> LocalSendSlot | None:
    """A place in flight, if none waits for one and no wait is due."""
    return None if limiter._queue else limiter._admit(tokens, anyio.current_time())


async def send(limiter: LocalRateLimiter, tokens: float = 0) -> LocalSendSlot:
    """One request, in flight until the caller releases it."""
    slot = await limiter.acquire(tokens)
    await slot.wait()
    return slot


async def sent_times(limiter: LocalRateLimiter, requests: int, tokens: float = 0) -> list[float]:
    """When so many requests are sent, all waiting at once. The provider answers each at once."""
    times: list[float] = []

    async def one() -> None:
        slot = await send(limiter, tokens)
        times.append(anyio.current_time())
        slot.release()
        limiter.observe(None, slot.sent_at)

    async with anyio.create_task_group() as tasks:
        for _ in range(requests):
            tasks.start_soon(one)
    return times


# ---------------------------------------------------------------------------------- rates


async def test_a_rate_of_ten_a_second_is_kept_and_used():
    times = await sent_times(limiter_of(requests_per_second=10), 300)
    assert 28 <= times[-1] - times[0] <= 30
    assert max(sum(1 for t in times if start <= t < start + 1) for start in times) <= 20


async def test_a_rate_below_one_a_second_is_kept():
    times = await sent_times(limiter_of(requests_per_second=0.1), 4)
    assert all(later - earlier >= 9.9 for earlier, later in itertools.pairwise(times))


async def test_without_limits_no_request_waits():
    times = await sent_times(limiter_of(), 1000)
    assert times[-1] - times[0] < 0.5


async def test_tokens_a_minute_are_kept_over_minutes():
    times = await sent_times(limiter_of(tokens_per_minute=60_000), 200, tokens=1_000)
    assert 194 <= times[-1] - times[0] <= 196  # 200 s of tokens, five of them in the bucket at the start


async def test_a_row_larger_than_the_bucket_is_sent_and_later_rows_pay_for_it():
    bucket = TokenBucket(60_000, 0.0)
    assert bucket.seconds_to_wait(20_000, 0.0) == 0
    bucket.take(20_000, 0.0)
    assert bucket.seconds_to_wait(1, 0.0) >= 15


async def test_returned_tokens_admit_the_waiting_request():
    limiter = limiter_of(tokens_per_minute=60)
    limiter.observe(None)
    first = await send(limiter, 5)
    start = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send, limiter, 5)
        await anyio.sleep(0.5)
        limiter.return_tokens(first.tokens, 0)
    assert anyio.current_time() - start < 1


async def test_a_limit_of_tokens_in_the_words_of_a_429_replaces_a_higher_one():
    limiter = limiter_of(tokens_per_minute=600_000)
    await sent_times(limiter, 1)
    limiter.observe(RateLimited("tokens", limit_tokens_per_minute=6_000), anyio.current_time())
    times = await sent_times(limiter, 20, tokens=100)
    assert times[-1] - times[0] >= 10


async def test_a_limit_in_a_429_is_kept_from_then_on():
    limiter = limiter_of()
    limiter.observe(RateLimited("(actual/limit): 40/2", limit_per_second=2, retry_after_seconds=1))
    times = await sent_times(limiter, 21)
    assert times[-1] - times[0] >= 8.9


async def test_limits_in_headers_are_taken_where_the_job_gives_none():
    limiter = limiter_of()
    limiter.learn(stated(limit_requests_per_minute=600))
    assert (await sent_times(limiter, 101))[-1] - 1_000 >= 8.9
    given = limiter_of(requests_per_second=1000)
    given.learn(stated(limit_requests_per_minute=6))
    start = anyio.current_time()
    await sent_times(given, 50)
    assert anyio.current_time() - start < 1


@pytest.mark.parametrize(("has_credit", "distance_seconds"), [(False, 0.1), (True, 0.0)])
async def test_a_late_request_is_made_up_for_only_with_credit(monkeypatch, has_credit, distance_seconds):
    limiter = limiter_of(requests_per_second=10)
    limiter.observe(None)
    credit = CREDIT_SECONDS if has_credit else 0.0
    monkeypatch.setattr(limiter.pacing.controller, "credit_seconds", lambda now: credit)
    await send(limiter)
    late, behind = await limiter.acquire(0), await limiter.acquire(0)
    await anyio.sleep(0.25)
    await late.wait()
    await behind.wait()
    assert behind.sent_at - late.sent_at == pytest.approx(distance_seconds, abs=0.01)


# ---------------------------------------------------------------------------------- order


async def test_a_request_that_could_be_sent_at_once_does_not_overtake_a_waiting_one():
    limiter = limiter_of(tokens_per_minute=600, requests_per_second=1_000)
    limiter.observe(None)
    overtaken: list[bool] = []
    while place_at_once(limiter, 5):  # until no tokens are left
        pass

    async def one() -> None:
        await limiter.acquire(5)
        overtaken.append(place_at_once(limiter, 0) is not None)

    with anyio.fail_after(1_000):
        async with anyio.create_task_group() as group:
            for _ in range(8):
                group.start_soon(one)
    assert overtaken == [False] * 7 + [True]  # behind the last one no request waits


async def test_many_answers_at_once_admit_as_many_requests_at_once():
    limiter = limiter_of(requests_per_second=1_000_000, in_flight=100)
    limiter.observe(None)
    in_flight = [place_at_once(limiter, 0) for _ in range(100)]
    assert place_at_once(limiter, 0) is None
    admitted: list[float] = []

    async def one() -> None:
        admitted.append((await limiter.acquire(0)).tokens)

    async with anyio.create_task_group() as group:
        for _ in range(80):
            group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        for slot in in_flight:
            assert slot is not None
            slot.release()
        await checkpoint()
        await checkpoint()
        assert len(admitted) == 80


async def test_a_cancelled_wait_for_the_time_holds_up_no_other_request():
    limiter = limiter_of(requests_per_second=1)
    await sent_times(limiter, 1)
    cancelled = await limiter.acquire(0)
    with anyio.move_on_after(0.01) as scope:
        await cancelled.wait()
    assert scope.cancelled_caught
    cancelled.release()
    start = anyio.current_time()
    await sent_times(limiter, 1)
    assert anyio.current_time() - start <= 2


async def test_a_cancelled_wait_in_the_queue_takes_nothing():
    limiter = limiter_of(tokens_per_minute=60, requests_per_second=0.01)
    await sent_times(limiter, 1)
    with anyio.move_on_after(1) as scope:
        await limiter.acquire(4)
    assert scope.cancelled_caught
    assert repr(limiter).endswith("0 in flight, 0 wait>")


async def test_a_request_cancelled_at_its_admission_gives_everything_back():
    limiter = limiter_of(in_flight=1)
    limiter.observe(None)
    first = await send(limiter)
    task = asyncio.create_task(limiter.acquire(0))  # a scope of anyio would let it take its slot first
    await anyio.wait_all_tasks_blocked()
    first.release()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert repr(limiter).endswith("0 in flight, 0 wait>")


# ---------------------------------------------------------------------------------- polls


async def test_polls_take_at_most_half_of_the_rate():
    limiter = limiter_of(requests_per_second=10)
    start = anyio.current_time()
    for _ in range(100):
        await limiter.acquire_poll()
    assert anyio.current_time() - start >= 18


async def test_polls_and_requests_share_the_rate_while_hundreds_of_requests_wait():
    limiter = limiter_of(requests_per_second=100)
    limiter.observe(None)
    sent = {"requests": 0, "polls": 0}

    async def requests() -> None:
        while True:
            slot = await send(limiter)
            sent["requests"] += 1
            slot.release()

    async def polls() -> None:
        while True:
            await limiter.acquire_poll()
            sent["polls"] += 1

    with anyio.move_on_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(256):
                tasks.start_soon(requests)
            for _ in range(16):
                tasks.start_soon(polls)
    assert sent["requests"] + sent["polls"] == pytest.approx(1_000, abs=130)
    assert 400 <= sent["polls"] <= 560


# ---------------------------------------------------------------------------------- pauses


def refuse(limiter: LocalRateLimiter, count: int, retry_after_seconds: float | None = None) -> None:
    """So many requests are sent and refused now."""
    now = anyio.current_time()
    for _ in range(count):
        limiter.pacing.controller.sent(now)
    for _ in range(count):
        limiter.observe(RateLimited("slow down", retry_after_seconds=retry_after_seconds), now)


@pytest.mark.parametrize("count", [1, IN_A_ROW - 1])
async def test_a_retry_after_of_a_lone_429_pauses_no_other_request(count):
    limiter = limiter_of(requests_per_second=100)
    await sent_times(limiter, 100)
    other = await send(limiter)
    start = anyio.current_time()
    refuse(limiter, count, 7)
    times = await sent_times(limiter, 20)
    assert max(times) - start < 1
    other.release()


@pytest.mark.parametrize("error", [RateLimited, ServerError])
async def test_a_retry_after_is_a_pause_of_all_if_no_other_request_is_under_way(error):
    reported = []
    limiter = LocalRateLimiter(RateSettings(requests_per_second=100), report=reported.append)
    await sent_times(limiter, 100)
    start = anyio.current_time()
    limiter.observe(error("slow down", retry_after_seconds=700), start)
    assert min(await sent_times(limiter, 1)) - start >= 700
    assert reported[0].until == pytest.approx(start + 700)


async def test_a_retry_after_of_several_429s_at_once_pauses_all_requests_once():
    limiter = limiter_of(requests_per_second=100)
    await sent_times(limiter, 1)
    start = anyio.current_time()
    refuse(limiter, VOLLEY, 7)
    times = await sent_times(limiter, 20)
    assert 7 <= min(times) - start < 8


async def test_a_retry_after_of_several_503s_at_once_pauses_all_requests_and_keeps_the_rate():
    limiter = limiter_of(requests_per_second=100)
    await sent_times(limiter, 1)
    start = anyio.current_time()
    for _ in range(VOLLEY):
        limiter.pacing.controller.sent(start)
        limiter.observe(ServerError("overloaded", retry_after_seconds=7), start)
    assert min(await sent_times(limiter, 20)) - start >= 7
    assert limiter.pacing.controller.per_second == 100


@pytest.mark.parametrize(("is_capacity", "is_kept"), [(True, True), (False, False)])
async def test_a_tier_without_capacity_keeps_the_rate(is_capacity, is_kept):
    limiter = limiter_of(requests_per_second=100)
    await sent_times(limiter, 200)
    start = anyio.current_time()
    for number in range(200):
        limiter.pacing.controller.sent(start)
        limiter.observe(None if number % 3 else RateLimited("no capacity", is_capacity=is_capacity), start)
    assert (limiter.pacing.controller.per_second == 100) is is_kept


async def test_a_429_before_any_answer_pauses_all_requests():
    limiter = limiter_of()
    slot = await send(limiter)
    limiter.observe(RateLimited("slow down", retry_after_seconds=30), slot.sent_at)
    slot.release()
    start = anyio.current_time()
    assert min(await sent_times(limiter, 5)) - start >= 29


async def test_a_pause_holds_for_requests_that_wait_for_their_time():
    limiter = limiter_of(requests_per_second=1)
    await sent_times(limiter, 1)
    start = anyio.current_time()
    times: list[float] = []

    async def wait() -> None:
        times.extend(await sent_times(limiter, 5))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        await anyio.sleep(0.5)
        refuse(limiter, VOLLEY, 30)
    assert min(times) - start >= 30


async def test_each_volley_of_429s_without_retry_after_pauses_once_and_longer():
    limiter = limiter_of(requests_per_second=100)
    await sent_times(limiter, 1)
    waits = []
    for _ in range(3):
        await anyio.sleep(10)  # no request is accepted any more
        start = anyio.current_time()
        refuse(limiter, VOLLEY)
        for _ in range(50):  # of the same volley, answered a little later
            limiter.observe(RateLimited("slow down"), start)
        slot = await send(limiter)
        slot.release()
        waits.append(slot.sent_at - start)
    assert [round(wait) for wait in waits] == [1, 2, 4]


async def test_a_pause_that_another_process_sets_holds_too():
    pause = LocalPause()
    limiter = LocalRateLimiter(RateSettings(), pacing=LocalPacing(100, pause=pause))
    await sent_times(limiter, 1)
    start = anyio.current_time()
    pause.extend(start + 5)
    times = await sent_times(limiter, 30)
    assert min(times) - start >= 5
    assert max(times) - min(times) >= 0.28, "the time of the pause is no credit"


# ---------------------------------------------------------------------------------- outages


@pytest.mark.parametrize("error", [None, RequestRejected("no"), ImageDownloadFailed("no"), RateLimited("slow")])
async def test_any_answer_of_the_provider_lets_all_requests_pass(error):
    limiter = limiter_of()
    slot = await limiter.acquire(0)
    assert place_at_once(limiter, 0) is None
    limiter.observe(error, anyio.current_time())
    slot.release()
    await anyio.sleep(2)
    assert place_at_once(limiter, 0) is not None


@pytest.mark.parametrize("error", [ServerError("500"), ConnectFailed("refused")])
async def test_a_failure_on_the_way_keeps_the_second_request_back(error):
    limiter = limiter_of()
    await limiter.acquire(0)
    limiter.observe(error, anyio.current_time())
    assert place_at_once(limiter, 0) is None


async def test_requests_that_wait_when_an_outage_begins_wait_for_its_end():
    limiter = limiter_of(requests_per_second=1)
    limiter.observe(None)
    sent: list[float] = []

    async def one() -> None:
        slot = await send(limiter)
        assert slot.sent_at is not None
        sent.append(slot.sent_at)
        slot.release()

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(one)
        await anyio.sleep(5.5)
        for _ in range(OUTAGE_AFTER_FAILURES):
            limiter.observe(ServerError("down"))
        assert limiter.is_provider_down
        down_at = anyio.current_time()
        await anyio.sleep(600)
        probes = len([at for at in sent if at > down_at])
        assert probes <= 15, "one probe at a time, at growing intervals"
        limiter.observe(None)
    assert len(sent) == 50


async def test_an_outage_and_a_long_pause_are_reported_once_and_their_end_too():
    reports: list[WaitPeriod | None] = []
    limiter = LocalRateLimiter(RateSettings(), reports.append)
    await sent_times(limiter, 1)
    refuse(limiter, VOLLEY + 3, 60)
    (pause,) = reports
    assert pause is not None
    assert pause.until - anyio.current_time() == pytest.approx(60, abs=0.1)
    limiter.observe(None)
    await anyio.sleep(61)
    for _ in range(OUTAGE_AFTER_FAILURES + 3):
        limiter.observe(ServerError("down"))
    limiter.observe(None)
    assert [None if wait is None else wait.is_outage for wait in reports] == [False, None, True, None]


# ---------------------------------------------------------------------------------- the states of the controller


async def test_the_controller_goes_from_slow_start_over_cooling_down_to_steady_and_searching():
    limiter, seen = limiter_of(), []
    controller, now = limiter.pacing.controller, 0.0
    for _ in range(400):  # accepted at any rate
        now += 0.01
        controller.sent(now)
        controller.accepted(now)
    seen.append(controller.state)
    for _ in range(100):  # half is refused
        now += 0.01
        controller.sent(now)
        controller.sent(now)
        controller.turned_away(now, now, None)
    seen.append(controller.state)
    cut_to = controller.per_second
    assert cut_to is not None
    for _ in range(3_000):  # accepted at any rate again
        now += 0.01
        controller.is_saturated = True
        controller.sent(now)
        controller.accepted(now)
        if controller.state is not seen[-1]:
            seen.append(controller.state)
    assert seen == [RateState.SLOW_START, RateState.COOLING_DOWN, RateState.STEADY, RateState.SEARCHING]
    assert controller.per_second > 2 * cut_to


async def test_the_history_counts_requests_429s_and_pauses_of_each_minute():
    limiter = limiter_of(requests_per_second=10)
    await sent_times(limiter, 900)
    refuse(limiter, 10, 30)
    samples = limiter.history.samples()
    assert [sample.begins_seconds for sample in samples] == [0, 60]
    assert sum(sample.sent for sample in samples) == 900
    assert [sample.rate_limited for sample in samples] == [0, 10]
    assert [round(sample.paused_seconds) for sample in samples] == [0, 30]
    assert samples[0].rate_per_second == 10
