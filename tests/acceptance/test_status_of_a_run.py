"""``status`` agrees with the provider's count of delivered answers, while a run is at work and after kill -9."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from harness import Workbench
from test_main_job import to_emulator

from batchvision.commands.status import OutputStatus, look
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

IN_FLIGHT = 16
#: Answers that are not durable yet, and answers whose ``closed`` record is in the group under way.
NOT_SHOWN = 2 * IN_FLIGHT
REFUSED_EVERY = 50
ROWS = [pytest.param(5_000), pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])]


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions(ledger_entries=1)) as running:
        yield running


def rows_of(status: OutputStatus) -> int:
    return status.rows_answered + sum(status.failures_by_kind.values())


def start(bench: Workbench, emulator: RunningEmulator, rows: int) -> subprocess.Popen[str]:
    refused = dict.fromkeys(range(0, rows, REFUSED_EVERY), "refusal")
    manifest = bench.manifest(bench.rows(rows, faults=refused))
    job = bench.job(manifest, limits=f'concurrency = {IN_FLIGHT}\nmax_failed = "100%"')
    return bench.start(job, *to_emulator(emulator))


def wait_for_answers(count: float, emulator: RunningEmulator, run: subprocess.Popen[str]) -> None:
    while run.poll() is None and emulator.bill().delivered < count:
        time.sleep(0.01)
    assert run.poll() is None, "the run ended early"


@pytest.mark.parametrize("rows", ROWS)
def test_during_a_run_status_lacks_only_answers_in_flight(
    bench: Workbench, emulator: RunningEmulator, rows: int
) -> None:
    run = start(bench, emulator, rows)
    try:
        for share in (0.23, 0.41, 0.59):  # none of them is a multiple of the rows of a seal
            wait_for_answers(share * rows, emulator, run)
            earlier, status, later = emulator.bill(), look(bench.folder / "out"), emulator.bill()
            assert earlier.delivered - NOT_SHOWN <= rows_of(status) <= later.delivered
            assert status.spent_ticks <= later.ticks_delivered
        refused = bench.call("run", bench.folder / "job.toml", *to_emulator(emulator))
        assert refused.returncode == 11
        said = re.search(r"So far ([\d,]+) rows of it have answers, ([\d,]+) failed, at \$[\d.]+\.", refused.stderr)
        assert said is not None, refused.stderr
        shown = sum(int(number.replace(",", "")) for number in said.groups())
        assert later.delivered - NOT_SHOWN <= shown <= emulator.bill().delivered
    finally:
        run.kill()
        run.communicate()


@pytest.mark.parametrize("rows", ROWS)
def test_after_kill_9_status_lacks_only_answers_in_flight(
    bench: Workbench, emulator: RunningEmulator, rows: int
) -> None:
    run = start(bench, emulator, rows)
    try:
        wait_for_answers(0.47 * rows, emulator, run)
    finally:
        run.kill()
        run.communicate()
    status, bill = look(bench.folder / "out"), emulator.bill()
    assert bill.delivered - NOT_SHOWN <= rows_of(status) <= bill.delivered
    mean_ticks = bill.ticks_delivered / bill.delivered
    assert 0 <= bill.ticks_delivered - status.spent_ticks <= IN_FLIGHT * 2 * mean_ticks
    assert status.failures_by_kind["refused"] >= (bill.delivered - 2 * IN_FLIGHT) // REFUSED_EVERY
    planned = json.loads(bench.call("plan", bench.folder / "job.toml", "--json", *to_emulator(emulator)).stdout)
    assert planned["rows"]["done"] == status.rows_answered
    assert planned["rows"]["to_do"] == rows - rows_of(status)


# ---------------------------------------------------------------------------------- status --watch


def begin_watch(bench: Workbench, stdout: int) -> subprocess.Popen[bytes]:
    command = bench.command("status", "out", "--watch")
    environ = {**bench.environment(), "COLUMNS": "80", "LINES": "30"}
    return subprocess.Popen(command, cwd=bench.folder, env=environ, stdout=stdout, stderr=stdout)


def read_until(descriptor: int, words: bytes) -> bytes:
    """Read a terminal until the words came, or the process has ended."""
    seen = b""
    with suppress(OSError):  # the other side is closed
        while words not in seen and (piece := os.read(descriptor, 4096)):
            seen += piece
    return seen


def test_a_panel_on_a_terminal_ends_with_the_run(bench: Workbench, emulator: RunningEmulator) -> None:
    run = start(bench, emulator, 3_000)
    try:
        wait_for_answers(100, emulator, run)
        ours, theirs = pty.openpty()
        panel = begin_watch(bench, theirs)
        os.close(theirs)
        shown = read_until(ours, b" ended with exit 3")
        read_until(ours, b"never shown")
        assert panel.wait(timeout=60) == 0
        os.close(ours)
    finally:
        run.communicate(timeout=100)
    assert run.returncode == 3
    assert b"\x1b[" in shown and b"  at work   " in shown and b" requests/s (no limit known)" in shown
    assert b" refused, as row row-0" in shown


def test_ctrl_c_ends_the_watch_and_leaves_the_run_alone(bench: Workbench, emulator: RunningEmulator) -> None:
    run = start(bench, emulator, 3_000)
    try:
        wait_for_answers(100, emulator, run)
        ours, theirs = pty.openpty()
        panel = begin_watch(bench, theirs)
        os.close(theirs)
        read_until(ours, b"  rows      ")
        panel.send_signal(signal.SIGINT)
        rest = read_until(ours, b"never shown")
        assert panel.wait(timeout=60) == 0
        assert b"Traceback" not in rest
        os.close(ours)
        assert run.poll() is None
    finally:
        run.communicate(timeout=100)
    assert run.returncode == 3


def test_elsewhere_than_on_a_terminal_a_watch_prints_lines_without_control_characters(
    bench: Workbench, emulator: RunningEmulator
) -> None:
    run = start(bench, emulator, 3_000)
    try:
        wait_for_answers(100, emulator, run)
        shown = bench.call("status", "out", "--watch")
    finally:
        run.communicate(timeout=100)
    assert (shown.returncode, shown.stderr) == (0, "")
    first, *_, last = shown.stdout.splitlines()
    assert "of 3,000 rows done" in first and "answers 429" in first
    assert " ended with exit 3: 2,940 of 3,000 rows completed, 60 failed" in last
    assert "\x1b" not in shown.stdout


def test_without_a_run_at_work_a_watch_shows_the_status_once(bench: Workbench, emulator: RunningEmulator) -> None:
    bench.run(bench.job(bench.manifest(bench.rows(3))), *to_emulator(emulator))
    assert bench.call("status", "out", "--watch").stdout == bench.call("status", "out").stdout
