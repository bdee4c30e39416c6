"""The files a job names: where they are and what they hold.

Rule: nothing here judges; a path that cannot be is one where nothing is.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

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


def labels_of(text: str) -> list[Label]:
    """The labels of a CSV file: value and description, with or without a header line of these names."""
    rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
    if rows and [cell.strip().lower() for cell in rows[0][:2]] in (["value"], ["value", "description"]):
        rows = rows[1:]
    return [Label(row[0].strip(), (row[1].strip() if len(row) > 1 else "") or None) for row in rows]
