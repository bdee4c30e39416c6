"""Faults that do not go away, in whole runs of virtual time: when the run ends, how, and what it says."""

from __future__ import annotations

import json
import logging

import anyio
import pytest
from fake_provider import Asked, FakeProvider, Reply, error

from batchvision.checkpoint import LocalDisk, RunningFiles
from batchvision.errors import ConnectFailed, RequestTimedOut

START = 1_000.0
FAULTS = {
    "no connection": ConnectFailed("connection refused"),
    "503": error(503, "down", "unavailable"),
    "500": error(500, "boom", "internal"),
    "timeout": RequestTimedOut("no answer within 600 s"),
    "429": error(429, "slow down"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("concurrency", [1, 64])
def test_an_outage_longer_than_allowed_ends_the_run_and_the_rows_stay_pending(job_runs, fault, concurrency):
    job_runs.rows(1_200)
    provider = FakeProvider(lambda asked: fault if asked.at > START + 20 else None)
    summary = job_runs.run(provider, limits__concurrency=concurrency)
    done = summary.rows_completed
    assert summary.exit_code == 4
    assert summary.stop_reason == ("quota_reached" if fault is FAULTS["429"] else "provider_unavailable")
    assert (summary.rows_failed, summary.rows_pending) == (0, 1_200 - done)
    assert done >= 9
    assert 7_200 <= summary.duration_seconds - 20 <= 7_200 + 90
    assert job_runs.run(FakeProvider()).exit_code == 0


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_where_nothing_was_ever_answered_it_is_exit_5(job_runs, fault):
    job_runs.rows(60)
    summary = job_runs.run(FakeProvider(lambda asked: fault), limits__max_outage_seconds=600)
    is_quota = fault is FAULTS["429"]
    assert (summary.exit_code, summary.rows_failed, summary.rows_pending) == (4 if is_quota else 5, 0, 60)
    assert summary.stop_reason == ("quota_reached" if is_quota else "provider_never_answered")
    assert 600 <= summary.duration_seconds <= 690


def test_after_a_run_that_was_answered_it_is_exit_4(job_runs):
    job_runs.rows(10)
    job_runs.run(FakeProvider())
    job_runs.rows(60)
    summary = job_runs.run(FakeProvider(lambda asked: FAULTS["503"]), limits__max_outage_seconds=600)
    assert (summary.exit_code, summary.stop_reason) == (4, "provider_unavailable")


def test_an_outage_that_ends_in_time_costs_no_row(job_runs):
    job_runs.rows(60)
    provider = FakeProvider(lambda asked: FAULTS["503"] if asked.at < START + 500 else None)
    assert job_runs.run(provider, limits__max_outage_seconds=600).exit_code == 0


def test_tickets_outlive_an_outage_that_ends_the_run(job_runs):
    job_runs.rows(20)

    class Away(FakeProvider):
        async def _poll(self, path: str) -> Reply:
            self.polls.append(anyio.current_time())
            return error(503, "down", "unavailable")

    provider = Away()
    summary = job_runs.run(provider, delivery__lane="deferred", limits__max_outage_seconds=600)
    assert (summary.exit_code, summary.tickets_open, summary.rows_failed) == (4, 20, 0)
    assert provider.polls[-1] - provider.polls[0] <= 600 + 90
    kept = FakeProvider()
    kept.tickets = {name: (0.0, answer) for name, (_, answer) in provider.tickets.items()}
    assert (job_runs.run(kept, delivery__lane="deferred").exit_code, len(kept.asked)) == (0, 0)


@pytest.mark.parametrize(
    "reply",
    [
        error(429, "on requests per day (RPD): Limit 1000, Used 1000. Please try again in 6h12m26.4s"),
        error(429, "Too many requests", retry_after="22346"),
        error(429, "Rate limit exceeded: free-models-per-day"),
    ],
)
def test_a_quota_that_is_whole_again_in_hours_ends_the_run_at_once_and_says_until_when(job_runs, reply):
    job_runs.rows(60)
    provider = FakeProvider(lambda asked: reply if asked.number > 2 else None)
    summary = job_runs.run(provider, limits__concurrency=1)
    assert (summary.exit_code, summary.stop_reason, summary.rows_completed) == (4, "quota_reached", 2)
    assert (summary.rows_failed, summary.rows_pending, len(provider.asked)) == (0, 58, 3)
    assert summary.duration_seconds < 60
    if reply.headers:
        assert "until 2026-11-21 04:12 UTC" in (summary.message or "")


def test_a_quota_that_is_whole_again_soon_is_waited_for(job_runs):
    job_runs.rows(6)
    whole_at = START + 4_000

    def script(asked: Asked) -> Reply | None:
        wait = whole_at - asked.at
        return error(429, "requests per day", retry_after=f"{wait:.0f}") if asked.number > 2 and wait > 0 else None

    provider = FakeProvider(script)
    summary = job_runs.run(provider, limits__concurrency=1)
    assert (summary.exit_code, summary.rows_completed) == (0, 6)
    assert len(provider.asked) <= 8


def test_a_limit_of_0_ends_the_run_with_exit_5(job_runs):
    job_runs.rows(60)
    provider = FakeProvider(lambda asked: error(429, "Quota exceeded, limit: 0. Please retry in 3s."))
    summary = job_runs.run(provider)
    assert (summary.exit_code, summary.stop_reason, len(provider.asked)) == (5, "out_of_credit", 1)


# ---------------------------------------------------------------------------------- told


def wait_file(job_runs) -> dict | None:
    files = list((job_runs.folder / "out").glob(".batchvision/*/running.json"))
    return json.loads(files[0].read_text())["figures"]["progress"]["waiting"] if files else None


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (FAULTS["503"], "the provider does not answer (xai answered 503: down)"),
        (error(429, "slow down", retry_after="300"), "nothing is sent until 2026-11-20 22:0"),
    ],
)
def test_a_wait_is_told_in_the_log_and_to_status_with_its_end_and_so_is_its_own_end(job_runs, caplog, fault, words):
    job_runs.rows(60)
    seen: list[dict | None] = []
    noticed: list[int] = []

    async def look() -> None:
        while True:
            await anyio.sleep(40)
            seen.append(wait_file(job_runs))
            noticed.append(
                len([run for run in RunningFiles(job_runs.folder / "out", LocalDisk()).look() if run.progress.waiting])
            )

    provider = FakeProvider(lambda asked: fault if START + 20 < asked.at < START + 200 else None)
    with caplog.at_level(logging.WARNING, "batchvision"):
        summary = job_runs.run(provider, beside=look, limits__concurrency=2)
    assert summary.exit_code == 0
    told = [record.getMessage() for record in caplog.records]
    assert [line for line in told if line.startswith(words)], told
    assert all(" UTC" in line for line in told if line.startswith(words))
    during = [each for each in seen if each is not None]
    assert during
    assert all(each["reason"] and each["until"] > "2026-11-20T22:0" for each in during)
    assert max(noticed) == 1
    assert wait_file(job_runs) is None
    if fault is FAULTS["503"]:
        assert "the provider answers again: going on" in told


def test_after_a_run_that_ended_in_an_outage_nothing_is_waited_for(job_runs):
    job_runs.rows(60)
    job_runs.run(FakeProvider(lambda asked: FAULTS["503"]), limits__max_outage_seconds=600)
    assert wait_file(job_runs) is None
    assert RunningFiles(job_runs.folder / "out", LocalDisk()).look() == ()
