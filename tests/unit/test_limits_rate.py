"""How much of a provider's limit is used, and how often it is overstepped, in virtual time."""

from __future__ import annotations

import random
from itertools import pairwise
from math import inf
from typing import Any

import anyio
import pytest
from limited_provider import Provider, send_rows
from virtual_time import VIRTUAL, LateLoop, StallingLoop

from batchvision.errors import RateLimited
from batchvision.limits import LocalRateLimiter, RateController, RateSettings
from batchvision.providers import RateSigns

pytestmark = pytest.mark.anyio

CONTROLLER = "batchvision.limits.controller"
STALLING = ("asyncio", {"loop_factory": StallingLoop})


@pytest.fixture
def anyio_backend():
    return ("asyncio", VIRTUAL)


def given(per_second: float) -> LocalRateLimiter:
    return LocalRateLimiter(RateSettings(requests_per_second=per_second))


def unknown() -> LocalRateLimiter:
    return LocalRateLimiter(RateSettings())


# ---------------------------------------------------------------------------------- limits that are given


async def test_a_given_limit_is_used_and_hardly_ever_exceeded():
    start = anyio.current_time()
    provider = Provider()
    await send_rows(given(100), provider, 60)
    assert provider.share(start + 2, start + 60) >= 0.97
    assert provider.refusals(start, start + 60) <= 0.005


@pytest.mark.parametrize(
    "anyio_backend",
    [("asyncio", {"loop_factory": lambda seed=seed: LateLoop(seed)}) for seed in range(5)],
    ids=[f"late{seed}" for seed in range(5)],
)
async def test_a_given_limit_without_a_burst_is_still_used_to_nine_tenths(anyio_backend):
    start = anyio.current_time()
    provider = Provider(burst=1.0, jitter_seconds=0.0005, seed=anyio_backend[1]["loop_factory"].__defaults__[0])
    await send_rows(given(100), provider, 60)
    assert provider.share(start + 2, start + 60) >= 0.90
    assert provider.refusals(start + 2, start + 60) <= 0.06


@pytest.mark.parametrize("anyio_backend", [STALLING], ids=["stalls"])
async def test_requests_missed_while_a_machine_stands_still_for_half_a_second_are_made_up_for(anyio_backend):
    start = anyio.current_time()
    provider = Provider(jitter_seconds=0.01)
    await send_rows(given(100), provider, 60)
    assert provider.share(start + 2, start + 60) >= 0.97
    assert provider.refusals(start, start + 60) <= 0.005


@pytest.mark.parametrize("anyio_backend", [STALLING], ids=["stalls"])
async def test_the_test_of_a_stalling_machine_fails_with_less_credit(anyio_backend, monkeypatch):
    monkeypatch.setattr(f"{CONTROLLER}.CREDIT_SECONDS", 0.1)
    start = anyio.current_time()
    provider = Provider(jitter_seconds=0.01)
    await send_rows(given(100), provider, 60)
    assert provider.share(start + 2, start + 60) < 0.97


async def test_a_given_limit_that_is_too_high_gives_way_to_the_real_one():
    start = anyio.current_time()
    provider = Provider()
    await send_rows(given(150), provider, 120)
    assert provider.share(start + 60, start + 120) >= 0.90
    assert provider.refusals(start + 60, start + 120) <= 0.02


# ---------------------------------------------------------------------------------- limits that are learned


@pytest.mark.parametrize("burst", [10.0, 100.0])
async def test_a_limit_in_the_words_of_a_429_is_used_in_full_from_then_on(burst):
    start = anyio.current_time()
    provider = Provider(burst=burst, names_limit_in_429s=True)
    await send_rows(unknown(), provider, 60)
    assert provider.share(start + 15, start + 60) >= 0.97
    assert provider.refusals(start + 15, start + 60) <= 0.005


@pytest.mark.parametrize("per_second", [5.0, 100.0, 400.0])
async def test_a_limit_in_headers_is_used_from_the_first_answer_on(per_second):
    start = anyio.current_time()
    provider = Provider(per_second=per_second, burst=per_second, names_limit=True)
    await send_rows(unknown(), provider, 60)
    assert provider.share(start + 5, start + 60) >= 0.95
    assert provider.refusals(start, start + 60) <= 0.02


@pytest.mark.parametrize(
    ("per_second", "burst_seconds"),
    [*((rate, burst) for rate in (20.0, 100.0) for burst in (0.05, 1.0, 5.0)), (300.0, 1.0)],
)
async def test_a_limit_that_is_never_named_is_found_within_a_minute(per_second, burst_seconds):
    start = anyio.current_time()
    provider = Provider(per_second=per_second, burst=max(1.0, per_second * burst_seconds))
    await send_rows(unknown(), provider, 180)
    assert provider.share(start + 60, start + 180) >= 0.90
    assert provider.refusals(start + 60, start + 180) <= 0.02


@pytest.mark.parametrize("burst", [20.0, 100.0])
async def test_a_limit_whose_429s_only_ask_for_a_pause_is_found_within_a_minute(burst):
    start = anyio.current_time()
    provider = Provider(burst=burst, retry_after_seconds=1.0)
    await send_rows(unknown(), provider, 150)
    assert provider.share(start + 60, start + 150) >= 0.90
    assert provider.refusals(start + 60, start + 150) <= 0.02


async def test_without_any_limit_all_workers_are_soon_in_flight():
    start = anyio.current_time()
    provider = Provider(per_second=inf, latency_seconds=5.0)
    await send_rows(unknown(), provider, 120, workers=2_000)
    assert provider.accepted_between(start + 60, start + 110) >= 0.93 * 2_000 / 5.0 * 50


# ---------------------------------------------------------------------------------- another cause than the rate


async def test_five_requests_refused_together_now_and_then_cost_no_more_than_their_own_waits():
    start = anyio.current_time()
    storms = [(start + 40 * n, start + 40 * n + 0.05) for n in range(1, 8)]
    provider, limiter = Provider(storms=storms, retry_after_seconds=1.0), given(100)
    await send_rows(limiter, provider, 300)
    assert limiter.pacing.controller.per_second == 100
    assert provider.share(start + 2, start + 300) >= 0.95


async def rate_with_strays(share: float, status: int = 429, seed: int = 0) -> float:
    """Accepted requests a second, from the 20th second to the 80th, of a provider without a limit."""
    start = anyio.current_time()
    provider = Provider(
        per_second=inf,
        latency_seconds=0.7,
        stray_share=share,
        stray_status=status,
        retry_after_seconds=1.0,
        seed=seed,
    )
    await send_rows(unknown(), provider, 80)
    assert bool(provider.refused) is (share > 0)
    return provider.accepted_between(start + 20, start + 80) / 60


@pytest.mark.parametrize(("share", "status"), [(0.001, 429), (0.004, 429), (0.004, 503)])
@pytest.mark.parametrize("seed", range(3))
async def test_stray_refusals_with_retry_after_do_not_slow_a_provider_without_a_limit(share, status, seed):
    assert await rate_with_strays(share, status, seed) >= 0.95 * await rate_with_strays(0.0)


async def test_the_test_of_strays_fails_if_each_retry_after_pauses_all_requests(monkeypatch):
    monkeypatch.setattr(f"{CONTROLLER}.IN_A_ROW", 1)
    monkeypatch.setattr(f"{CONTROLLER}.VOLLEY", 1)
    monkeypatch.setattr(f"{CONTROLLER}.VOLLEY_SHARE", 0.0)
    assert await rate_with_strays(0.004) < 0.5 * await rate_with_strays(0.0)


async def test_stray_refusals_do_not_slow_a_given_rate():
    start = anyio.current_time()
    provider, limiter = Provider(stray_share=0.004, retry_after_seconds=1.0), given(100)
    await send_rows(limiter, provider, 120)
    assert limiter.pacing.controller.per_second == 100
    assert provider.share(start + 2, start + 120) >= 0.97


async def test_a_share_of_refusals_that_cuts_do_not_lower_is_tolerated():
    """3 % of 429s at any rate are no limit either: the rate must not fall from cut to cut."""
    start = anyio.current_time()
    provider = Provider(stray_share=0.03, retry_after_seconds=1.0)
    await send_rows(given(100), provider, 240)
    assert provider.share(start + 20, start + 240) >= 0.80


# ---------------------------------------------------------------------------------- limits that change


async def run_of_two_programs(limiter: LocalRateLimiter, **more: Any) -> tuple[float, float]:
    """Another program takes half of the limit for half a minute. Returns the share of the limit used, and of 429s, from
    two and a half minutes after that on."""
    start = anyio.current_time()
    provider = Provider(per_second=50, half_taken=[(start + 60, start + 90)], **more)
    await send_rows(limiter, provider, 300)
    return provider.share(start + 240, start + 300), provider.refusals(start + 240, start + 300)


@pytest.mark.parametrize("more", [{"burst": 50}, {"burst": 250}, {"burst": 50, "names_limit": True}])
async def test_soon_after_another_program_took_half_of_a_limit_all_of_it_is_used_again(more):
    share, refusals = await run_of_two_programs(unknown(), **more)
    assert share >= 0.95
    assert refusals <= 0.02


async def test_soon_after_another_program_took_half_of_a_given_limit_all_of_it_is_used_again():
    share, refusals = await run_of_two_programs(given(50), burst=50)
    assert share >= 0.97
    assert refusals <= 0.005


async def test_a_slow_given_rate_is_back_within_two_minutes():
    start = anyio.current_time()
    provider = Provider(per_second=4, burst=4, half_taken=[(start + 60, start + 120)])
    await send_rows(given(4), provider, 330, workers=32)
    assert provider.share(start + 90, start + 120) < 0.6
    assert provider.share(start + 240, start + 330) >= 0.95


async def test_the_test_of_two_programs_fails_if_the_steps_up_stay_small(monkeypatch):
    monkeypatch.setattr(f"{CONTROLLER}.LONGEST_STEP", 0.001)
    monkeypatch.setattr(f"{CONTROLLER}.FIRST_STEP", 0.001)
    share, _ = await run_of_two_programs(given(50), burst=50)
    assert share < 0.9


async def stalling_run_after_a_short_storm() -> float:
    """The share of the limit used from a minute and a half after it on."""
    start = anyio.current_time()
    provider = Provider(jitter_seconds=0.01, storms=[(start + 20, start + 23)])
    await send_rows(given(100), provider, 180)
    return provider.share(start + 110, start + 180)


@pytest.mark.parametrize("anyio_backend", [STALLING], ids=["stalls"])
async def test_credit_that_a_storm_took_away_is_given_again(anyio_backend):
    assert await stalling_run_after_a_short_storm() >= 0.97


@pytest.mark.parametrize("anyio_backend", [STALLING], ids=["stalls"])
async def test_the_test_of_credit_fails_if_none_is_given_again(anyio_backend, monkeypatch):
    monkeypatch.setattr(RateController, "credit_seconds", lambda controller, now: 0.0)
    assert await stalling_run_after_a_short_storm() < 0.95


# ---------------------------------------------------------------------------------- storms


def early(refused: list[float], wait_seconds: float) -> int:
    """Requests refused while the pause of a volley lasted; those of its first half second were on their way."""
    count, volley_at = 0, -inf
    for at in refused:
        if at >= volley_at + wait_seconds:
            volley_at = at
        count += at > volley_at + 0.5
    return count


async def stormy_run(seed: int) -> tuple[Provider, float, float]:
    """A storm of 429s with Retry-After. Returns the provider, the end of the storm, and the wait it asked for."""
    rng = random.Random(seed)
    begins = anyio.current_time() + 20 + rng.uniform(0, 5)
    ends = begins + rng.uniform(25, 50)
    wait_seconds = rng.choice([0.5, 3.0, 7.0, 20.0])
    provider = Provider(per_second=50, burst=50, storms=[(begins, ends)], retry_after_seconds=wait_seconds, seed=seed)
    await send_rows(given(50), provider, ends - anyio.current_time() + 70, workers=64)
    return provider, ends, wait_seconds


@pytest.mark.parametrize("seed", range(20))
async def test_in_a_storm_of_429s_no_request_is_early_and_the_rate_is_back_within_a_minute(seed):
    provider, ends, wait_seconds = await stormy_run(seed)
    assert provider.refused
    assert early(provider.refused, wait_seconds) == 0
    assert provider.recovered_after(ends) <= 60


async def test_the_test_of_storms_fails_if_retry_after_pauses_no_other_request(monkeypatch):
    monkeypatch.setattr(LocalRateLimiter, "_pause", lambda limiter, seconds, now: None)
    provider, _, wait_seconds = await stormy_run(3)
    assert wait_seconds > 1
    assert early(provider.refused, wait_seconds) > 0


async def test_the_test_of_storms_fails_if_the_rate_stays_low(monkeypatch):
    monkeypatch.setattr(RateController, "_raise_if_calm", lambda controller, now: controller._set(25.0, now))
    provider, ends, _ = await stormy_run(0)
    assert provider.recovered_after(ends) == inf


async def test_in_a_storm_without_retry_after_requests_pause_and_the_rate_comes_back():
    start = anyio.current_time()
    provider = Provider(per_second=100, burst=100, storms=[(start + 20, start + 80)])
    await send_rows(given(100), provider, 200)
    assert provider.refusals(start + 30, start + 80) == 1.0
    assert len([at for at in provider.refused if at >= start + 22]) <= 600
    assert provider.share(start + 140, start + 200) >= 0.90


# ---------------------------------------------------------------------------------- tokens


async def test_tokens_a_minute_with_rows_of_all_sizes_are_used_and_the_largest_row_is_not_starved():
    start = anyio.current_time()
    provider = Provider(per_second=1_000, burst=1_000, tokens_per_minute=600_000)
    limiter = LocalRateLimiter(RateSettings(tokens_per_minute=600_000))
    waits = await send_rows(limiter, provider, 180, workers=128, sizes=(200, 6_000))
    used = sum(tokens for at, tokens in provider.accepted if start + 10 <= at < start + 180)
    assert used >= 0.92 * 600_000 / 60 * 170
    assert not provider.refused
    late = [wait for tokens, wait in waits[200:] if tokens >= 5_500]
    fair = sum(wait for _, wait in waits[200:]) / len(waits[200:])
    assert max(late) <= 2 * fair


async def test_with_wrong_estimates_the_tokens_are_kept_and_the_largest_row_waits_twice_its_share_at_most():
    start = anyio.current_time()
    provider = Provider(per_second=1_000, burst=1_000, tokens_per_minute=1_200_000)
    limiter = LocalRateLimiter(RateSettings(tokens_per_minute=1_200_000))
    await send_rows(limiter, provider, 120, sizes=(200, 6_000), estimate=2_000, workers=64)
    sent = [(at, tokens) for at, tokens in provider.accepted if start + 20 <= at < start + 120]
    assert 0.92 <= sum(tokens for _, tokens in sent) / (20_000 * 100) <= 1.02
    assert not provider.refused
    waits = [at - before for (before, _), (at, tokens) in pairwise(sent) if tokens >= 5_500]
    assert max(waits) <= 2 * 6_000 / 20_000


# ---------------------------------------------------------------------------------- limits without a window


@pytest.mark.parametrize("window_seconds", [1.0, 60.0])
@pytest.mark.parametrize("per_second", [20.0, 100.0])
async def test_a_limit_without_its_window_is_a_floor_and_the_real_one_is_found(per_second, window_seconds):
    start = anyio.current_time()
    provider = Provider(per_second=per_second, burst=per_second, window_seconds=window_seconds)
    await send_rows(unknown(), provider, 180)
    assert provider.share(start + 60, start + 180) >= 0.90
    assert provider.refusals(start + 60, start + 180) <= 0.02


async def test_a_limit_of_a_day_without_its_window_holds_nothing_back_while_nothing_is_refused():
    provider = Provider(per_second=14_400 / 86_400, burst=14_400.0, window_seconds=86_400.0)
    await send_rows(unknown(), provider, 40, workers=64)
    assert not provider.refused
    assert len(provider.accepted) >= 5_000, "a minute's limit would have let 40 seconds send a few"


async def test_the_largest_reset_seen_is_the_least_window():
    limiter, floors = unknown(), []
    for reset in (6.0, 59.0, 600.0, 30.0, 3_600.0):
        limiter.learn(RateSigns(14_400.0, reset_requests_seconds=reset))
        floors.append(limiter.pacing.controller._floor)
    assert floors == [240.0, 240.0, 24.0, 24.0, 4.0]


async def test_after_refusals_the_rate_is_not_cut_below_the_floor():
    controller, now = RateController(), 0.0
    controller.set_floor(100.0, now)
    for number in range(4_000):
        now += 0.01
        controller.sent(now)
        if number % 2:
            controller.turned_away(now, now, None)
    assert controller.per_second == pytest.approx(100.0)


async def test_a_limit_with_its_window_is_exact():
    start = anyio.current_time()
    provider = Provider(per_second=10.0, burst=10.0, names_limit=True)
    await send_rows(unknown(), provider, 60)
    assert provider.refusals(start, start + 60) <= 0.01


async def test_tokens_without_their_window_are_a_floor_until_a_request_is_refused():
    limiter = unknown()
    limiter.learn(RateSigns(None, 6_000.0))

    async def sent_in(seconds: float) -> int:
        start, sent = anyio.current_time(), 0
        while anyio.current_time() < start + seconds:
            slot = await limiter.acquire(100)
            await slot.wait()
            slot.release()
            limiter.observe(None, slot.sent_at)
            sent += 1
        return sent

    assert await sent_in(30) > 300, "a minute's limit would have let 30 seconds send 30 rows"
    limiter.observe(RateLimited("tokens", retry_after_seconds=1.0), anyio.current_time())
    assert await sent_in(30) <= 40
