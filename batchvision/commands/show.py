"""The rows of an output: its current answers or its failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from batchvision.commands.status import open_output
from batchvision.errors import JobInvalid


class OutputRows(NamedTuple):
    """The names of all columns, and the rows in the chosen columns. ``columns`` is empty if there is no row."""

    columns: tuple[str, ...]
    batches: Iterator[pa.RecordBatch]


def rows_of(output: Path, status: str, columns: Sequence[str] | None = None) -> OutputRows:
    """The rows that are "completed" or "failed", each once. Raises JobInvalid for an unknown column."""
    view = open_output(output)
    first = next(view.rows("failures" if status == "failed" else "results"), None)
    names = () if first is None else tuple(first.schema.names)  # all parts have all columns
    unknown = [name for name in columns or () if name not in names]
    if names and unknown:
        raise JobInvalid(f"there is no column {', '.join(unknown)}; there are: {', '.join(names)}")
    if status == "failed":
        return OutputRows(names, view.rows("failures", columns))
    latest = view.latest()
    return OutputRows(names, view.current_results(None if latest is None else latest.recipe_id, columns))
