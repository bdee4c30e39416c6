"""The log of a run: JSON lines where stderr is no terminal, and a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Workbench
from test_main_job import to_emulator

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


def test_elsewhere_than_on_a_terminal_the_log_is_json_lines_with_run_id_and_row_id(
    bench: Workbench, emulator: RunningEmulator
) -> None:
    job = bench.job(bench.manifest(bench.rows(12, faults={3: "refusal", 7: "rejected"})))
    done = bench.call("run", job, "--log-format", "auto", *to_emulator(emulator))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["event"] for line in lines} == {"log", "progress", "finished"}
    run_id = lines[-1]["run_id"]
    assert {line["run_id"] for line in lines} == {run_id}
    failed = [(line["row_id"], line["error_kind"]) for line in lines if "row_id" in line]
    assert sorted(failed) == [("row-00003", "refused"), ("row-00007", "request_rejected")]


def test_a_quiet_run_still_writes_its_log_file_and_the_next_one_appends(
    bench: Workbench, emulator: RunningEmulator
) -> None:
    job = bench.job(bench.manifest(bench.rows(6, faults={3: "refusal"})), limits='failed_ok = "50%"')
    for _ in range(2):
        done = bench.call(
            "run", job, "--quiet", "--log-file", "run.log", "--log-format", "auto", *to_emulator(emulator)
        )
        assert (done.returncode, done.stderr) == (0, "")
    lines = [json.loads(line) for line in (bench.folder / "run.log").read_text().splitlines()]
    first, second = (line["run_id"] for line in lines if line["event"] == "finished")
    assert first != second
    assert [line["row_id"] for line in lines if line.get("row_id")] == ["row-00003"]
    assert {line["event"] for line in lines if line["run_id"] == second} >= {"progress", "finished"}
