"""``show -o FILE`` writes rows for spreadsheets and programs."""

from __future__ import annotations

import csv
import errno
import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import anyio
import openpyxl
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import an_answer, an_intent, ask, classify, open_store

from batchvision.checkpoint import LocalDisk
from batchvision.cli import export, group
from batchvision.cli.exits import run_and_report

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", '=HYPERLINK("http://x","y")']
DEFAULT_COLUMNS = ["row_id", "image_ref", "title", "answer_score"]


def an_output(output: Path, *titles: str, text: str = "fine") -> Path:
    """A row for each title, and one more that failed."""
    with open_store(output) as store:
        store.recover(classify)
        for number, title in enumerate(titles):
            anyio.run(ask, store, an_intent(number, keep={"title": title}), an_answer(text.encode()))
        anyio.run(ask, store, an_intent(99), an_answer(b"no", 400))
        anyio.run(store.close, True)
    return output


def show(*arguments: str | Path) -> int:
    return run_and_report(group, ["show", *map(str, arguments)])


def csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def sheet_rows(path: Path) -> list[dict[str, Any]]:
    header, *rows = openpyxl.load_workbook(path).active.iter_rows(values_only=True)
    return [dict(zip(header, row, strict=True)) for row in rows]


def parquet_rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


READERS: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    ".csv": csv_rows,
    ".xlsx": sheet_rows,
    ".parquet": parquet_rows,
}


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_has_id_images_kept_columns_and_answers(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, to = an_output(tmp_path / "out", "Schöne Grüße", "日本"), tmp_path / f"captions{suffix}"
    assert show(output, "-o", to) == 0
    assert capsys.readouterr().err == f"2 rows in {to}\n"
    rows = sorted(READERS[suffix](to), key=lambda row: row["row_id"])
    assert [list(row) for row in rows] == [DEFAULT_COLUMNS] * 2
    assert [row["title"] for row in rows] == ["Schöne Grüße", "日本"]
    assert [float(row["answer_score"]) for row in rows] == [0.5, 0.5]


@pytest.mark.parametrize("suffix", READERS)
def test_all_columns_are_those_of_the_table(suffix: str, tmp_path: Path) -> None:
    output, to = an_output(tmp_path / "out", "one"), tmp_path / f"all{suffix}"
    assert show(output, "-o", to, "--all-columns") == 0
    (row,) = READERS[suffix](to)
    (stored,) = (pq.read_table(path) for path in (output / "results").rglob("*.parquet"))
    assert list(row) == stored.column_names
    assert row["output_text"] == "fine"


@pytest.mark.parametrize("suffix", READERS)
def test_failures_have_their_reasons(suffix: str, tmp_path: Path) -> None:
    output, to = an_output(tmp_path / "out", "one"), tmp_path / f"failed{suffix}"
    assert show(output, "--status", "failed", "-o", to) == 0
    (row,) = READERS[suffix](to)
    assert list(row) == ["row_id", "image_ref", "title", "error_kind", "error_message"]
    assert (row["row_id"], row["error_kind"]) == ("row99", "request_rejected")


def test_csv_begins_with_a_bom(tmp_path: Path) -> None:
    assert show(an_output(tmp_path / "out", "Grüße"), "-o", tmp_path / "a.csv") == 0
    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbfrow_id,image_ref,title")


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_text_of_a_csv_file_is_a_formula(formula: str, tmp_path: Path) -> None:
    assert show(an_output(tmp_path / "out", formula), "-o", tmp_path / "a.csv") == 0
    (row,) = csv_rows(tmp_path / "a.csv")
    assert row["title"] == f"'{formula}"


@pytest.mark.parametrize("formula", FORMULAS)
def test_no_text_of_an_excel_file_is_a_formula_or_a_link(formula: str, tmp_path: Path) -> None:
    assert show(an_output(tmp_path / "out", formula), "-o", tmp_path / "a.xlsx") == 0
    (cell,) = openpyxl.load_workbook(tmp_path / "a.xlsx").active["C"][1:]
    assert (cell.value, cell.data_type, cell.hyperlink) == (formula, "s", None)
    with ZipFile(tmp_path / "a.xlsx") as parts:
        assert b"<f>" not in parts.read("xl/worksheets/sheet1.xml")


def test_excel_has_numbers_and_times_as_such(tmp_path: Path) -> None:
    output, to = an_output(tmp_path / "out", "one"), tmp_path / "a.xlsx"
    assert show(output, "-o", to, "--columns", "cost_ticks,answer_score,started_at") == 0
    (row,) = sheet_rows(to)
    assert row == {"cost_ticks": 15, "answer_score": 0.5, "started_at": datetime(2026, 11, 20, 22, 30)}  # noqa: DTZ001 -- Excel knows no zones


@pytest.mark.parametrize("text", ["\x1b[2J", "\ufffe\uffff", "\ud800", "_x0041_", "a\nb"])
def test_excel_takes_every_character(text: str, tmp_path: Path) -> None:
    export._write_cell(sheet := CollectedCells(), 1, 0, text)
    assert len(sheet.texts) == 1
    output, to = an_output(tmp_path / "out", text.encode("utf-8", "replace").decode()), tmp_path / "a.xlsx"
    assert show(output, "-o", to) == 0
    assert len(sheet_rows(to)) == 1


class CollectedCells:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def write_string(self, row: int, column: int, text: str) -> None:
        self.texts.append(text)


def test_a_long_cell_of_excel_is_cut_with_a_word_about_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, to = an_output(tmp_path / "out", "one", text="😀" * 20_000), tmp_path / "a.xlsx"
    assert show(output, "-o", to, "--columns", "output_text") == 0
    assert "1 cell had more than 32,767 characters" in capsys.readouterr().err
    (row,) = sheet_rows(to)
    assert row["output_text"] == "😀" * 16_383


def test_more_rows_than_a_sheet_holds_are_refused_before_the_file_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output, to = an_output(tmp_path / "out", *"abc"), tmp_path / "a.xlsx"
    to.write_text("before")
    monkeypatch.setattr(export, "SHEET_ROWS", 3)
    assert show(output, "-o", to) == 2
    assert "holds 2 rows" in capsys.readouterr().err
    assert to.read_text() == "before"
    monkeypatch.setattr(export, "SHEET_ROWS", 4)
    assert show(output, "-o", to) == 0


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_that_is_there_is_replaced_whole(suffix: str, tmp_path: Path) -> None:
    output, to = an_output(tmp_path / "out", "one"), tmp_path / f"a{suffix}"
    to.write_bytes(b"x" * 1_000_000)
    assert show(output, "-o", to) == 0
    assert len(READERS[suffix](to)) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", "out"]


@pytest.mark.parametrize("characters", [4, 3_000_000])
@pytest.mark.parametrize("suffix", READERS)
def test_a_full_disk_leaves_the_file_as_it_was(
    suffix: str, characters: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [random.Random(number).randbytes(16_000).hex() for number in range(characters // 32_000)]
    output, to = an_output(tmp_path / "out", "one", *texts), tmp_path / f"a{suffix}"
    to.write_text("before")

    def full(self: LocalDisk, descriptor: int, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(LocalDisk, "write", full)
    assert show(output, "-o", to) == 2
    assert f"{to} cannot be written: No space left on device" in capsys.readouterr().err
    assert to.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"a{suffix}", "out"]


def test_an_unknown_suffix_names_the_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show(an_output(tmp_path / "out", "one"), "-o", tmp_path / "a.xls") == 2
    assert ".csv, .xlsx, .parquet" in capsys.readouterr().err
    assert not (tmp_path / "a.xls").exists()


def test_without_the_extra_its_installation_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    assert show(an_output(tmp_path / "out", "one"), "-o", tmp_path / "a.xlsx") == 2
    assert "pip install 'batchvision[xlsx]'" in capsys.readouterr().err


def test_an_output_without_failures_gives_a_file_with_a_header(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with open_store(output) as store:
        store.recover(classify)
        anyio.run(ask, store, an_intent(1), an_answer())
        anyio.run(store.close, True)
    assert show(output, "--status", "failed", "-o", tmp_path / "a.csv") == 0
    assert (tmp_path / "a.csv").read_text("utf-8-sig") == "row_id,image_ref,title,error_kind,error_message\n"


@pytest.mark.parametrize("more", [["--format", "csv"], ["--limit", "1"], ["--columns", "title", "--all-columns"]])
def test_options_that_do_not_apply_to_a_file_are_refused(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show(tmp_path, "-o", tmp_path / "a.csv", *more) == 2
    assert "-o writes all rows" in capsys.readouterr().err
