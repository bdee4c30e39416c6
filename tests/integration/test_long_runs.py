"""The cap of a day, where the run that has spent the money began days before."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fake_provider import NIGHTFALL, Asked, FakeProvider, Reply, Script, chat, virtual_now

from batchvision.records import TICKS_PER_USD
from batchvision.runner.dependencies import RunDependencies

DAY = 86_400.0
CAPPED = {"provider__parameters": {"max_tokens": 10}, "limits__concurrency": 1}


class LaterProvider(FakeProvider):
    """A provider whose runs begin some days after the first."""

    def __init__(self, days: float, script: Script) -> None:
        super().__init__(script)
        self._days = days

    def dependencies(self, seed: int = 0) -> RunDependencies:
        real = super().dependencies(seed)
        return RunDependencies(
            now=lambda: virtual_now() + timedelta(days=self._days),
            rng=real.rng,
            offload=real.offload,
            transport=real.transport,
        )


def ten_cents(asked: Asked) -> Reply:
    return Reply(200, chat(f"an answer for [[{asked.row}]]", ticks=TICKS_PER_USD // 10))


@pytest.mark.parametrize(("cap", "sent"), [(0.1, 0), (0.35, 2)])
def test_a_daily_cap_counts_what_a_run_that_began_four_days_ago_has_spent_today(job_runs, cap, sent):
    """Each answer takes half a day and costs $0.10; the second run begins right after the first."""
    job_runs.rows(12)
    first = FakeProvider(ten_cents, latency_seconds=DAY / 2)
    limits = {"limits__request_timeout_seconds": 2 * DAY, **CAPPED}
    assert job_runs.run(first, limits__max_runtime_seconds=4 * DAY - 1, **limits).requests_sent == 8
    since_midnight = [
        row for row in job_runs.table("attempts") if row["sent_at"] >= NIGHTFALL + timedelta(hours=2, days=3)
    ]
    assert len(since_midnight) == 1

    later = LaterProvider(4.0, ten_cents)
    capped = job_runs.run(later, **limits, limits__max_cost_usd_per_day=cap)
    assert (capped.stop_reason, capped.exit_code) == ("spend_cap_reached", 4)
    assert len(later.asked) == sent
