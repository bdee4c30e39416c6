"""The main job, end to end, as a user runs it: the command, real bytes over loopback, and the tables it leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from harness import Workbench, assert_answers_belong_to_their_rows, assert_every_row_once, ticks_of

from batchvision.emulator import EmulatorOptions, start_in_thread

ROWS = int(os.environ.get("BATCHVISION_TEST_ROWS", "400"))  # the long proof: 2000


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def emulator():
    with start_in_thread(EmulatorOptions(ledger_entries=100_000)) as running:
        yield running


def to_emulator(emulator, face: str = "xai") -> list[str]:
    path = {"xai": "/xai/v1", "openrouter": "/openrouter/api/v1", "openai": "/openai/v1"}[face]
    return ["--provider", face, "--base-url", emulator.url + path]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(("face", "lane"), [("xai", "online"), ("xai", "deferred"), ("openrouter", "online")])
def test_every_row_is_answered_once_and_a_rerun_asks_nothing(bench, emulator, suffix, face, lane):
    rows = bench.rows(ROWS)
    job = bench.job(bench.manifest(rows, f"photos.{suffix}"))
    flags = [*to_emulator(emulator, face), "--lane", lane]

    summary = bench.run(job, *flags)

    results, attempts, bill = bench.table("results"), bench.table("attempts"), emulator.bill()
    assert (summary["rows_total"], summary["rows_completed"], summary["rows_failed"]) == (ROWS, ROWS, 0)
    assert_every_row_once(results, rows)
    assert_answers_belong_to_their_rows(results)
    assert {row["title"] for row in results} == {row["title"] for row in rows}
    assert ticks_of(attempts) == bill.ticks == summary["cost_ticks"] > 0
    assert bill.requests == summary["requests_sent"] == ROWS

    before = bench.fingerprint()
    again = bench.run(job, *flags)
    assert again["requests_sent"] == 0
    assert emulator.bill().requests == ROWS
    assert bench.fingerprint() == before


def test_rows_that_fail_are_listed_and_asked_again_alone(bench, emulator):
    broken = dict.fromkeys(range(0, ROWS, ROWS // 50), "rejected:1")  # the first time only
    rows = bench.rows(ROWS, faults=broken)
    job = bench.job(bench.manifest(rows))
    summary = bench.run(job, *to_emulator(emulator), expect=3)

    failures = bench.table("failures")
    assert emulator.bill().requests == ROWS
    assert {row["row_id"] for row in failures} == {rows[number]["sku"] for number in broken}
    assert {row["error_kind"] for row in failures} == {"request_rejected"}
    assert all(row["error_message"] for row in failures)
    assert summary["rows_failed"] == len(broken)
    assert summary["rows_completed"] == ROWS - len(broken)

    mended = bench.run(job, *to_emulator(emulator), "--retry-failed")
    assert emulator.bill().requests - ROWS == mended["requests_sent"] == len(broken)
    assert bench.table("failures") == []
    assert_every_row_once(bench.table("results"), rows)


def wait_for(condition, process, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the run ended early:\n{process.communicate()}"
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


def test_after_a_kill_every_row_is_there_once_and_only_what_was_in_flight_is_bought_twice(bench, emulator):
    emulator.configure(latency_seconds=(0.05, 0.2))
    rows = bench.rows(ROWS)
    job = bench.job(bench.manifest(rows), limits="concurrency = 32")
    process = bench.start(job, *to_emulator(emulator))
    wait_for(lambda: emulator.bill().delivered >= ROWS // 3, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()
    sent_before = emulator.bill().requests

    summary = bench.run(job, *to_emulator(emulator))

    results, attempts, bill = bench.table("results"), bench.table("attempts"), emulator.bill()
    assert_every_row_once(results, rows)
    assert_answers_belong_to_their_rows(results)
    ambiguous = {row["row_id"] for row in attempts if row["state"] == "ambiguous"}
    assert 0 < len(ambiguous) <= 32
    assert summary["rows_ambiguous"] == len(ambiguous)
    assert sent_before < ROWS
    twice = {echo for echo, times in bill.by_echo().items() if times > 1}
    assert twice <= ambiguous
    assert bill.requests - ROWS <= len(ambiguous)


def test_after_a_kill_tickets_are_collected_and_not_submitted_again(bench, emulator):
    emulator.configure(deferred_seconds=2.0)
    rows = bench.rows(ROWS // 2)
    job = bench.job(bench.manifest(rows), limits="concurrency = 16")
    flags = [*to_emulator(emulator), "--lane", "deferred"]
    process = bench.start(job, *flags)
    wait_for(lambda: emulator.bill().requests >= len(rows) // 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.communicate()

    bench.run(job, *flags)

    attempts = bench.table("attempts")
    assert_every_row_once(bench.table("results"), rows)
    states = Counter(row["state"] for row in attempts)
    assert states["ambiguous"] + states["lost_after_read"] <= 16
    assert states["ok"] == len(rows)
    twice = {echo for echo, times in emulator.bill().by_echo().items() if times > 1}
    assert twice <= {row["row_id"] for row in attempts if row["state"] != "ok"}
    assert any(row["state"] == "ok" and row["ticket"] for row in attempts)


def test_a_run_that_may_open_few_files_answers_all_rows(bench, emulator):
    """Of 256 requests, as many as there are descriptors for are on the wire."""
    rows = bench.rows(300)
    job = bench.job(bench.manifest(rows), limits="concurrency = 256")
    emulator.configure(latency_seconds=0.2)
    command = bench.command("run", job, *to_emulator(emulator), "--json")
    limited = (
        "import os, resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))\n"
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *map(str, command)],
        cwd=bench.folder,
        env=bench.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    summary = json.loads(done.stdout)
    assert (done.returncode, summary["rows_completed"], summary["rows_failed"]) == (0, 300, 0), done.stderr
    assert "limits.concurrency is lowered from 256 to " in done.stderr
