"""An output that a group shares: what another member may do, and the words where a right is missing."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Workbench, assert_every_row_once
from test_main_job import to_emulator

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

#: The first user: nobody on this machine, so messages name the number.
OWNER = 54321
#: Capabilities under which root may read and write everything.
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2
PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24


def drop_rights() -> None:
    """In the child: from its exec on, root has the rights of an ordinary user and member of its group."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    os.umask(0o002)


def cannot_be_two_users() -> str:
    if os.geteuid() != 0 or not hasattr(os, "chown"):
        return "only root can be two users"
    try:
        subprocess.run(["true"], preexec_fn=drop_rights, check=True)
    except (OSError, subprocess.SubprocessError):
        return "capabilities cannot be dropped here"
    return ""


pytestmark = pytest.mark.skipif(bool(cannot_be_two_users()), reason=cannot_be_two_users())


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


def give_away(output: Path, *, folders: int) -> None:
    """Everything belongs to the first user now; the group is the second one's."""
    for path in (output, *output.rglob("*")):
        if path.is_dir():
            path.chmod(folders)
        os.chown(path, OWNER, os.getegid())


def second_user(bench: Workbench, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        bench.command(*arguments),
        cwd=bench.folder,
        env=bench.environment(),
        preexec_fn=drop_rights,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def first_run(bench: Workbench, emulator: RunningEmulator, **output: str) -> tuple[Path, list[dict[str, str]]]:
    rows = bench.rows(6)
    job = bench.job(bench.manifest(rows), **output)
    bench.run(job, *to_emulator(emulator), "--limit", "3")
    return job, rows


@pytest.mark.parametrize("command", ["run", "status", "verify"])
def test_without_the_right_it_is_said_whose_the_output_is_and_what_is_missing(tmp_path, emulator, command) -> None:
    bench = Workbench(tmp_path)
    job, _ = first_run(bench, emulator)
    give_away(tmp_path / "out", folders=0o755)
    arguments = ["run", job, *to_emulator(emulator)] if command == "run" else [command, tmp_path / "out"]
    before = emulator.bill().requests
    done = second_user(bench, *arguments)
    assert done.returncode == 7, done.stderr
    assert f"belongs to user {OWNER}" in done.stderr
    right = "may not create, replace or remove files in it" if command == "run" else "may not read it"
    assert right in done.stderr
    for word in ("output.group_readable", "Nothing more was sent"):
        assert word in done.stderr
    for wrong in ("fault in batchvision", "Free space", "repair the disk"):
        assert wrong not in done.stderr
    assert emulator.bill().requests == before


def test_the_journal_is_for_its_owner_alone_unless_the_job_shares_it(tmp_path, emulator) -> None:
    bench = Workbench(tmp_path)
    first_run(bench, emulator)
    (journal,) = (tmp_path / "out/.batchvision/0of1").glob("journal-*.log")
    assert journal.stat().st_mode & 0o777 == 0o600

    shared = Workbench(tmp_path / "shared")
    shared.folder.mkdir()
    first_run(shared, emulator, output="group_readable = true")
    (journal,) = (shared.folder / "out/.batchvision/0of1").glob("journal-*.log")
    assert journal.stat().st_mode & 0o777 == 0o640


def test_members_of_the_group_read_a_shared_output_and_go_on_with_it_where_they_may_write(tmp_path, emulator) -> None:
    bench = Workbench(tmp_path)
    umask = os.umask(0o002)
    try:
        job, rows = first_run(bench, emulator, output="group_readable = true")
    finally:
        os.umask(umask)
    give_away(tmp_path / "out", folders=0o755)
    for command in ("status", "verify", "show"):
        assert second_user(bench, command, tmp_path / "out").returncode == 0

    give_away(tmp_path / "out", folders=0o2775)
    done = second_user(bench, "run", job, *to_emulator(emulator))
    assert done.returncode == 0, done.stderr
    assert_every_row_once(bench.table("results"), rows)
    assert emulator.bill().requests == len(rows)
