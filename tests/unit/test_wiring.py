"""How settings become parts: the tightest rate, a cap that can be kept, shards that share a limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from batchvision import Job, JobInvalid
from batchvision.wiring import budget_of, cap_of, estimator_of, judge_of, prices_of


@pytest.fixture
def job_of(tmp_path: Path):
    (tmp_path / "photos.csv").write_text("image\n")

    def make(**sections: dict[str, Any]) -> Job:
        settings: dict[str, Any] = {
            "name": "wiring",
            "manifest": {"path": "photos.csv"},
            "prompt": {"user": "What is this?"},
            "provider": {"name": "xai", "model": "grok-4.3"},
        }
        for name, values in sections.items():
            settings[name] = {**settings.get(name, {}), **values}
        return Job.from_mapping(settings, tmp_path)

    return make


def rate_of(job: Job, shards: int = 1) -> float | None:
    cap = cap_of(job, prices_of(job), estimator_of(job, prices_of(job)), 0)
    return budget_of(job, cap, shards).pacing._per_second


def test_the_tightest_of_two_rates_holds(job_of):
    assert rate_of(job_of(limits={"requests_per_minute": 600})) == 10
    assert rate_of(job_of(limits={"requests_per_minute": 600, "requests_per_second": 4})) == 4
    assert rate_of(job_of()) is None


def test_shards_share_a_limit(job_of):
    assert rate_of(job_of(limits={"requests_per_minute": 600}), shards=4) == 2.5


def test_a_cap_counts_what_all_runs_have_spent(job_of):
    job = job_of(limits={"max_cost_usd": 2}, provider={"parameters": {"max_tokens": 100}})
    cap = cap_of(job, prices_of(job), estimator_of(job, prices_of(job)), 15_000_000_000)
    assert cap.left_ticks == 5_000_000_000


def test_a_cap_that_could_not_be_kept_says_what_is_missing(job_of):
    no_bound = job_of(limits={"max_cost_usd": 2})
    with pytest.raises(JobInvalid, match="max_tokens"):
        cap_of(no_bound, prices_of(no_bound), estimator_of(no_bound, prices_of(no_bound)), 0)
    no_price = job_of(
        limits={"max_cost_usd": 2}, provider={"model": "grok-unheard-of", "parameters": {"max_tokens": 100}}
    )
    with pytest.raises(JobInvalid, match=r"provider\.prices"):
        cap_of(no_price, prices_of(no_price), estimator_of(no_price, prices_of(no_price)), 0)


@pytest.mark.parametrize("name", ["max_cost_usd_per_run", "max_cost_usd_per_day", "max_cost_usd_per_month"])
def test_a_cap_that_is_not_kept_yet_is_refused_rather_than_ignored(job_of, name):
    job = job_of(limits={name: 1}, provider={"parameters": {"max_tokens": 10}})
    with pytest.raises(JobInvalid, match=name):
        cap_of(job, prices_of(job), estimator_of(job, prices_of(job)), 0)


def test_the_jobs_own_prices_win(job_of):
    known = prices_of(job_of())
    given = prices_of(job_of(provider={"prices": {"input": 9, "output": 8}}))
    assert known is not None
    assert given is not None
    assert known.input_ticks_per_mtok == 12_500_000_000
    assert (given.input_ticks_per_mtok, given.output_ticks_per_mtok) == (90_000_000_000, 80_000_000_000)


def test_the_judge_knows_how_often_and_when_to_raise(job_of):
    job = job_of(limits={"max_attempts": 2}, answer={"on_truncated": "raise_once"})
    judge = judge_of(job, None, lambda recipe_id: job.recipe)
    assert (judge._policy.max_attempts, judge._policy.raise_once) == (2, True)
