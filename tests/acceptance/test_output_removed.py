"""The output folder is removed while a run goes on: it stops, and a run that takes its place is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import Workbench, assert_every_row_once
from test_main_job import to_emulator, wait_for

from batchvision.emulator import EmulatorOptions, start_in_thread

CONCURRENCY = 4


@pytest.mark.parametrize("lane", ["online", "deferred"])
def test_a_run_whose_output_is_moved_away_stops_with_7_and_a_second_takes_its_place(tmp_path: Path, lane) -> None:
    bench = Workbench(tmp_path)
    rows = bench.rows(200)
    job = bench.job(bench.manifest(rows), limits=f"concurrency = {CONCURRENCY}")
    with start_in_thread(EmulatorOptions(latency_seconds=0.1, deferred_seconds=0.2)) as emulator:
        flags = [*to_emulator(emulator), "--lane", lane]
        process = bench.start(job, *flags)
        wait_for(lambda: emulator.bill().requests >= 30, process)
        (tmp_path / "out").rename(tmp_path / "gone")
        at_removal = emulator.bill().requests
        out, err = process.communicate(timeout=110)
        assert process.returncode == 7, err
        assert "was removed or replaced while the run went on" in err
        summary = json.loads(out)
        assert (summary["exit_code"], summary["stop_reason"]) == (7, "disk_failed")
        # those whose intents were durable before, and no more
        assert emulator.bill().requests <= at_removal + 2 * CONCURRENCY < len(rows) // 2
        assert not (tmp_path / "out").exists(), "the run wrote into a place that was no longer its own"

        emulator.configure(latency_seconds=0.0, deferred_seconds=0.05)
        bench.run(job, *flags)
        assert_every_row_once(bench.table("results"), rows)
        assert bench.call("verify", "out").returncode == 0
        bench.run(job, *flags, "--out", "gone")  # what was moved away is whole, too
        assert_every_row_once(bench.table("results", "gone"), rows)
