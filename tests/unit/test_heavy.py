"""``scripts/test --with NAME``: which tests run, and which names there are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from heavy import INSTALL

HERE = Path(__file__).parents[2]
FILES = ("tests/acceptance/test_servers.py", "tests/unit/test_foreign_servers.py")


def pytest_on(*arguments: str) -> str:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *FILES, *arguments]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_a_heavy_test_is_skipped_and_the_report_names_what_it_needs() -> None:
    said = pytest_on("-k", "test_a_killed_run or test_the_relay")
    assert "SKIPPED [12]" in said
    assert "heavy: scripts/test --with servers" in said
    assert "1 passed, 12 skipped" in said


def test_with_a_name_its_tests_run_alone() -> None:
    said = pytest_on("--with", "servers", "--collect-only", "-q")
    assert said.count("test_servers.py::") == 12
    assert "test_foreign_servers.py::" not in said


@pytest.mark.parametrize("command", [["-m", "pytest"], ["tests/heavy.py"]])
def test_an_unknown_name_is_an_error_that_lists_the_names(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, *command, "--with", "moon"], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode in (2, pytest.ExitCode.USAGE_ERROR)
    assert "invalid choice: 'moon'" in done.stderr
    assert all(name in done.stderr for name in INSTALL)


def test_the_script_explains_itself() -> None:
    done = subprocess.run([HERE / "scripts" / "test", "--help"], capture_output=True, text=True, check=True)
    assert "scripts/test [--with NAME]" in done.stdout
    assert "tests/heavy.py lists the names" in done.stdout
