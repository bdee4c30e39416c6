"""How close the pacing keeps to a provider's limit, in virtual time: shares of the allowed rate, and of 429s."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from itertools import pairwise
from math import inf

import anyio
import pytest
from limited_provider import Server, Signs, session
from virtual_time import VIRTUAL, LateLoop, StallingLoop

from batchvision.errors import RateLimited
from batchvision.limits import Pace, Pacing, PacingLimits

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(request):
    """Where timers are late, the test asks for a pacing of ``late``."""
    if "late" not in request.fixturenames:
        return ("asyncio", VIRTUAL)
    seed = request.node.callspec.params.get("seed", 0)
    return ("asyncio", {"loop_factory": lambda: LateLoop(seed)})


@pytest.fixture
def late() -> Callable[[PacingLimits], Pacing]:
    """Makes a pacing on a loop whose timers are late."""

    def pacing(limits: PacingLimits) -> Pacing:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LateLoop)
        return Pacing(limits, loop.nap_until)

    return pacing


async def test_a_given_limit_is_used_and_hardly_ever_exceeded():
    start = anyio.current_time()
    server = Server()
    await session(Pacing(PacingLimits(requests_per_second=100)), server, 60)
    assert server.share(start + 2, start + 60) >= 0.97
    assert server.refusals(start, start + 60) <= 0.005


@pytest.mark.parametrize("seed", range(5))
async def test_a_given_limit_whose_server_takes_no_burst_is_still_used_to_nine_tenths(seed, late):
    start = anyio.current_time()
    server = Server(burst=1.0, jitter_seconds=0.0005, seed=seed)
    await session(late(PacingLimits(requests_per_second=100)), server, 60)
    assert server.share(start + 2, start + 60) >= 0.90
    assert server.refusals(start + 2, start + 60) <= 0.06


STALLING = ("asyncio", {"loop_factory": StallingLoop})


@pytest.mark.parametrize("anyio_backend", [STALLING], ids=["stalls"])
async def test_what_a_machine_that_stands_still_for_half_a_second_missed_is_made_up_for(anyio_backend, late):
    start = anyio.current_time()
    server = Server(jitter_seconds=0.01)
    await session(late(PacingLimits(requests_per_second=100)), server, 60)
    assert server.share(start + 2, start + 60) >= 0.97
    assert server.refusals(start, start + 60) <= 0.005


@pytest.mark.parametrize("anyio_backend", [STALLING], ids=["stalls"])
async def test_with_half_the_credit_a_machine_that_stands_still_would_be_found_out(anyio_backend, late, monkeypatch):
    monkeypatch.setattr("batchvision.limits.pace.CREDIT_SECONDS", 0.25)
    start = anyio.current_time()
    server = Server(jitter_seconds=0.01)
    await session(late(PacingLimits(requests_per_second=100)), server, 60)
    assert server.share(start + 2, start + 60) < 0.97


async def test_a_given_limit_that_is_too_high_gives_way_to_the_real_one():
    start = anyio.current_time()
    server = Server()
    await session(Pacing(PacingLimits(requests_per_second=150)), server, 120)
    assert server.share(start + 60, start + 120) >= 0.90
    assert server.refusals(start + 60, start + 120) <= 0.02


@pytest.mark.parametrize("burst", [10.0, 100.0])
async def test_a_limit_told_in_words_is_used_in_full_as_soon_as_the_first_429_has_told_it(burst, late):
    start = anyio.current_time()
    server = Server(burst=burst, says_words=True)
    await session(late(PacingLimits()), server, 60)
    assert server.share(start + 15, start + 60) >= 0.97
    assert server.refusals(start + 15, start + 60) <= 0.005


@pytest.mark.parametrize("per_second", [5.0, 100.0, 400.0])
async def test_a_limit_told_in_headers_is_used_from_the_first_answer_on(per_second):
    start = anyio.current_time()
    server = Server(per_second=per_second, burst=per_second, says_limits=True)
    await session(Pacing(PacingLimits()), server, 60)
    assert server.share(start + 5, start + 60) >= 0.95
    assert server.refusals(start, start + 60) <= 0.02


@pytest.mark.parametrize(
    ("per_second", "burst_seconds"),
    [*((rate, burst) for rate in (20.0, 100.0) for burst in (0.05, 1.0, 5.0)), (300.0, 1.0)],
)
async def test_a_limit_nobody_tells_is_found_within_a_minute(per_second, burst_seconds):
    start = anyio.current_time()
    server = Server(per_second=per_second, burst=max(1.0, per_second * burst_seconds))
    await session(Pacing(PacingLimits()), server, 180)
    assert server.share(start + 60, start + 180) >= 0.90
    assert server.refusals(start + 60, start + 180) <= 0.02


@pytest.mark.parametrize("burst", [20.0, 100.0])
async def test_a_limit_that_429s_tell_only_by_asking_for_a_pause_is_found_within_a_minute(burst):
    start = anyio.current_time()
    server = Server(burst=burst, retry_after_seconds=1.0)
    await session(Pacing(PacingLimits()), server, 150)
    assert server.share(start + 60, start + 150) >= 0.90
    assert server.refusals(start + 60, start + 150) <= 0.02
    assert server.early == 0


async def test_pauses_that_are_asked_for_now_and_then_for_another_reason_than_the_rate_cost_no_more_than_their_time():
    start = anyio.current_time()
    hiccups = [(start + 40 * n, start + 40 * n + 0.05) for n in range(1, 8)]
    server, pacing = Server(storms=hiccups, retry_after_seconds=1.0), Pacing(PacingLimits(requests_per_second=100))
    await session(pacing, server, 300)
    assert pacing.pace.per_second == 100
    assert server.share(start + 2, start + 300) >= 0.95


async def night_of_two_programs(limits: PacingLimits, **server_has: float) -> tuple[float, float]:
    """Another program takes half of the limit for half a minute; the share of the limit used, and of 429s, from two and
    a half minutes after that on."""
    start = anyio.current_time()
    server = Server(per_second=50, half_taken=[(start + 60, start + 90)], **server_has)
    await session(Pacing(limits), server, 300)
    return server.share(start + 240, start + 300), server.refusals(start + 240, start + 300)


@pytest.mark.parametrize("server_has", [{"burst": 50}, {"burst": 250}, {"burst": 50, "says_limits": True}])
async def test_soon_after_another_program_took_half_of_a_limit_all_of_it_is_used_again(server_has):
    share, refusals = await night_of_two_programs(PacingLimits(), **server_has)
    assert share >= 0.95
    assert refusals <= 0.02


async def test_so_it_is_where_the_job_gives_the_limit():
    share, refusals = await night_of_two_programs(PacingLimits(requests_per_second=50), burst=50)
    assert share >= 0.97
    assert refusals <= 0.005


async def test_tries_that_are_small_and_rare_would_be_found_to_take_a_quarter_of_an_hour(monkeypatch):
    monkeypatch.setattr("batchvision.limits.pace.PROBE_SECONDS", 80.0)
    monkeypatch.setattr(Pace, "_felt_at", property(lambda pace: inf, lambda pace, rate: None), raising=False)
    share, _ = await night_of_two_programs(PacingLimits(requests_per_second=50), burst=50)
    assert share < 0.6


async def stalling_night_after_a_short_storm(late) -> float:
    """The share of the limit used from a minute and a half after it on."""
    start = anyio.current_time()
    server = Server(jitter_seconds=0.01, storms=[(start + 20, start + 23)])
    await session(late(PacingLimits(requests_per_second=100)), server, 180)
    return server.share(start + 110, start + 180)


@pytest.mark.parametrize("anyio_backend", [STALLING], ids=["stalls"])
async def test_credit_that_a_storm_took_away_is_given_again(anyio_backend, late):
    assert await stalling_night_after_a_short_storm(late) >= 0.97


@pytest.mark.parametrize("anyio_backend", [STALLING], ids=["stalls"])
async def test_a_pacing_that_never_gives_it_again_would_be_found_out(anyio_backend, late, monkeypatch):
    monkeypatch.setattr("batchvision.limits.pace.CREDIT_AGAIN_SECONDS", inf)
    assert await stalling_night_after_a_short_storm(late) < 0.95


async def stormy_night(seed: int) -> tuple[Server, float]:
    """A storm of 429s that ask for patience; the server, and when the storm ended."""
    rng = random.Random(seed)
    begins = anyio.current_time() + 20 + rng.uniform(0, 5)
    ends = begins + rng.uniform(25, 50)
    wish = rng.choice([0.5, 3.0, 7.0, 20.0])
    server = Server(per_second=50, burst=50, storms=[(begins, ends)], retry_after_seconds=wish, seed=seed)
    await session(Pacing(PacingLimits(requests_per_second=50)), server, ends - anyio.current_time() + 70, workers=64)
    return server, ends


@pytest.mark.parametrize("seed", range(20))
async def test_in_a_storm_of_429s_nobody_is_early_and_the_rate_is_back_within_a_minute(seed):
    server, ends = await stormy_night(seed)
    assert server.refused
    assert server.early == 0
    assert server.recovered_after(ends) <= 60


async def test_a_pacing_that_does_not_listen_to_retry_after_would_be_found_early(monkeypatch):
    monkeypatch.setattr(Pacing, "_pause", lambda pacing, seconds: None)
    server, _ = await stormy_night(0)
    assert server.early > 0


async def test_a_pacing_that_stays_slow_after_a_storm_would_be_found_not_to_recover(monkeypatch):
    monkeypatch.setattr(Pace, "_grow", lambda pace, now: setattr(pace, "per_second", 25.0))
    server, ends = await stormy_night(0)
    assert server.recovered_after(ends) == inf


async def test_a_storm_without_a_wish_is_survived_and_the_rate_comes_back():
    start = anyio.current_time()
    server = Server(per_second=100, burst=100, storms=[(start + 20, start + 80)])
    await session(Pacing(PacingLimits(requests_per_second=100)), server, 200)
    assert server.refusals(start + 30, start + 80) == 1.0
    assert len([at for at in server.refused if at >= start + 22]) <= 600
    assert server.share(start + 140, start + 200) >= 0.90


async def test_tokens_a_minute_with_rows_of_all_sizes_are_used_and_the_largest_row_is_not_starved():
    start = anyio.current_time()
    server = Server(per_second=1_000, burst=1_000, tokens_per_minute=600_000)
    waits = await session(Pacing(PacingLimits(tokens_per_minute=600_000)), server, 180, workers=128, sizes=(200, 6_000))
    used = sum(tokens for at, tokens in server.accepted if start + 10 <= at < start + 180)
    assert used >= 0.92 * 600_000 / 60 * 170
    assert not server.refused
    late = [wait for tokens, wait in waits[200:] if tokens >= 5_500]
    fair = sum(wait for _, wait in waits[200:]) / len(waits[200:])
    assert max(late) <= 2 * fair


async def test_where_every_estimate_is_wrong_the_tokens_are_kept_and_the_largest_row_waits_twice_its_share_at_most():
    start = anyio.current_time()
    server = Server(per_second=1_000, burst=1_000, tokens_per_minute=1_200_000)
    await session(
        Pacing(PacingLimits(tokens_per_minute=1_200_000)), server, 120, sizes=(200, 6_000), estimate=2_000, workers=64
    )
    sent = [(at, tokens) for at, tokens in server.accepted if start + 20 <= at < start + 120]
    assert 0.92 <= sum(tokens for _, tokens in sent) / (20_000 * 100) <= 1.02
    assert not server.refused
    waits = [at - before for (before, _), (at, tokens) in pairwise(sent) if tokens >= 5_500]
    assert max(waits) <= 2 * 6_000 / 20_000


async def test_without_any_limit_all_workers_are_soon_on_the_wire():
    start = anyio.current_time()
    server = Server(per_second=100_000, burst=100_000, latency_seconds=5.0)
    await session(Pacing(PacingLimits()), server, 120, workers=2_000)
    accepted = sum(1 for at, _ in server.accepted if start + 60 <= at < start + 110)
    assert accepted >= 0.93 * 2_000 / 5.0 * 50


# ---------------------------------------------------------------------------------- limits without a window


@pytest.mark.parametrize("window_seconds", [1.0, 60.0])
@pytest.mark.parametrize("per_second", [20.0, 100.0])
async def test_a_limit_without_its_window_is_a_floor_and_the_real_one_is_found(per_second, window_seconds):
    start = anyio.current_time()
    server = Server(per_second=per_second, burst=per_second, says_limit_of_seconds=window_seconds)
    await session(Pacing(PacingLimits()), server, 180)
    assert server.share(start + 60, start + 180) >= 0.90
    assert server.refusals(start + 60, start + 180) <= 0.02


async def test_a_limit_of_a_day_that_names_no_window_holds_nothing_back_while_nothing_is_refused():
    server = Server(per_second=14_400 / 86_400, burst=14_400.0, says_limit_of_seconds=86_400.0)
    pacing = Pacing(PacingLimits())
    await session(pacing, server, 40, workers=64)
    assert not server.refused
    assert len(server.accepted) >= 5_000, "a minute's limit would have let 40 seconds send a few"


async def test_the_largest_reset_seen_is_the_least_window():
    pacing = Pacing(PacingLimits())
    floors = []
    for reset in (6.0, 59.0, 600.0, 30.0, 3_600.0):
        pacing.learn(Signs(14_400.0, None, False, False, reset))
        floors.append(pacing.pace._floor)
    assert floors == [240.0, 240.0, 24.0, 24.0, 4.0]


async def test_after_refusals_the_rate_is_not_slowed_below_the_floor():
    pace = Pace()
    pace.succeeded()
    pace.tell_floor(100.0)
    for _ in range(40):
        for number in range(40):
            await pace.admit()
            departed_at = await pace.depart()
            pace.landed(has_departed=True)
            if number % 2:
                pace.refused(departed_at)
        await anyio.sleep(2)
    assert pace.per_second == pytest.approx(100.0)


async def test_a_limit_whose_window_is_stated_is_exact():
    start = anyio.current_time()
    server = Server(per_second=10.0, burst=10.0, says_limits=True)
    await session(Pacing(PacingLimits()), server, 60)
    assert server.refusals(start, start + 60) <= 0.01


async def test_tokens_without_their_window_are_a_floor_too_until_one_is_refused():
    pacing = Pacing(PacingLimits())
    pacing.learn(Signs(None, 6_000.0, False, False))
    start, sent = anyio.current_time(), 0
    while anyio.current_time() < start + 30:
        departure = await pacing.admit(100)
        await pacing.depart(departure)
        pacing.observe(None, departure.departed_at)
        pacing.land(departure)
        pacing.gate.probe_home(probe=departure.probe)
        sent += 1
    assert sent > 300, "a minute's limit would have let 30 seconds send 30 rows"
    pacing.observe(RateLimited("tokens", retry_after_seconds=1.0), anyio.current_time())
    start = anyio.current_time()
    for _ in range(20):
        departure = await pacing.admit(100)
        await pacing.depart(departure)
        pacing.observe(None, departure.departed_at)
        pacing.land(departure)
    assert anyio.current_time() - start >= 15
