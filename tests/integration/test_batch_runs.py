"""The batch lane on both faces of the emulator: every row once, the bill to the tick, after kills and failures too."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from batch_runs import ENVIRON, BatchRuns

from batchvision import Job, read, run
from batchvision.checkpoint import Submission, SubmissionStep
from batchvision.checkpoint.submissions import SubmissionRecords
from batchvision.commands.redo import digests_of
from batchvision.emulator import EmulatorOptions, Face, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.runner import cancel_async
from batchvision.runner.batch_calls import BatchCalls
from batchvision.runner.feed import Selection
from batchvision.runner.lanes import batch as lane

FACES = [Face.XAI, Face.OPENAI]
QUICK = EmulatorOptions(batch_validation_seconds=0.0, batch_seconds=0.0, ledger_entries=100_000)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "FIRST_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(lane, "LISTED_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(lane, "QUOTA_SECONDS", 0.05)


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(QUICK) as running:
        yield running


@pytest.fixture(params=FACES)
def runs(request: pytest.FixtureRequest, tmp_path: Path, emulator: RunningEmulator) -> BatchRuns:
    return BatchRuns(tmp_path, emulator, request.param)


def test_every_row_has_its_own_answer_and_a_rerun_sends_nothing(runs: BatchRuns) -> None:
    runs.rows, runs.delivery = 1_200, "max_batch_rows = 500"
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed, summary.requests_sent) == (0, 1_200, 1_200), summary.message
    assert summary.tickets_open == 0
    runs.assert_right()
    assert runs.emulator.bill().batches == 4  # one row finds out whether the model takes batches
    again = runs.run()
    assert (again.exit_code, again.requests_sent) == (0, 0)
    assert runs.emulator.bill().batches == 4
    assert {row["lane"] for row in runs.table("results")} == {"batch"}


def test_identical_rows_are_asked_once(runs: BatchRuns) -> None:
    job = runs.write()
    job.write_text(job.read_text().replace("[[echo:{id}]]", ""))
    summary = run(Job.load(job, environ=ENVIRON), environ=ENVIRON)
    assert (summary.rows_completed, summary.requests_sent) == (8, 1)


# ---------------------------------------------------------------------------------- crashes

#: Calls of a run with two batches: upload, create and look of the first, then of the second, results and removals.
#: ``scripts/batches`` kills at random ones.
KILLS = [("before", 2), *(("after", call) for call in range(1, 10))]


@pytest.mark.parametrize(("when", "call"), KILLS)
def test_a_kill_at_any_call_buys_nothing_twice(runs: BatchRuns, call: int, when: str) -> None:
    assert runs.killed(call, when)
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed) == (0, 8), summary.message
    runs.assert_right()


def bought_twice(runs: BatchRuns) -> int:
    """Kill at each call around the first create, rerun, and count what was paid again."""
    found = 0
    for call in (2, 5, 6):
        runs.folder = runs.folder.parent / f"{runs.folder.name}-{call}"
        runs.folder.mkdir()
        runs.__post_init__()
        runs.emulator.reset()
        runs.killed(call, "after")
        runs.run()
        found += runs.emulator.bill().generated_again
    return found


def test_a_run_that_does_not_ask_for_lost_batches_is_caught(runs: BatchRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sabotage: nothing is looked for after a crash."""

    async def find(_: BatchCalls, name: str) -> None:
        return None

    monkeypatch.setattr(BatchCalls, "find", find)
    assert bought_twice(runs) > 0


def test_a_run_that_forgets_the_step_before_the_create_is_caught(
    runs: BatchRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage: the record of a create that was begun is lost."""
    known = SubmissionRecords.open.fget
    assert known is not None

    def without_creating(records: SubmissionRecords) -> dict[str, Submission]:
        return {name: each for name, each in known(records).items() if each.step is not SubmissionStep.CREATING}

    monkeypatch.setattr(SubmissionRecords, "open", property(without_creating))
    assert bought_twice(runs) > 0


def test_a_create_whose_answer_is_lost_is_found_within_the_run(runs: BatchRuns) -> None:
    runs.emulator.configure(fault_rates={"create_reset": 1.0})
    summary = runs.run()
    runs.emulator.configure(fault_rates={})
    assert (summary.exit_code, summary.rows_completed) == (0, 8), summary.message
    runs.assert_right()


# ---------------------------------------------------------------------------------- failures


def test_a_bad_line_costs_only_its_own_row(runs: BatchRuns) -> None:
    runs.faults = {3: "[[fault:bad_line]]"}
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed, summary.rows_failed) == (3, 7, 1), summary.message
    (failed,) = runs.table("failures")
    assert (failed["row_id"], failed["error_kind"]) == ("r3", "request_rejected")
    assert runs.verify().is_right


@pytest.mark.parametrize("fault", ["rejected", "refusal", "length", "empty"])
def test_a_row_that_fails_inside_a_batch_fails_alone(runs: BatchRuns, fault: str) -> None:
    runs.faults = {5: f"[[fault:{fault}]]"}
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed, summary.rows_failed) == (3, 7, 1), summary.message
    bill = runs.emulator.bill()
    assert sum(row["cost_ticks"] or 0 for row in runs.table("attempts")) == bill.ticks
    assert runs.verify().is_right


@pytest.mark.parametrize("fault", ["server_error", "rate_limited", "line_garbled", "line_missing"])
def test_a_row_that_fails_for_now_is_asked_again_in_another_batch(runs: BatchRuns, fault: str) -> None:
    runs.faults = {5: f"[[fault:{fault}:1]]"}
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed) == (0, 8), summary.message
    assert runs.verify().is_right


def test_results_that_break_off_are_read_again_and_booked_once(runs: BatchRuns) -> None:
    runs.rows = 40
    runs.emulator.configure(fault_rates={"results_cut": 0.3})
    summary = runs.run()
    runs.emulator.configure(fault_rates={})
    assert (summary.exit_code, summary.rows_completed) == (0, 40), summary.message
    runs.assert_right()


def test_expired_rows_fail_and_a_rerun_asks_them_again(runs: BatchRuns) -> None:
    runs.emulator.configure(batch_seconds=3_600.0, batch_life_seconds=1.0)
    summary = runs.run()
    assert (summary.exit_code, summary.failures_by_kind) == (3, {"expired": 8}), summary.message
    runs.emulator.configure(batch_seconds=0.0, batch_life_seconds=86_400.0)
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed) == (0, 8), summary.message
    runs.assert_right()


def test_a_model_without_batches_stops_the_run_after_one_row(runs: BatchRuns) -> None:
    runs.rows = 200
    summary = runs.run({"provider.model": "grok-4.5"})
    assert (summary.exit_code, summary.stop_reason) == (5, "model_not_found"), summary.message
    assert summary.rows_pending == 200
    assert summary.requests_sent <= 1
    assert runs.emulator.bill().ticks == 0
    assert "online" in summary.message


# ---------------------------------------------------------------------------------- leave and collect


def test_a_run_that_does_not_wait_leaves_its_tickets_and_the_next_run_collects(runs: BatchRuns) -> None:
    runs.emulator.configure(batch_seconds=3_600.0)
    left = runs.run({"delivery.wait": False})
    assert (left.exit_code, left.tickets_open, left.rows_pending) == (6, 8, 8), left.message
    runs.emulator.configure(batch_seconds=0.0)
    runs.emulator.advance(4_000)
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed, summary.requests_sent) == (0, 8, 0), summary.message
    runs.assert_right()


def test_another_lane_collects_the_batches_of_an_earlier_run(runs: BatchRuns) -> None:
    runs.emulator.configure(batch_seconds=3_600.0)
    runs.run({"delivery.wait": False})
    runs.emulator.configure(batch_seconds=0.0)
    runs.emulator.advance(4_000)
    summary = runs.run({"delivery.lane": "online"})
    assert (summary.exit_code, summary.rows_completed, summary.requests_sent) == (0, 8, 0), summary.message
    runs.assert_right()


def test_a_batch_of_a_redo_is_collected_by_the_next_run(runs: BatchRuns) -> None:
    runs.run()
    before = {row["row_id"]: row["provider_request_id"] for row in runs.table("results")}
    named = digests_of(sorted(before)[:3])
    runs.emulator.configure(batch_seconds=3_600.0)
    job = Job.load(runs.write(), overrides={"delivery.wait": False}, environ=ENVIRON)
    for sent in (3, 0):
        left = run(job, environ=ENVIRON, selection=Selection(redo=named))
        assert (left.exit_code, left.rows_completed, left.requests_sent) == (6, 8, sent), left.message
    runs.emulator.configure(batch_seconds=0.0)
    runs.emulator.advance(4_000)
    summary = runs.run()
    counts = (summary.exit_code, summary.rows_completed, summary.rows_redone, summary.requests_sent)
    assert counts == (0, 8, 3, 0), summary.message
    current = {
        row["row_id"]: row["provider_request_id"] for batch in read(job.output_path) for row in batch.to_pylist()
    }
    assert {row for row in before if before[row] != current[row]} == set(sorted(before)[:3])
    assert runs.verify().is_right


def test_cancelled_batches_keep_what_they_have_finished(runs: BatchRuns) -> None:
    runs.rows = 40
    runs.emulator.configure(batch_seconds=1_000.0)
    runs.run({"delivery.wait": False})
    runs.emulator.advance(500)
    job = Job.load(runs.write(), environ=ENVIRON)
    found = anyio.run(partial(cancel_async, job, environ=ENVIRON))
    assert found.left == 0
    assert found.answers + found.failed == 40
    assert 5 < found.answers < 35
    bill = runs.emulator.bill()
    assert bill.generated == found.answers
    assert sum(row["cost_ticks"] or 0 for row in runs.table("attempts")) == bill.ticks
    runs.emulator.configure(batch_seconds=0.0)
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed, summary.requests_sent) == (0, 40, found.failed), summary.message
    runs.assert_right()


def test_a_cap_leaves_rows_pending_and_is_never_exceeded(runs: BatchRuns) -> None:
    runs.rows = 60
    settings: dict[str, Any] = {"limits.max_cost_usd": 0.02}
    summary = runs.run(settings)
    assert (summary.exit_code, summary.stop_reason) == (4, "spend_cap_reached"), summary.message
    assert 0 < summary.rows_completed < 60
    assert runs.emulator.bill().ticks <= 2 * 10**8
    assert runs.verify().is_right


def test_a_quota_of_tokens_makes_smaller_batches(tmp_path: Path, emulator: RunningEmulator) -> None:
    runs = BatchRuns(tmp_path, emulator, Face.OPENAI, rows=40)
    emulator.configure(batch_max_enqueued_tokens=12_000)
    summary = runs.run()
    assert (summary.exit_code, summary.rows_completed) == (0, 40), summary.message
    runs.assert_right()


def test_the_batches_of_openrouter_are_refused_with_the_way_out(tmp_path: Path, emulator: RunningEmulator) -> None:
    runs = BatchRuns(tmp_path, emulator, Face.OPENROUTER)
    with pytest.raises(JobInvalid, match=r'delivery\.lane = "online"'):
        runs.run()
