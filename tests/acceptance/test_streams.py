"""Progress, logs and printed summaries never end a run: whatever becomes of its streams, exit code and summary hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Workbench, assert_every_row_once
from test_main_job import to_emulator

from batchvision.cli.streams import DroppingWriter
from batchvision.emulator import RunningEmulator, start_in_thread

FULL_DISK = Path("/dev/full")
MISSING = 1  #: rows whose image is not there, so that the true exit code is 3


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def emulator():
    with start_in_thread() as running:
        yield running


def dead_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def full_disk() -> int:
    if not FULL_DISK.exists():
        pytest.skip(f"{FULL_DISK} is not there")
    return os.open(FULL_DISK, os.O_WRONLY)


@pytest.mark.parametrize("broken", ["stdout", "stderr", "both"])
@pytest.mark.parametrize("stream", [dead_pipe, full_disk])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_stream_that_takes_nothing_costs_no_row_and_no_exit_code(
    bench: Workbench, emulator: RunningEmulator, broken: str, stream: Callable[[], int], log_format: str
) -> None:
    rows, flags = _one_row_fails(bench)
    lost = stream()
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    outputs |= dict.fromkeys(outputs, lost) if broken == "both" else {broken: lost}
    command = bench.command("run", *flags, *to_emulator(emulator), "--json", "--log-format", log_format)
    try:
        process = subprocess.Popen(command, cwd=bench.folder, env=bench.environment(), text=True, **outputs)
    finally:
        os.close(lost)
    out, err = process.communicate(timeout=60)
    _assert_the_run_is_whole(bench, rows, process.returncode, err)
    if broken == "stderr":
        assert json.loads(out)["exit_code"] == 3
    if broken == "stdout":
        assert "stdout cannot be written" in err
        assert "runs/" in err


@pytest.mark.parametrize("closed", [(1,), (2,), (1, 2), (0, 1, 2)])
def test_a_closed_descriptor_is_not_given_to_the_journal(
    bench: Workbench, emulator: RunningEmulator, closed: tuple[int, ...]
) -> None:
    rows, flags = _one_row_fails(bench)
    command = bench.command("run", *flags, *to_emulator(emulator), "--json")
    without = f"import os, sys\nfor descriptor in {closed}: os.close(descriptor)\nos.execv(sys.argv[1], sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", without, *map(str, command)],
        cwd=bench.folder,
        env=bench.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    _assert_the_run_is_whole(bench, rows, done.returncode, done.stderr)
    assert bench.call("verify", "out").returncode == 0


def test_what_follows_a_failed_write_is_dropped() -> None:
    writing = dead_pipe()
    writer = DroppingWriter(writing)
    assert not writer.is_dropping
    assert writer.write(b"12345") == 5
    assert writer.is_dropping
    os.close(writing)
    assert writer.write(b"a descriptor that is not open any more") > 0


def test_what_can_be_written_arrives() -> None:
    reading, writing = os.pipe()
    writer = DroppingWriter(writing)
    assert writer.write(b"one") == 3
    assert not writer.is_dropping
    os.close(writing)
    assert os.read(reading, 100) == b"one"
    os.close(reading)


def _one_row_fails(bench: Workbench) -> tuple[list[dict[str, str]], list[str | Path]]:
    rows = bench.rows(8)
    missing = [{**rows[0], "sku": "missing", "image": "missing.png"} for _ in range(MISSING)]
    return rows, [bench.job(bench.manifest([*rows, *missing]))]


def _assert_the_run_is_whole(bench: Workbench, rows: list[dict[str, str]], exit_code: int, err: str | None) -> None:
    assert exit_code == 3, err
    assert json.loads((bench.folder / "out/runs/latest.json").read_text())["exit_code"] == 3
    assert_every_row_once(bench.table("results"), rows)
