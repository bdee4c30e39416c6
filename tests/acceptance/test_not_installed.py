"""A run from code that is not installed (a checkout on PYTHONPATH, a zipapp) works to its end, with its summary."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import zipapp
from pathlib import Path

import pytest
from harness import Workbench, assert_every_row_once
from test_main_job import to_emulator

import batchvision
from batchvision.emulator import EmulatorOptions, start_in_thread

PACKAGE = Path(batchvision.__file__).parent


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """All that is installed here, but for batchvision itself."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if "batchvision" not in entry.name:
            (folder / entry.name).symlink_to(entry)
    return folder


def checkout(folder: Path) -> tuple[str, list[str]]:
    shutil.copytree(PACKAGE, folder / "checkout" / "batchvision", ignore=shutil.ignore_patterns("__pycache__"))
    return str(folder / "checkout"), ["-m", "batchvision"]


def archive(folder: Path) -> tuple[str, list[str]]:
    source = folder / "source"
    shutil.copytree(PACKAGE, source / "batchvision", ignore=shutil.ignore_patterns("__pycache__"))
    zipapp.create_archive(source, folder / "app.pyz", main="batchvision.cli:main")
    return "", [str(folder / "app.pyz")]


@pytest.mark.parametrize("form", [checkout, archive])
def test_code_that_is_not_installed_runs_a_job_to_its_end(tmp_path: Path, libraries: Path, form) -> None:
    bench = Workbench(tmp_path)
    rows = bench.rows(8)
    images = "max_side = 20"  # so that decoder processes are started, too
    job = bench.job(bench.manifest(rows), images=images)
    place, command = form(tmp_path)
    environment = {**bench.environment(), "PYTHONPATH": ":".join(filter(None, [place, str(libraries)]))}
    with start_in_thread(EmulatorOptions()) as emulator:
        arguments = ["run", str(job), *to_emulator(emulator), "--json"]
        done = subprocess.run(
            [sys.executable, "-S", *command, *arguments],  # -S: nothing that is installed
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert emulator.bill().requests == len(rows)
    summary = json.loads(done.stdout)
    assert summary["versions"]["batchvision"] == batchvision.__version__
    assert summary["versions"]["pyarrow"] != "unknown"
    assert (tmp_path / "out" / "runs" / "latest.json").exists()
    assert_every_row_once(bench.table("results"), rows)
