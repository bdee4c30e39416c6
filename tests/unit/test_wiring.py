"""How settings become parts: the tightest rate, a cap that can be kept, shards that share a limit."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchvision import Job, JobInvalid
from batchvision.limits import LocalRateLimiter, SpendCaps
from batchvision.money.price_lists import quote
from batchvision.records import Shard
from batchvision.runner.job_warnings import system_warning, warnings_of
from batchvision.runner.setup import share_of_job
from batchvision.runner.wiring import (
    Spent,
    caps_of,
    classifier_of,
    estimator_of,
    least_image_of,
    prices_of,
    rate_limiter_of,
)


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


@pytest.mark.parametrize(
    ("system", "named"),
    [
        ("You label {title}.", "{title}"),
        ("Look at {image:front} of {sku} and {sku}", "{image:front}, {sku}"),
        ("Be brief.", None),
        ('Answer as {"label": 1} or {}', None),
        ("Write {{title}} with braces", None),
        ("{ a set }", None),
    ],
)
def test_a_system_prompt_that_looks_like_a_template_is_warned_about(job_of, system, named):
    job = job_of(prompt={"system": system})
    said = system_warning(job)
    assert (said is None) is (named is None)
    if named is not None:
        assert f"{named} in it is not replaced" in said
        assert said in list(warnings_of(job, quote(job), now()))
    assert job.recipe.system == system, "it is sent as it stands"


def now() -> datetime:
    return datetime(2026, 11, 20, 23, 30, tzinfo=UTC)


def caps_for(job: Job, spent: Spent | None = None) -> SpendCaps:
    prices = prices_of(job)
    return caps_of(job, prices, estimator_of(job, prices), spent or Spent({}), now)


def rate_of(job: Job, shards: int = 1) -> float | None:
    limiter = rate_limiter_of(share_of_job(job, Shard(0, shards)))
    assert isinstance(limiter, LocalRateLimiter)
    return limiter.pacing.controller.per_second


def test_the_tightest_of_two_rates_holds(job_of):
    assert rate_of(job_of(limits={"requests_per_minute": 600})) == 10
    assert rate_of(job_of(limits={"requests_per_minute": 600, "requests_per_second": 4})) == 4
    assert rate_of(job_of()) is None


def test_shards_share_a_limit(job_of):
    assert rate_of(job_of(limits={"requests_per_minute": 600}), shards=4) == 2.5


def test_the_shards_of_a_job_send_as_much_at_once_as_the_whole_job(job_of):
    job = job_of(limits={"concurrency": 10, "tokens_per_minute": 900, "requests_per_second": 3})
    shares = [share_of_job(job, Shard(number, 4)).limits for number in range(4)]
    assert [share.concurrency for share in shares] == [3, 3, 2, 2]
    assert {share.tokens_per_minute for share in shares} == {225}
    assert {share.requests_per_second for share in shares} == {0.75}
    assert share_of_job(job, Shard()) is job
    tickets = [share_of_job(job_of(delivery={"max_open_tickets": 7}), Shard(number, 3)) for number in range(3)]
    assert [share.delivery.max_open_tickets for share in tickets] == [3, 2, 2]


def test_shards_that_run_two_at_a_time_have_half_of_the_rates_and_the_concurrency_each(job_of):
    job = job_of(limits={"concurrency": 9, "requests_per_minute": 600, "max_cost_usd": 4})
    shares = [share_of_job(job, Shard(number, 16), at_once=2).limits for number in range(16)]
    assert {share.requests_per_minute for share in shares} == {300}
    assert [share.concurrency for share in shares[:4]] == [5, 4, 5, 4]
    assert {share.max_cost_usd for share in shares} == {job.limits.max_cost_usd}, "caps_of divides it by 16"


def test_a_shared_budget_is_not_divided_among_shards(job_of):
    job = job_of(limits={"concurrency": 9, "requests_per_minute": 600, "share": "key"})
    assert share_of_job(job, Shard(1, 4)) is job


def test_more_shards_than_requests_at_once_are_refused_with_the_number_that_helps(job_of):
    with pytest.raises(JobInvalid, match=r"limits\.concurrency = 3 .* at least 4"):
        share_of_job(job_of(limits={"concurrency": 3}), Shard(0, 4))


def test_a_cap_counts_what_all_runs_have_spent(job_of):
    job = job_of(limits={"max_cost_usd": 2}, provider={"parameters": {"max_tokens": 100}})
    assert caps_for(job, Spent({Shard(): 15_000_000_000})).left_ticks == 5_000_000_000


def test_a_cap_that_could_not_be_kept_says_what_is_missing(job_of):
    no_bound = job_of(limits={"max_cost_usd": 2})
    with pytest.raises(JobInvalid, match="max_tokens"):
        caps_for(no_bound)
    no_price = job_of(
        limits={"max_cost_usd": 2}, provider={"model": "grok-unheard-of", "parameters": {"max_tokens": 100}}
    )
    with pytest.raises(JobInvalid, match=r"provider\.prices"):
        caps_for(no_price)


def test_the_tightest_of_all_caps_holds_and_is_named(job_of):
    job = job_of(
        limits={"max_cost_usd": 20, "max_cost_usd_per_day": 3, "max_cost_usd_per_month": 10, "max_cost_usd_per_run": 5},
        provider={"parameters": {"max_tokens": 100}},
    )
    caps = caps_for(job, Spent(in_all={}, today={Shard(): 10_000_000_000}, this_month={Shard(): 90_000_000_000}))
    assert caps.left_ticks == 10_000_000_000
    assert caps.tightest_key == "max_cost_usd_per_month"


def test_the_jobs_own_prices_win(job_of):
    known = prices_of(job_of())
    given = prices_of(job_of(provider={"prices": {"input": 9, "output": 8}}))
    assert known is not None
    assert given is not None
    assert known.input_ticks_per_mtok == 12_500_000_000
    assert (given.input_ticks_per_mtok, given.output_ticks_per_mtok) == (90_000_000_000, 80_000_000_000)


def test_the_judge_knows_how_often_and_when_to_raise(job_of):
    job = job_of(limits={"max_attempts": 2}, answer={"on_truncated": "raise_once"})
    classifier = classifier_of(job, None, lambda recipe_id: job.recipe)
    assert (classifier._policy.max_attempts, classifier._policy.raise_once) == (2, True)


@pytest.mark.parametrize(
    ("provider", "least"),
    [
        ({"name": "xai"}, (8, 512)),
        ({"name": "xai", "base_url": "https://gateway.example.com/v1"}, (8, 1)),
        ({"name": "openai", "model": "gpt-4o"}, (1, 1)),
        ({"name": "emulator"}, (1, 1)),
    ],
)
def test_the_smallest_image_is_the_providers_own(job_of, provider, least):
    assert least_image_of(job_of(provider=provider)) == least
