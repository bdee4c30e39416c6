"""Write documents, tables and lines to stdout, safe for a terminal. No other module writes to stdout.

Each write is flushed, so that a closed stdout is noticed here.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import click

from batchvision.cli.table import TextColumn, table_lines
from batchvision.cli.terminal import safe_csv_cell, safe_json, safe_line, safe_text, terminal_columns, wrapped


def print_document(document: Mapping[str, Any]) -> None:
    """One JSON document: indented on a terminal, on one line elsewhere."""
    indent = 2 if sys.stdout.isatty() else None
    click.echo(safe_json(json.dumps(document, ensure_ascii=False, indent=indent, default=str)))


def print_table(columns: Sequence[TextColumn], rows: Sequence[Sequence[str]]) -> None:
    """A table fitted to the terminal."""
    for line in table_lines(columns, rows, terminal_columns()):
        click.echo(line)


def print_lines(lines: Iterable[str]) -> None:
    """Lines for people, on stdout."""
    for line in lines:
        click.echo(wrapped(safe_line(line), sys.stdout))


def say(text: str) -> None:
    """Write text to stderr."""
    for line in safe_text(text).split("\n"):
        click.echo(wrapped(line, sys.stderr), err=True)


def cell_text(value: Any) -> str:
    """A value as text for people."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(cell_text(each) for each in value)
        case Decimal():
            return f"{value:.6f}"
        case _:
            return str(plain(value))


def plain(value: Any) -> Any:
    """The value, with a time as text."""
    return value.isoformat() if isinstance(value, datetime) else value


def csv_line(cells: Iterable[Any]) -> str:
    """One CSV record. Text cells are made safe for spreadsheets; numbers keep their sign."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow([csv_cell(cell) for cell in cells])
    return line.getvalue()


def csv_cell(value: Any) -> Any:
    if isinstance(value, str):
        return safe_csv_cell(value)
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, list | dict):
        return safe_csv_cell(json.dumps(value, ensure_ascii=False, default=str))
    return value


def json_line(record: Mapping[str, Any]) -> str:
    """One JSON object in one line."""
    return safe_json(json.dumps(record, ensure_ascii=False, default=str)) + "\n"


def write(text: str) -> None:
    """Write text unchanged."""
    click.echo(text, nl=False)
