"""``[load]``: a run loads at its end, however it ends, and a load that fails is exit code 8."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from job_runs import DEFERRED, JobRuns
from signalled_runs import signal_at_first_answer

from batchvision.cli.closing import Typed, closing_lines
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

TINY_CAP = {"limits.max_cost_usd": 0.0000001, "provider.parameters": {"max_tokens": 10}}
LOAD = {"load.to": "duckdb:///warehouse.db"}
UNREACHABLE = {"load.to": "duckdb:///nowhere/warehouse.db"}


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture
def job(tmp_path: Path, emulator: RunningEmulator) -> JobRuns:
    job_runs = JobRuns(tmp_path, emulator, settings=LOAD)
    job_runs.rows("shoe", "r1", "r2", "r3", "r4")
    return job_runs


def loaded(job: JobRuns, query: str = "SELECT row_id FROM batchvision_results") -> list[object]:
    with duckdb.connect(str(job.folder / "warehouse.db")) as connection:
        return [row[0] for row in connection.execute(f"{query} ORDER BY 1").fetchall()]


def test_each_run_loads_its_answers_its_cost_and_its_summary(job: JobRuns) -> None:
    assert job.run().exit_code == 0
    assert loaded(job) == ["r1", "r2", "r3", "r4"]
    job.rows("bag", "r5")
    assert job.run().exit_code == 0
    assert loaded(job) == ["r1", "r2", "r3", "r4", "r5"]
    costs = [json.loads(path.read_text())["cost_ticks"] for path in job.output.glob("runs/*-*.json")]
    assert Counter(loaded(job, "SELECT cost_ticks FROM batchvision_runs")) == Counter(costs)


def test_a_run_with_failed_rows_loads_them(job: JobRuns) -> None:
    job.rows("[[fault:refusal:9]]", "r2")
    assert job.run().exit_code == 3
    assert loaded(job) == ["r1", "r3", "r4"]
    assert loaded(job, "SELECT row_id FROM batchvision_failures") == ["r2"]


def test_a_run_that_reached_its_own_limit_loads(job: JobRuns) -> None:
    stopped = job.run(TINY_CAP)
    assert stopped.exit_code == 4
    assert loaded(job, "SELECT exit_code FROM batchvision_runs") == [4]


def test_a_run_that_leaves_tickets_loads(job: JobRuns) -> None:
    job.emulator.configure(deferred_seconds=60)
    assert job.run(DEFERRED).exit_code in (4, 6)
    assert len(loaded(job, "SELECT run_id FROM batchvision_runs")) == 1


def test_a_run_that_a_signal_ended_loads(job: JobRuns) -> None:
    job.emulator.configure(latency_seconds=0.3)
    with signal_at_first_answer(job.emulator, signal.SIGTERM):
        assert job.run({"limits.concurrency": 1}).exit_code == 143
    assert len(loaded(job)) == len(job.table("results")) > 0


def test_a_run_that_was_refused_does_not_load(job: JobRuns) -> None:
    job.run()
    before = loaded(job, "SELECT run_id FROM batchvision_runs")
    assert job.run({"prompt.user": "Another question about {title}"}).exit_code == 2
    assert loaded(job, "SELECT run_id FROM batchvision_runs") == before


def test_a_load_that_failed_is_exit_8_and_every_answer_is_kept(job: JobRuns) -> None:
    failed = job.run(UNREACHABLE)
    assert failed.exit_code == 8
    assert "check that its folder exists" in failed.message
    stored = json.loads((job.output / "runs" / "latest.json").read_text())
    assert (stored["exit_code"], stored["stop_reason"]) == (0, None)
    again = job.run()
    assert (again.exit_code, again.billed) == (0, Counter())
    assert len(loaded(job)) == 4


def test_a_load_that_failed_has_a_closing_line_and_the_command_that_repeats_it(job: JobRuns) -> None:
    summary = job.run(UNREACHABLE).summary
    assert summary is not None
    lines = closing_lines(summary, job.output, Typed("again", "check", "reparse", "batchvision load job.toml"))
    assert any(line.startswith("  not loaded  duckdb:///") for line in lines)
    assert lines[-1].startswith("  next      batchvision load job.toml")


def test_what_says_more_than_a_failed_load_keeps_its_exit_code(job: JobRuns) -> None:
    assert job.run({**UNREACHABLE, **TINY_CAP}).exit_code == 4
    job.rows("[[fault:refusal:9]]", "r2")
    assert job.run(UNREACHABLE).exit_code == 8  # more than 3


def test_a_destination_that_cannot_be_opened_stops_the_run_before_it_sends_anything(job: JobRuns) -> None:
    refused = job.run({"load.to": "env:NOT_SET_ANYWHERE"})
    assert (refused.exit_code, refused.billed) == (2, Counter())
    assert "the environment variable NOT_SET_ANYWHERE is not set" in refused.message
