"""How a run is stopped, as cron and a person do it: signals, a second run, a refused key."""

from __future__ import annotations

import json
import signal

import pytest
from harness import Workbench, assert_every_row_once
from test_main_job import to_emulator, wait_for

from batchvision.emulator import EmulatorOptions, start_in_thread


@pytest.fixture
def bench(tmp_path):
    return Workbench(tmp_path)


@pytest.fixture
def emulator():
    with start_in_thread(EmulatorOptions(ledger_entries=100_000)) as running:
        yield running


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("lane", ["online", "deferred"])
def test_a_signal_lets_what_is_in_flight_finish_and_the_rerun_pays_for_nothing_twice(
    bench, emulator, number, code, lane
):
    emulator.configure(latency_seconds=0.2, deferred_seconds=0.3)
    rows = bench.rows(200)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    flags = [*to_emulator(emulator), "--lane", lane]
    process = bench.start(job, *flags)
    wait_for(lambda: emulator.bill().generated >= 40, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    summary = json.loads(out)
    assert (process.returncode, summary["exit_code"], summary["stop_reason"]) == (code, code, "interrupted"), err
    assert summary["rows_ambiguous"] == 0
    assert 0 < summary["rows_completed"] < 200
    assert summary["rows_completed"] + summary["rows_pending"] == 200

    emulator.configure(latency_seconds=0.0, deferred_seconds=0.1)
    bench.run(job, *flags)
    assert_every_row_once(bench.table("results"), rows)
    assert emulator.bill().requests == 200


def test_a_closed_terminal_ends_no_run_that_was_started_to_ignore_it(bench, emulator):
    """As ``nohup batchvision run`` does."""
    rows = bench.rows(30)
    emulator.configure(latency_seconds=0.2)
    job = bench.job(bench.manifest(rows), limits="concurrency = 4")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a child process inherits what is ignored
    try:
        process = bench.start(job, *to_emulator(emulator))
    finally:
        signal.signal(signal.SIGHUP, before)
    wait_for(lambda: emulator.bill().generated >= 4, process)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)["rows_completed"]) == (0, 30), err


def test_a_second_signal_leaves_at_once_and_lists_what_was_cut_off(bench, emulator):
    rows = bench.rows(20, faults=dict.fromkeys(range(1, 20), "hang:1"))
    job = bench.job(bench.manifest(rows), limits="concurrency = 4")
    process = bench.start(job, *to_emulator(emulator))
    wait_for(lambda: emulator.bill().requests == 5, process)
    process.send_signal(signal.SIGTERM)
    line = process.stderr.readline()
    while "SIGTERM" not in line:
        assert line, "the run ended without a word"
        line = process.stderr.readline()
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    summary = json.loads(out)
    assert (process.returncode, summary["rows_completed"], summary["rows_pending"]) == (143, 1, 19), err
    ambiguous = [row["row_id"] for row in bench.table("attempts") if row["state"] == "ambiguous"]
    assert len(ambiguous) == summary["rows_ambiguous"] == 4
    assert summary["requests_sent"] == emulator.bill().requests == 5


def test_a_second_run_on_the_same_output_exits_11_and_sends_nothing(bench, emulator):
    emulator.configure(latency_seconds=1.0)
    rows = bench.rows(30)
    job = bench.job(bench.manifest(rows), limits="concurrency = 2")
    first = bench.start(job, *to_emulator(emulator))
    wait_for(lambda: emulator.bill().requests >= 1, first)
    with start_in_thread(EmulatorOptions()) as other:
        second = bench.call("run", job, *to_emulator(other))
        assert second.returncode == 11
        assert other.bill().requests == 0
    assert str(first.pid) in second.stderr
    emulator.configure(latency_seconds=0.0)
    first.communicate(timeout=60)
    assert first.returncode == 0


def test_a_refused_key_costs_one_call_and_says_what_to_do(bench, emulator):
    bench.key = "bad-key-of-a-customer"
    job = bench.job(bench.manifest(bench.rows(100)))
    done = bench.call("run", job, *to_emulator(emulator), "--json")
    assert done.returncode == 5
    assert emulator.bill().requests == 1
    assert "XAI_API_KEY" in done.stderr
    assert json.loads(done.stdout)["rows_pending"] == 100
    for path in (bench.folder / "out").rglob("*"):
        assert not path.is_file() or b"bad-key-of-a-customer" not in path.read_bytes(), path
    assert "bad-key-of-a-customer" not in done.stderr + done.stdout


def test_a_run_is_given_back_to_cron_with_its_exit_code(bench, emulator):
    job = bench.job(bench.manifest(bench.rows(20, faults={3: "safety"})))
    done = bench.call("run", job, *to_emulator(emulator), "--quiet")
    assert (done.returncode, done.stdout) == (3, "")
    assert "19 of 20 rows have answers, 1 failed" in done.stderr.splitlines()[0]  # cron mails what is wrong
    assert "rows/s" not in done.stderr
    bench.job(bench.manifest(bench.rows(5), name="sound.csv"), name="sound.toml")
    sound = bench.call("run", bench.folder / "sound.toml", *to_emulator(emulator), "--quiet", "--out", "sound")
    assert (sound.returncode, sound.stdout, sound.stderr) == (0, "", "")
