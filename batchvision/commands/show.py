"""The rows of an output: its current answers or its failures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from batchvision.checkpoint import IN_MANIFEST
from batchvision.commands.read import read
from batchvision.commands.status import open_output


class OutputRows(NamedTuple):
    """The names of all columns, and the rows in the chosen columns. ``columns`` is empty if there is no row."""

    columns: tuple[str, ...]
    batches: Iterator[pa.RecordBatch]


def columns_of(output: Path, status: str) -> tuple[str, ...]:
    """All columns of the rows that are "completed" or "failed". Raises JobInvalid."""
    return tuple(name for name in read(output, _table(status)).schema.names if name != IN_MANIFEST)


def rows_of(output: Path, status: str, columns: Sequence[str] | None = None) -> OutputRows:
    """The rows that are "completed" or "failed", each once. Raises JobInvalid for an unknown column."""
    names, table = columns_of(output, status), _table(status)
    is_empty = open_output(output).count(table) == 0
    return OutputRows(() if is_empty else names, iter(read(output, table, columns=columns or names)))


def _table(status: str) -> str:
    return "failures" if status == "failed" else "results"
