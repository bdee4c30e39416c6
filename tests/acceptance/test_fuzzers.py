"""``scripts/fuzz``: a short round of each target finds nothing, and what is planted is found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]
#: A bug for each target that its seeds do not show: it takes a change, and for most a change in a certain place.
PLANTED = {
    "manifest": """
from batchvision.manifest.text_file import TextFile
told = TextFile.line_fault
def line_fault(self, number, fault):
    if number == 3: raise KeyError("planted")
    return told(self, number, fault)
TextFile.line_fault = line_fault
""",
    "answer": """
from batchvision.providers import wire
parse = wire.parse
def fragile(text, start=0):
    if '"usage"' not in text[start:]: raise KeyError("planted")
    return parse(text, start)
wire.parse = fragile
""",
    "wire": """
from batchvision.http import arrival
arrival.HttpParserError = KeyError
""",
    "retry-after": """
from batchvision.providers import signs
import fuzzers.waits
signs.MOST_SECONDS = 1e30
""",
    "journal": """
from batchvision.checkpoint import log_file
import json
def trusting(offset, line):
    try: document = json.loads(line[9:])
    except ValueError: return None
    return log_file.Frame(offset, int(document["g"]), int(document.get("last", 0)), document)
log_file._checked = trusting
""",
    "image": """
import fuzzers.pictures as pictures
check = pictures.check_pixels
def fragile(width, height, wanted):
    check(width, height, wanted)
    return 1 // ((width or 0) < 20_000)
pictures.check_pixels = fragile
""",
}


def fuzz(folder: Path, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    places = [HERE, HERE / "scripts", HERE / "tests", os.environ.get("PYTHONPATH", "")]
    started = [sys.executable, *(("-c", code) if code else ("-m", "fuzzers")), *arguments, "--finds", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    return subprocess.run(started, env=environment, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("target", list(PLANTED))
def test_a_short_round_finds_nothing(tmp_path: Path, target: str) -> None:
    done = fuzz(tmp_path, "--target", target, "--seconds", "40", "--inputs", "1200", "--seed", "7")
    assert done.returncode == 0, done.stdout
    assert "0 finds" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("target", list(PLANTED))
def test_what_is_planted_is_found_and_its_bytes_are_kept(tmp_path: Path, target: str) -> None:
    code = f"{PLANTED[target]}\nimport fuzzers.__main__ as script\nraise SystemExit(script.main())"
    done = fuzz(tmp_path, "--target", target, "--seconds", "40", "--inputs", "4000", "--first", code=code)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "find 1" in done.stdout
    assert list(tmp_path.iterdir()) != []
