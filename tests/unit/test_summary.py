"""How a run ended: the exit code by the order of the design, and counts that add up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchvision import Job
from batchvision.errors import (
    AuthenticationFailed,
    CheckpointDamaged,
    DeadlineReached,
    DiskFailed,
    ModelNotFound,
    OutOfCredit,
    SpendCapReached,
    TooManyFailures,
)
from batchvision.records import Counters, Failed
from batchvision.runner.summary import Left, exit_code_of, summarize
from batchvision.stopping import Interrupted

NOW = datetime(2026, 11, 20, 23, tzinfo=UTC)
FAILED = Failed(
    "r1", None, "s", "recipe", "refused", "no", None, 1, 0, 1, False, None, NOW, "run", {}, at_provider=True
)  # fmt: skip
NOTHING = Left((), 0, 0)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "photos.csv").write_text("image\n")
    return Job.from_mapping(
        {
            "name": "summary",
            "manifest": {"path": "photos.csv"},
            "prompt": {"user": "What is this?"},
            "provider": {"name": "xai", "model": "grok-4.3"},
        },
        tmp_path,
    )


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (Interrupted("SIGINT", 2), 130),
        (Interrupted("SIGTERM", 15), 143),
        (DiskFailed("full"), 7),
        (CheckpointDamaged("bits"), 7),
        (AuthenticationFailed("key"), 5),
        (OutOfCredit("credit"), 5),
        (ModelNotFound("model"), 5),
        (SpendCapReached("cap"), 4),
        (DeadlineReached("time"), 4),
        (TooManyFailures("many"), 4),
    ],
)
def test_what_stopped_the_run_decides_before_rows_and_tickets(job, reason, code):
    assert exit_code_of(reason, job, 10, Left((FAILED,), 3, 1)) == code


def test_open_tickets_come_before_failed_rows(job):
    assert exit_code_of(None, job, 10, Left((FAILED,), 1, 0)) == 6


def test_failed_rows_and_held_rows_make_it_3(job):
    assert exit_code_of(None, job, 10, Left((FAILED,), 0, 0)) == 3
    assert exit_code_of(None, job, 10, Left((), 0, 1)) == 3


def test_rows_set_aside_earlier_do_not(job):
    assert exit_code_of(None, job, 10, Left((replace(FAILED, quarantined=True),), 0, 0)) == 0


def test_so_many_failures_as_the_job_allows_are_fine(job):
    ten = Left((FAILED,), 0, 0)
    tolerant = Job.from_mapping(
        {**job.config(), "limits": {"failed_ok": "10%"}, "provider": {"name": "xai", "model": "grok-4.3"}},
        job.base_dir,
    )
    assert exit_code_of(None, tolerant, 10, ten) == 0
    assert exit_code_of(None, tolerant, 9, ten) == 3


def test_all_is_well(job):
    assert exit_code_of(None, job, 10, NOTHING) == 0


def test_the_three_counts_add_up_and_costs_are_exact(job):
    counters = Counters(rows_total=10, rows_done_before=4, rows_completed=3, cost_ticks=12_345_678_901)
    summary = summarize(
        job,
        counters,
        run_id="run",
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=90),
        reason=OutOfCredit("none left"),
        left=Left((FAILED, replace(FAILED, row_id="r2", error_kind="truncated")), 1, 0),
        parts=(),
    )
    assert (summary.rows_completed, summary.rows_failed, summary.rows_pending) == (7, 2, 1)
    assert summary.failures_by_kind == {"refused": 1, "truncated": 1}
    assert (summary.cost_ticks, summary.cost_usd) == (12_345_678_901, 1.2345678901)
    assert (summary.stop_reason, summary.exit_code, summary.message) == ("out_of_credit", 5, "none left")
    assert summary.duration_seconds == 90
    assert summary.versions["batchvision"]
    assert summary.config["name"] == "summary"
