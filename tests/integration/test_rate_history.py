"""The summary holds the rate, the 429s and the pauses of its run over time."""

from __future__ import annotations

import json

from fake_provider import Asked, FakeProvider, error

from batchvision.cli.status import status_lines
from batchvision.commands.status import look
from batchvision.limits.limiter import MOST_SAMPLES


def test_a_429_and_its_pause_are_in_the_summary_and_in_status(job_runs):
    job_runs.rows(30)

    def script(asked: Asked):
        return error(429, "slow down", retry_after="90") if asked.number == 1 else None

    summary = job_runs.run(FakeProvider(script), limits__requests_per_minute=600)
    assert sum(sample.sent for sample in summary.rate_history) == summary.requests_sent == 31
    assert [(sample.begins_seconds, sample.rate_limited) for sample in summary.rate_history] == [(0, 1), (60, 0)]
    assert summary.rate_history[0].paused_seconds == 90
    assert summary.rate_history[-1].rate_per_second == 10

    document = json.loads((job_runs.folder / "out" / "runs" / "latest.json").read_text())
    assert document["rate_history"] == [sample._asdict() for sample in summary.rate_history]
    status = look(job_runs.folder / "out")
    assert status.latest == summary
    assert "            1 answers 429, 90 s of pauses, then 10.0 requests a second" in status_lines(status)


def test_the_history_of_a_long_run_is_bounded_and_complete(job_runs):
    rows = 3 * MOST_SAMPLES
    job_runs.rows(rows)
    summary = job_runs.run(FakeProvider(), limits__requests_per_minute=1)
    assert summary.duration_seconds > 60 * (rows - 2)
    assert MOST_SAMPLES / 2 <= len(summary.rate_history) <= MOST_SAMPLES
    assert sum(sample.sent for sample in summary.rate_history) == rows
