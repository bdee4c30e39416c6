"""An output is checked as a user does it: after good runs and bad ones, beside a running one, and when damaged."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Workbench, ticks_of

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, emulator: RunningEmulator) -> Workbench:
    bench = Workbench(tmp_path_factory.mktemp("finished"))
    bench.run(bench.job(bench.manifest(bench.rows(40, faults={3: "rejected"}))), *to(emulator), expect=3)
    return bench


def to(emulator: RunningEmulator) -> list[str]:
    return ["--provider", "xai", "--base-url", f"{emulator.url}/xai/v1"]


def test_a_good_output_is_said_to_be_right_line_by_line(finished: Workbench) -> None:
    before = finished.fingerprint()
    for place in ("out", "job.toml"):
        done = finished.call("verify", place)
        assert done.returncode == 0
        assert done.stdout.endswith("out: all is right\n")
        assert all(line.startswith("ok ") for line in done.stdout.splitlines()[:-1])
    assert "40 rows = 39 completed, 1 failed, 0 pending" in done.stdout
    assert json.loads(finished.call("verify", "out", "--json").stdout)["ok"] is True
    assert finished.fingerprint() == before


def test_a_flipped_byte_is_told_with_the_file_and_the_next_step(finished: Workbench) -> None:
    path = next((finished.folder / "out/results").rglob("part-*.parquet"))
    content = path.read_bytes()
    path.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    try:
        done = finished.call("verify", "out")
        assert done.returncode == 7
        assert f"NO  parts     {'out'}" in done.stdout and path.name in done.stdout
        assert "next: restore it from a backup" in done.stdout
        assert done.stdout.endswith("out: 1 thing is not right\n")
        document = json.loads(finished.call("verify", "out", "--json").stdout)
        assert (document["ok"], document["exit_code"]) == (False, 7)
    finally:
        path.write_bytes(content)


def test_a_place_without_an_output_is_a_mistake_of_usage(bench: Workbench) -> None:
    done = bench.call("verify", "nothing")
    assert done.returncode == 2
    assert "there is no output at nothing" in done.stderr


@pytest.mark.parametrize("lane", ["online", "deferred"])
def test_three_runs_with_faults_and_a_kill_add_up_to_the_tick(bench: Workbench, lane: str) -> None:
    kinds = ("server_error", "rate_limited", "refusal", "empty", "half_body", "reset_after")
    faults = {number: f"{kinds[number % len(kinds)]}:1" for number in range(0, 300, 10)}
    rows = bench.rows(300, faults=faults)
    job = bench.job(bench.manifest(rows), limits="concurrency = 16", provider="parameters.max_tokens = 400")
    with start_in_thread(EmulatorOptions(latency_seconds=0.05)) as emulator:
        flags = [*to(emulator), "--lane", lane]
        killed(bench.start(job, *flags), emulator, 100)
        half_way = bench.call("verify", "out")
        assert half_way.returncode == 0, half_way.stdout
        bench.call("run", job, *flags, "--limit", "60")
        bench.call("run", job, *flags)
        document = json.loads(bench.call("verify", "out", "--json").stdout)
        bill = emulator.bill()
    assert document["ok"], document["findings"]
    attempts = bench.table("attempts")
    assert document["cost_ticks"] == ticks_of(attempts)
    assert 0 <= bill.ticks - document["cost_ticks"] <= document["ambiguous_ticks"]
    assert sum(document["manifest"][name] for name in ("completed", "failed", "pending")) == 300


def killed(process: subprocess.Popen[str], emulator: RunningEmulator, after_requests: int) -> None:
    deadline = time.monotonic() + 60
    while emulator.bill().requests < after_requests and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_beside_a_running_run_it_takes_no_lock_and_finds_nothing_wrong(bench: Workbench) -> None:
    job = bench.job(bench.manifest(bench.rows(200)), limits="concurrency = 2")
    with start_in_thread(EmulatorOptions(latency_seconds=0.2)) as emulator:
        process = bench.start(job, *to(emulator))
        while emulator.bill().requests < 20 and process.poll() is None:
            time.sleep(0.02)
        done = bench.call("verify", "out")
        assert process.poll() is None, "the run ended too early to be looked at"
        emulator.configure(latency_seconds=0.0)
        out, _ = process.communicate(timeout=60)
    assert done.returncode == 0, done.stdout
    assert f"process {process.pid}" in done.stdout
    assert json.loads(out)["rows_completed"] == 200
