"""Lines that are too long for a terminal are broken at words; files, pipes and commands get them as they are."""

from __future__ import annotations

import io

import pytest

from batchvision.cli.terminal import cell_width, wrapped

LONG = "the model or its safety check declined; --retry-failed=refused asks again and pays again"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize(
    ("before", "indent"),
    [
        ("  failed    12 refused: ", 12),
        ("ok prompt    ", 13),
        ("NO images    ", 13),
        ("  - ", 4),
        ("          ", 10),
        ("error: ", 0),
        ("warning: ", 9),
        ("info: ", 6),
        ("", 0),
    ],
)
def test_a_long_line_is_broken_at_words_and_indented_below_its_text(before: str, indent: int) -> None:
    lines = wrapped(before + LONG, Terminal()).split("\n")
    assert len(lines) == 2
    assert max(map(cell_width, lines)) <= 80
    assert lines[0].startswith(before)
    assert lines[1][:indent].isspace() or not indent
    assert lines[1][indent] != " "
    assert " ".join([lines[0], lines[1].strip()]) == before + LONG


def test_the_explanation_of_a_long_command_moves_to_the_next_line() -> None:
    line = "  next      batchvision run job.toml   (asks failed rows again, except those with a paid answer)"
    assert wrapped(line, Terminal()).split("\n") == [
        "  next      batchvision run job.toml",
        "              (asks failed rows again, except those with a paid answer)",
    ]
    command = "            batchvision run jobs/a_long_folder_name/of_many/job.toml --retry-failed=refused,truncated"
    assert wrapped(command, Terminal()) == command


def test_wide_characters_count_twice() -> None:
    lines = wrapped("  failed    " + "\u753b\u50cf " * 20, Terminal()).split("\n")
    assert len(lines) > 1
    assert max(map(cell_width, lines)) <= 80


@pytest.mark.parametrize("line", ["short", "  cost      $0.10", "x" * 80])
def test_a_line_that_fits_stays(line: str) -> None:
    assert wrapped(line, Terminal()) == line


def test_a_word_longer_than_the_terminal_is_not_broken() -> None:
    url = "https://images.example/" + "a" * 90
    assert wrapped(f"error: {url} cannot be read", Terminal()).split("\n") == ["error:", url, "cannot be read"]


@pytest.mark.parametrize("before", ["  next      ", "            ", ""])
def test_a_command_that_a_user_copies_stays_in_one_line(before: str) -> None:
    line = f"{before}batchvision run jobs/a.toml --manifest {'m' * 40}.csv --retry-failed=refused,truncated"
    assert wrapped(line, Terminal()) == line


def test_a_file_or_a_pipe_gets_the_line_as_it_is() -> None:
    assert wrapped(f"  failed    12 refused: {LONG}", io.StringIO()) == f"  failed    12 refused: {LONG}"
