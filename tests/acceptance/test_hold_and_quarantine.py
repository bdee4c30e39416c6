"""Rows that wait for a word of the user: on hold after a crash, set aside after failing too often; and refusals."""

from __future__ import annotations

import json
import signal
from collections import Counter

import pytest
from harness import Workbench, assert_every_row_once
from test_main_job import to_emulator, wait_for

from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.runner.refusals import ROWS_IN_A_ROW


@pytest.fixture
def bench(tmp_path):
    return Workbench(tmp_path)


@pytest.fixture
def emulator():
    with start_in_thread(EmulatorOptions(ledger_entries=100_000)) as running:
        yield running


def kill_with_two_hanging(bench, emulator, job):
    """Ten rows, of which two never come back, and then kill -9. A quarantine after one failure would notice them."""
    process = bench.start(job, *to_emulator(emulator))
    wait_for(lambda: emulator.bill().delivered == 8 and emulator.bill().generated == 10, process)
    wait_for(lambda: status(bench)["in_flight"] == 2, process)
    process.kill()
    process.communicate()
    return {"row-00003", "row-00007"}


def status(bench):
    return json.loads(bench.call("status", "out", "--json").stdout)


def test_what_was_in_flight_at_a_crash_is_held_run_after_run_until_the_user_says_retry(bench, emulator):
    rows = bench.rows(10, faults={3: "hang:1", 7: "hang:1"})
    limits = 'concurrency = 4\nquarantine_after_runs = 1\nambiguous = "hold"'
    job = bench.job(bench.manifest(rows), limits=limits, provider="[provider.parameters]\nmax_tokens = 100")
    hanging = kill_with_two_hanging(bench, emulator, job)
    assert status(bench)["in_flight"] == 2

    for _ in range(2):
        held = bench.run(job, *to_emulator(emulator), expect=3)
        assert (held["rows_completed"], held["rows_pending"], held["rows_failed"]) == (8, 2, 0)
        assert held["requests_sent"] == 0
        seen = status(bench)
        assert (seen["rows_held"], seen["in_flight"]) == (2, 0)
        assert {row["row_id"] for row in seen["ambiguous"]} == hanging
        assert all(row["bound_ticks"] > 0 for row in seen["ambiguous"])
    assert emulator.bill().requests == 10

    done = bench.run(job, *to_emulator(emulator), "--set", "limits.ambiguous=retry")
    assert (done["rows_completed"], done["rows_quarantined"], done["requests_sent"]) == (10, 0, 2)
    assert_every_row_once(bench.table("results"), rows)
    assert {row: times for row, times in emulator.bill().by_echo().items() if times > 1} == dict.fromkeys(hanging, 2)


def test_a_row_that_fails_run_after_run_is_set_aside_and_comes_back_when_asked(bench, emulator):
    rows = bench.rows(10, faults={3: "rejected:2"})
    job = bench.job(bench.manifest(rows), limits="quarantine_after_runs = 2")
    bench.run(job, *to_emulator(emulator), expect=3)
    second = bench.run(job, *to_emulator(emulator))
    assert (second["rows_failed"], second["rows_quarantined"]) == (1, 1)
    (failure,) = bench.table("failures")
    assert (failure["error_kind"], failure["quarantined"], failure["runs_failed"]) == ("request_rejected", True, 2)

    before = bench.fingerprint()
    idle = bench.run(job, *to_emulator(emulator), "--retry-failed")
    assert (idle["requests_sent"], idle["rows_quarantined"]) == (0, 1)
    assert bench.fingerprint() == before

    mended = bench.run(job, *to_emulator(emulator), "--retry-quarantined")
    assert (mended["requests_sent"], mended["rows_completed"], mended["rows_failed"]) == (1, 10, 0)
    assert bench.table("failures") == []


def test_what_does_not_come_back_within_the_drain_timeout_is_cut_off_and_listed(bench, emulator):
    rows = bench.rows(10, faults={3: "hang:1", 7: "hang:1"})
    job = bench.job(bench.manifest(rows), limits="concurrency = 4")
    process = bench.start(job, *to_emulator(emulator), "--drain-timeout", "0.5")
    wait_for(lambda: emulator.bill().delivered == 8 and emulator.bill().generated == 10, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    summary = json.loads(out)
    assert (process.returncode, summary["rows_completed"], summary["rows_ambiguous"]) == (130, 8, 2), err
    cut_off = {row["row_id"] for row in bench.table("attempts") if row["state"] == "ambiguous"}
    assert cut_off == {"row-00003", "row-00007"}
    assert bench.run(job, *to_emulator(emulator))["requests_sent"] == 2


def test_after_each_refusal_of_the_provider_only_what_is_in_flight_is_sent_and_the_rerun_goes_on(bench, emulator):
    """One output, refused in the middle of each run; all kinds of refusal stand in ``tests/integration``.

    An empty account stops the run at once. A refused key after successes may be one row's: five rows decide.
    """
    rows = bench.rows(100)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    refusals = {"bad_key": "authentication_failed", "payment_required": "out_of_credit", "credit_429": "out_of_credit"}
    for fault, reason in refusals.items():
        emulator.configure(latency_seconds=0.05, fault_rates={})
        before = emulator.bill()
        process = bench.start(job, *to_emulator(emulator))
        wait_for(lambda before=before: emulator.bill().generated >= before.generated + 10, process)
        emulator.configure(fault_rates={fault: 1.0})
        out, err = process.communicate(timeout=60)
        summary = json.loads(out)
        assert (process.returncode, summary["stop_reason"]) == (5, reason), err
        assert (summary["rows_failed"], summary["rows_ambiguous"]) == (0, 0)
        undecided = ROWS_IN_A_ROW - 1 if reason == "authentication_failed" else 0
        assert 1 <= emulator.bill().by_fault[fault] <= undecided + 8, "at most what was in flight"
        assert summary["rows_completed"] == emulator.bill().generated
    emulator.configure(latency_seconds=0.0, fault_rates={})
    bench.run(job, *to_emulator(emulator))
    assert_every_row_once(bench.table("results"), rows)
    assert Counter(emulator.bill().by_echo().values()) == {1: 100}
