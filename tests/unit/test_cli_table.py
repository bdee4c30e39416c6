"""Cells reach the terminal fitted and harmless."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.cli import terminal
from batchvision.cli.table import MAX_LINES, MIN_COLUMN, TextColumn, table_lines
from batchvision.cli.terminal import cell_width, cut_to_width, safe_csv_cell, safe_json, safe_text
from batchvision.secrets import Secret, Secrets

TEXT = st.text(st.characters(codec=None), max_size=60)
BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")


def test_short_columns_keep_their_width_and_the_long_one_wraps() -> None:
    lines = table_lines(
        [TextColumn("id"), TextColumn("answer"), TextColumn("cost", right=True)],
        [["a1", "a red shoe on a white floor seen from above", "1"], ["b2", "a bag", "22"]],
        width=30,
    )
    assert lines == [
        "id  answer                cost",
        "──  ────────────────────  ────",
        "a1  a red shoe on a          1",
        "    white floor seen",
        "    from above",
        "",
        "b2  a bag                   22",
    ]


def test_a_table_that_fits_stays_on_one_line_a_row() -> None:
    lines = table_lines([TextColumn("id"), TextColumn("answer")], [["1", "shoe"], ["2", "bag"]], width=80)
    assert lines == ["id  answer", "──  ──────", "1   shoe", "2   bag"]


def test_a_table_without_rows_is_a_header() -> None:
    assert table_lines([TextColumn("id")], [], width=80) == ["id", "──"]
    assert table_lines([], [], width=80) == []


def test_a_very_long_cell_ends_in_an_ellipsis() -> None:
    lines = table_lines([TextColumn("answer")], [["word " * 500]], width=40)
    assert len(lines) == 2 + MAX_LINES
    assert lines[-1].endswith("…")


def test_wide_characters_take_two_columns() -> None:
    assert cell_width("靴") == 2
    assert cell_width("e\u0301") == 1
    assert cut_to_width("靴靴", 3) == "靴"
    lines = table_lines([TextColumn("a"), TextColumn("b")], [["靴", "x"], ["ab", "y"]], width=80)
    assert lines[2:] == ["靴  x", "ab  y"]


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5), st.integers(min_value=40, max_value=120))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str, str]], width: int) -> None:
    assert 3 * MIN_COLUMN + 4 <= 40
    columns = [TextColumn("one"), TextColumn("two"), TextColumn("three", right=True)]
    for line in table_lines(columns, rows, width):
        assert cell_width(line) <= width


@given(TEXT)
def test_no_control_or_bidi_character_survives(text: str) -> None:
    shown = safe_text(text)
    for character in shown:
        assert character in "\t\n" or unicodedata.category(character) != "Cc"
    assert not BIDI & set(shown)


def test_an_escape_sequence_is_shown_and_does_nothing() -> None:
    assert safe_text("\x1b[2Jgone\u202egnp.exe") == "\\x1b[2Jgone\\u202egnp.exe"


@given(TEXT)
def test_json_keeps_its_value_while_nothing_unsafe_is_in_it(text: str) -> None:
    line = safe_json(json.dumps({"x": text}, ensure_ascii=False))
    assert json.loads(line) == {"x": text}
    assert safe_text(line) == line


def test_a_formula_is_text_in_csv() -> None:
    assert safe_csv_cell("=1+1") == "'=1+1"
    assert safe_csv_cell("@SUM(A1)") == "'@SUM(A1)"
    assert safe_csv_cell("plain - text") == "plain - text"


def test_a_secret_that_a_run_adds_is_masked_in_each_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "HIDDEN", Secrets())
    terminal.HIDDEN.add(Secret("key-of-this-run"))
    assert safe_text("a key-of-this-run b") == "a *** b"
    assert safe_json('{"a": "key-of-this-run"}') == '{"a": "***"}'
