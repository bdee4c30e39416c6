"""What spreadsheets write beside the cells of a CSV file: a line that names the separator, rows of empty cells."""

from __future__ import annotations

import re
from collections.abc import Iterable

#: What Excel writes, and reads, before the header. A sheet that was saved again may have separators behind it.
_SEPARATOR_LINE = re.compile(r'\ufeff?"?sep=([^"\r\n])"?[,;\t]*\s*', re.IGNORECASE)


def separator_of(line: str) -> str | None:
    """The separator that a line ``sep=;`` names; None for any other line."""
    found = _SEPARATOR_LINE.fullmatch(line)
    return found[1] if found else None


def is_blank(record: Iterable[str]) -> bool:
    """Whether all cells of a record are empty: a row that a spreadsheet keeps below, or between, the filled ones."""
    return not any(record)
