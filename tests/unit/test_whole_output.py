"""The summary of an output with shards adds up the newest run of each."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from batchvision import Job
from batchvision.checkpoint.whole_output import newest_of_shards, whole_summary
from batchvision.records import Counters, RunSummary
from batchvision.runner.summary import Left, summarize


@pytest.fixture
def run_of(tmp_path: Path):
    (tmp_path / "photos.csv").write_text("image\n")
    settings = {
        "name": "summary",
        "manifest": {"path": "photos.csv"},
        "prompt": {"user": "What is this?"},
        "provider": {"name": "emulator", "model": "grok-4.3"},
    }
    job = Job.from_mapping(settings, tmp_path)

    def summary(shard: str, at: int, **fields: object) -> RunSummary:
        made = summarize(
            job,
            Counters(rows_total=10, rows_completed=7, requests_sent=8, cost_ticks=100),
            run_id=f"run-{at}",
            started_at=datetime(2026, 11, 20, 20, at, tzinfo=UTC),
            finished_at=datetime(2026, 11, 20, 21, at, tzinfo=UTC),
            reason=None,
            left=Left((), 0, 0),
            parts=(),
            spent={"by_state": {"ok": {"attempts": 7, "cost_ticks": 100}}},
        )
        return replace(made, shard=shard, rows_in_manifest=40, **fields)  # type: ignore[arg-type]

    return summary


def test_counts_and_money_add_up_and_rows_of_shards_without_a_run_are_pending(run_of):
    runs = [run_of("0/4", 1), run_of("1/4", 2), run_of("3/4", 3)]
    whole = whole_summary(runs[-1], runs)
    assert (whole.rows_total, whole.rows_completed, whole.rows_failed, whole.rows_pending) == (40, 21, 0, 19)
    assert (whole.requests_sent, whole.cost_ticks, whole.cost_usd) == (24, 300, 300 / 10**10)
    assert whole.spent == {"by_state": {"ok": {"attempts": 21, "cost_ticks": 300}}}
    assert whole.shards == {"0/4": "run-1", "1/4": "run-2", "3/4": "run-3"}
    assert (whole.shard, whole.run_id) == ("0/1", "run-3")
    assert (whole.started_at[14:16], whole.finished_at[14:16], whole.duration_seconds) == ("01", "03", 3720.0)


def test_an_unknown_cost_of_one_shard_makes_the_whole_unknown(run_of):
    whole = whole_summary(run_of("0/2", 1), [run_of("0/2", 1), run_of("1/2", 2, cost_ticks=None, cost_usd=None)])
    assert (whole.cost_ticks, whole.cost_usd) == (None, None)


def test_the_exit_code_that_comes_first_counts_with_its_reason(run_of):
    stopped = run_of("0/3", 1, exit_code=4, stop_reason="spend_cap_reached", message="the cap", stop_key="max_cost_usd")
    whole = whole_summary(run_of("2/3", 3), [stopped, run_of("1/3", 2, exit_code=3), run_of("2/3", 3)])
    assert (whole.exit_code, whole.stop_reason, whole.message, whole.stop_key) == (
        4,
        "spend_cap_reached",
        "the cap",
        "max_cost_usd",
    )


def test_the_newest_run_of_each_shard_of_the_division_counts_and_no_sweep(run_of):
    runs = [
        run_of("1/2", 9, command="sweep"),
        run_of("1/2", 8),
        run_of("0/4", 7),
        run_of("1/2", 6),
        run_of("0/2", 5),
        run_of("0/1", 4),
    ]
    assert [run.run_id for run in newest_of_shards(runs, 2)] == ["run-5", "run-8"]
