"""The words of compact: what became of the files, for people on stderr, and for programs on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from many_parts import CURRENT, OLD_AND_NEW, an_output, answered, index_of

from batchvision.checkpoint import Compacted, Store
from batchvision.cli import group
from batchvision.cli.compact import compacted_lines
from batchvision.cli.exits import run_and_report


def test_files_and_rows_before_and_after_go_to_stderr_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = an_output(tmp_path / "out")
    assert run_and_report(group, ["compact", str(output)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines()[:2] == [
        "results/: 4 files became 1, 10 rows",
        "attempts/: 4 files became 1, 10 rows",
    ]
    assert run_and_report(group, ["compact", str(output)]) == 0
    assert capsys.readouterr().err == f"{output}: nothing to merge: 2 files, and few enough\n"


def test_the_same_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = answered(tmp_path / "out", *OLD_AND_NEW)
    index_of(output, *CURRENT)
    assert run_and_report(group, ["compact", str(output), "--drop-superseded", "--json"]) == 0
    told = capsys.readouterr()
    document = json.loads(told.out)
    assert document["files_before"] == {"results": 3, "attempts": 3}
    assert document["files_after"] == {"results": 1, "attempts": 1}
    assert document["rows"] == {"results": 5, "attempts": 9}
    assert document["superseded_dropped"] == 4
    assert "4 answers left out: their rows have other ones now" in told.err


def test_an_output_that_is_held_is_exit_11_and_no_output_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = an_output(tmp_path / "out")
    with Store.lock(output):
        assert run_and_report(group, ["compact", str(output)]) == 11
    assert "is in use by process" in capsys.readouterr().err
    assert run_and_report(group, ["compact", str(tmp_path / "nowhere")]) == 2


def test_parts_that_the_next_run_seals_are_named(tmp_path: Path) -> None:
    files = {"results": 3}
    compacted = Compacted(files, {"results": 2}, 3 * 2**20, 2**20, {"results": 7}, waiting=1)
    assert list(compacted_lines(tmp_path, compacted)) == [
        "results/: 3 files became 2, 7 rows",
        "3.1 MB became 1.0 MB",
        "1 file not touched: a run was cut off, and the next one seals them anew",
    ]
