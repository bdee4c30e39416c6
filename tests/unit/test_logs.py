"""Log lines name their run and row, on stderr and in a file that may be rotated."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import click
import pytest

from batchvision.cli.logs import AppendedLog, LogLines, json_text, plain_text
from batchvision.eventloop import RUN_ID


def failure_of(row_id: str, kind: str = "refused") -> logging.LogRecord:
    record = logging.LogRecord("batchvision", logging.INFO, "", 0, "row %s failed: %s", (row_id, kind), None)
    record.row_id, record.error_kind = row_id, kind
    return record


@pytest.fixture
def run_id():
    token = RUN_ID.set("20261120T220000Z-abc123")
    yield RUN_ID.get()
    RUN_ID.reset(token)


def test_a_json_line_names_the_run_the_row_and_the_kind_of_failure(run_id: str) -> None:
    document = json.loads(json_text(failure_of("r7")))
    assert document.pop("time")
    assert document == {
        "event": "log",
        "level": "info",
        "message": "row r7 failed: refused",
        "run_id": run_id,
        "row_id": "r7",
        "error_kind": "refused",
    }


def test_a_text_line_is_one_line_whatever_the_row_is_called() -> None:
    assert plain_text(failure_of("r\n7\x1b[2J")) == "info: row r\\n7\\x1b[2J failed: refused"


def test_a_terminal_shows_a_few_failed_rows_of_each_kind_and_every_other_line() -> None:
    shown: list[str] = []
    lines = LogLines(shown.append, as_json=False, failures_shown=2)
    for row in range(5):
        lines.emit(failure_of(f"r{row}"))
    lines.emit(failure_of("r9", "empty"))
    lines.emit(logging.LogRecord("batchvision", logging.WARNING, "", 0, "the key has expired", (), None))
    assert shown == [
        "info: row r0 failed: refused",
        "info: row r1 failed: refused",
        "info: more rows fail with refused: `batchvision show OUT --status failed` lists them",
        "info: row r9 failed: empty",
        "warning: the key has expired",
    ]


def test_a_log_holds_every_failed_row() -> None:
    shown: list[str] = []
    lines = LogLines(shown.append, as_json=True)
    for row in range(20):
        lines.emit(failure_of(f"r{row}"))
    assert [json.loads(line)["row_id"] for line in shown] == [f"r{row}" for row in range(20)]


def test_a_log_file_is_appended_to_and_opened_again_after_a_rotation(tmp_path: Path, run_id: str) -> None:
    path = tmp_path / "run.log"
    path.write_text("of yesterday\n")
    file = AppendedLog(path, as_json=False)
    file.write_line("one")
    path.rename(tmp_path / "run.log.1")
    file.write_line("zwei größer")
    file.close()
    assert (tmp_path / "run.log.1").read_text().splitlines()[0] == "of yesterday"
    assert (tmp_path / "run.log.1").read_text().endswith(f"{run_id} one\n")
    assert path.read_text(encoding="utf-8").endswith(f"{run_id} zwei größer\n")


def test_a_log_file_that_cannot_be_written_any_more_drops_its_lines(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    file = AppendedLog(folder / "run.log", as_json=False)
    (folder / "run.log").unlink()
    folder.rmdir()
    file.write_line("lost")
    file.close()
    assert capsys.readouterr().err == ""
    assert not folder.exists()


def test_a_log_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"--log-file .*nowhere.* cannot be opened: No such file"):
        AppendedLog(tmp_path / "nowhere" / "run.log", as_json=True)
