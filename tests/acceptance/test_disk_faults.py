"""Disks that fail and disks that fill up: exit 7 in words, nothing that was paid for is lost, the rerun completes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from harness import Workbench
from proofs import disk_faults, power
from proofs.bench import Bench
from proofs.reckoning import Tally, read_table
from proofs.victim import Plan

from batchvision.emulator import EmulatorOptions, start_in_thread


def held(tally: Tally) -> None:
    assert tally.faults == []
    assert tally.acknowledged > 0
    assert tally.lost == 0


@pytest.mark.parametrize("lane", ["online", "deferred"])
def test_enospc_and_eio_at_the_nth_operation_once_or_for_good(tmp_path: Path, lane: str) -> None:
    """``scripts/crash --deep`` tries every operation; here every 23rd, whole runs in virtual time."""
    held(disk_faults.each_in_turn(tmp_path / "nights", lane, seed=1, step=23))


def test_the_command_leaves_with_7_and_its_own_words_and_keeps_every_answer_that_came(tmp_path: Path) -> None:
    with Bench(tmp_path / "run", "online", 60) as bench:
        ended = bench.start(Plan(fail="sync:12:EIO")).wait()
        summary = json.loads(ended.stdout)
        assert (ended.code, summary["stop_reason"]) == (7, "disk_failed")
        assert "Input/output error" in ended.stderr
        assert "start the same run again" in ended.stderr
        sent = bench.emulator.bill().generated
        assert 0 < sent < 60
        again = bench.finish()
        assert (again["exit_code"], again["rows_completed"], again["requests_sent"]) == (0, 60, 60 - sent)
        assert {row["state"] for row in read_table(bench.output, "attempts")} == {"ok"}
        assert bench.emulator.bill().generated_again == 0


def test_a_disk_that_takes_nothing_any_more_is_left_at_once_and_what_was_in_flight_is_listed(tmp_path: Path) -> None:
    """Two answers would never have come: nobody waits for what could not be kept."""
    with Bench(tmp_path / "run", "online", 60, faults={2: "hang:1", 5: "hang:1"}) as bench:
        running = bench.start(Plan(fail="sync:14:EIO+"))
        ended = running.wait(bench.timeout_seconds / 2)
        assert ended.code == 7, ended.stderr
        again = bench.finish()
        assert (again["exit_code"], again["rows_completed"]) == (0, 60)
        ambiguous = {row["row_id"] for row in read_table(bench.output, "attempts") if row["state"] == "ambiguous"}
        twice = {row for row, times in bench.emulator.bill().by_echo().items() if times > 1}
        assert {"row-00002", "row-00005"} <= twice <= ambiguous
        assert len(ambiguous) <= bench.concurrency


@pytest.mark.skipif(bool(power.why_not_mount()), reason=f"nothing can be mounted: {power.why_not_mount()}")
def test_a_disk_that_fills_up_keeps_the_answers_in_flight_and_the_rerun_pays_for_nothing_twice(tmp_path: Path) -> None:
    held(disk_faults.full_tmpfs(tmp_path / "run", "online"))


def assert_refused(folder: Path, out: Path, words: str) -> None:
    """Exit 7 in words, and nothing was sent."""
    bench = Workbench(folder)
    with start_in_thread(EmulatorOptions()) as emulator:
        job = bench.job(bench.manifest(bench.rows(3)))
        done = bench.call("run", job, "--base-url", emulator.url + "/xai/v1", "--out", out)
        assert (done.returncode, emulator.bill().requests) == (7, 0), done.stderr
    assert words in done.stderr
    assert str(out) in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(bool(power.why_not_mount()), reason=f"nothing can be mounted: {power.why_not_mount()}")
def test_a_read_only_file_system_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "none", mount], check=True)
    try:
        assert_refused(tmp_path, mount / "out", "Read-only file system")
    finally:
        subprocess.run(["umount", mount], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write to a folder whatever its mode")
def test_a_folder_that_may_not_be_written_to_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(0o555)
    assert_refused(tmp_path, locked / "out", "Permission denied")
