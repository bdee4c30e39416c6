"""The rate limiter and the spend cap of a run can be replaced, for example by those that several processes share."""

from __future__ import annotations

from dataclasses import replace

import anyio
from fake_provider import FakeProvider
from virtual_time import VIRTUAL

from batchvision.limits import LocalRateLimiter, LocalSpendCap, RateSettings, SendSlot, SpendCaps
from batchvision.records import RunSummary
from batchvision.runner import RunDependencies, run_async


class CountingLimiter(LocalRateLimiter):
    """Counts the places that it gave."""

    given = 0

    async def acquire(self, tokens: float) -> SendSlot:
        slot = await super().acquire(tokens)
        self.given += 1
        return slot


def run(job_runs, dependencies: RunDependencies) -> RunSummary:
    async def start() -> RunSummary:
        return await run_async(job_runs.job(), environ={"XAI_API_KEY": "xai-secret-key-000"}, dependencies=dependencies)

    return anyio.run(start, backend_options=VIRTUAL)


def test_each_request_asks_the_given_rate_limiter(job_runs):
    job_runs.rows(12)
    provider = FakeProvider()
    limiter = CountingLimiter(RateSettings(in_flight=4))
    summary = run(job_runs, replace(provider.dependencies(), rate_limiter=limiter))
    assert (summary.exit_code, summary.rows_completed, summary.requests_sent) == (0, 12, 12)
    assert limiter.given == 12
    assert provider.most_in_flight <= 4


def test_a_used_up_spend_cap_that_is_given_stops_the_run_before_it_sends(job_runs):
    job_runs.rows(3)
    provider = FakeProvider()
    cap = SpendCaps([LocalSpendCap(1, spent_ticks=1)])
    summary = run(job_runs, replace(provider.dependencies(), spend_cap=cap))
    assert (summary.exit_code, summary.stop_reason, summary.rows_pending) == (4, "spend_cap_reached", 3)
    assert len(provider.asked) == 0
