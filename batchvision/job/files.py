"""Read the files that a job names. An impossible path counts as a path without a file."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path

from batchvision.records import Label


def under(folder: Path, text: str) -> Path:
    """``text`` as a path, relative to ``folder``; an unknown home (``~name``) stays as written."""
    try:
        return folder / Path(text).expanduser()
    except RuntimeError:
        return folder / text


def is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that is too long, a folder that may not be entered
        return False


def exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def decoded(content: bytes) -> str:
    """Text in UTF-8, or in the UTF-16 that spreadsheets call Unicode; line ends as Python reads them.

    Raises UnicodeDecodeError.
    """
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def labels_of(text: str) -> list[Label]:
    """The labels of a CSV file: value and description, the header line `value,description` is optional.

    The separator is a comma, the separator in a first line ``sep=;``, or the semicolon or tab that separates the
    header. Raises ValueError where each line looks separated by semicolons or tabs without a header.
    """
    lines = text.removeprefix("\ufeff").splitlines(keepends=True)
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    separator = separator_of(lines[first]) if lines else None
    if separator is not None:
        lines = lines[first + 1 :]
    text = "".join(lines)
    if separator is None:
        separator = next((mark for mark in ",;\t" if _has_header(_records(text, mark))), ",")
    rows = _records(text, separator)
    if _has_header(rows):
        rows = rows[1:]
    elif separator == ",":
        _reject_other_separator(rows, text)
    return [Label(row[0].strip(), (row[1].strip() if len(row) > 1 else "") or None) for row in rows]


def _records(text: str, separator: str) -> list[list[str]]:
    return [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(cell.strip() for cell in row)]


def _has_header(rows: list[list[str]]) -> bool:
    return bool(rows) and [cell.strip().lower() for cell in rows[0] if cell.strip()] in (
        ["value"],
        ["value", "description"],
    )


def _reject_other_separator(rows: list[list[str]], text: str) -> None:
    """A file without a header, in which no comma but the same other mark stands in every line."""
    if len(rows) < 2 or any(len(row) > 1 for row in rows):
        return
    for mark, name in ((";", "a semicolon"), ("\t", "a tab")):
        if all(len(row) == 2 and row[1].strip() for row in _records(text, mark)):
            raise ValueError(
                f"every line has {name} and none a comma. If it separates value and description, write "
                f"value{mark}description as the first line; if it is part of the labels, put them in double quotes"
            )


# ---------------------------------------------------------------------------------- CSV files of spreadsheets

#: Excel writes this line before the header; a sheet that was saved again may have separators after it.
_SEPARATOR_LINE = re.compile(r'\ufeff?"?sep=([^"\r\n])"?[,;\t]*\s*', re.IGNORECASE)


def separator_of(line: str) -> str | None:
    """The separator in a line ``sep=;``; ``None`` for any other line."""
    found = _SEPARATOR_LINE.fullmatch(line)
    return found[1] if found else None


def is_blank(record: Iterable[str]) -> bool:
    """Whether all cells of a record are empty, as in the blank rows of a spreadsheet."""
    return not any(record)
