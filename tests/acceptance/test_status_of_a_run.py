"""``status`` agrees with the provider's count of delivered answers, while a run is at work and after kill -9."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
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
