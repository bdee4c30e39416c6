"""The files a job names: where they are and what they hold.

Rule: nothing here judges; a path that cannot be is one where nothing is.
"""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path

from batchvision.job.spreadsheets import separator_of
from batchvision.records import Label


def under(folder: Path, text: str) -> Path:
    """``text`` as a path, relative to ``folder``; a home that does not exist is left as it is written."""
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
    """The labels of a CSV file: value and description, with or without a header line of these names.

    Cells are separated by commas; by what a first line ``sep=;`` names; or by semicolons or tabs where they separate
    the header. Raises ValueError where every line looks as if they should.
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
