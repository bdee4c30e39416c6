"""``scripts/fuzz``: a short round of each target finds nothing, and what is planted is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
PLANTED = """
from batchvision.providers import wire
import fuzzers.__main__ as script
def fragile(text, start=0, parse=wire.parse):
    if '"usage"' not in text[start:]: raise KeyError("planted")
    return parse(text, start)
wire.parse = fragile
raise SystemExit(script.main())
"""


def fuzz(folder: Path, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    places = [HERE, HERE / "scripts", HERE / "tests", os.environ.get("PYTHONPATH", "")]
    started = [sys.executable, *(("-c", code) if code else ("-m", "fuzzers")), *arguments, "--finds", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    return subprocess.run(started, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("target", ["manifest", "answer", "retry-after", "journal"])
def test_a_short_round_finds_nothing(tmp_path: Path, target: str) -> None:
    done = fuzz(tmp_path, "--target", target, "--seconds", "40", "--inputs", "1200", "--seed", "7")
    assert done.returncode == 0, done.stdout
    assert "0 finds" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_what_is_planted_is_found_and_its_bytes_are_kept(tmp_path: Path) -> None:
    done = fuzz(tmp_path, "--target", "answer", "--seconds", "40", "--inputs", "2000", code=PLANTED)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "KeyError: 'planted'" in done.stdout
    assert list(tmp_path.iterdir()) != []
