"""``batchvision show OUT``: rows as a table, CSV or JSON lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.command import Command
from batchvision.cli.output import (
    cell_text,
    csv_line,
    json_line,
    plain,
    print_document,
    print_lines,
    print_table,
    say,
    write,
)
from batchvision.cli.place import output_of, place_argument
from batchvision.cli.table import TextColumn
from batchvision.cli.terminal import safe_line

if TYPE_CHECKING:
    import pyarrow as pa

    from batchvision.commands.show import OutputRows

#: Default number of rows of a table.
TABLE_ROWS = 50
#: Characters kept of a cell of a table, which shows at most six lines of it.
CELL_CHARACTERS = 4_096


@click.command(cls=Command, name="show")
@place_argument
@click.option("--status", type=click.Choice(["completed", "failed"]), default="completed", show_default=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "jsonl"]), default="table", show_default=True)
@click.option("--limit", type=click.IntRange(min=0), default=None, help="0: all.  [default: 50 for a table, else all]")
@click.option("--id", "row_id", metavar="ROW", default=None, help="Everything about one row.")
@click.option("--json", "as_json", is_flag=True, help="As --format jsonl.")
@click.option(
    "-o",
    "to",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write the rows to FILE.csv, FILE.xlsx or FILE.parquet: id, images, kept columns, answers.",
)
@click.option("--all-columns", is_flag=True, help="With -o: the other columns too.")
@click.option(
    "--columns", default=None, metavar="A,B,...", help="Which columns.  [default: the telling ones, else all]"
)
def command(place: str, status: str, columns: str | None, **flags: Any) -> None:
    """Print the answers, or the failures, of an output, or everything about one row. OUT is a folder or a job file."""
    form, limit = "jsonl" if flags["as_json"] else flags["form"], flags["limit"]
    row_id, to, all_columns = flags["row_id"], flags["to"], flags["all_columns"]
    if row_id is not None:
        if form == "csv" or columns or limit is not None or to or all_columns:
            raise click.UsageError("--id prints one row as text or JSON: give no other option but --json.")
        _show_row(output_of(place), row_id, as_json=form == "jsonl")
        return
    wanted = [name.strip() for name in columns.split(",") if name.strip()] if columns else None
    if to is not None:
        if form != "table" or limit is not None or (wanted and all_columns):
            raise click.UsageError("-o writes all rows: give only --status, and --columns or --all-columns beside it.")
        _export(output_of(place), to, status, wanted, all_columns=all_columns)
        return
    if all_columns:
        raise click.UsageError("--all-columns needs -o FILE.")
    limit = (TABLE_ROWS if form == "table" else 0) if limit is None else limit
    if form == "table":
        show_table(output_of(place), status, limit, wanted)
    else:
        _stream(output_of(place), status, form, limit, wanted)


def _show_row(output: Path, row_id: str, *, as_json: bool) -> None:
    from batchvision.cli.one_row import row_lines
    from batchvision.commands.row import row_details

    details, now = row_details(output, row_id), datetime.now(UTC)
    if as_json:
        print_document(details.document(now))
    else:
        print_lines(row_lines(details, now))


def _export(output: Path, to: Path, status: str, columns: list[str] | None, *, all_columns: bool) -> None:
    from batchvision.cli.export import export
    from batchvision.commands.show import columns_of

    names = columns_of(output, status)
    chosen = columns or (names if all_columns else default_columns(names, status, for_file=True))
    for line in export(output, to, status, chosen):
        say(safe_line(line))


def show_table(output: Path, status: str = "completed", limit: int = 0, columns: list[str] | None = None) -> None:
    """Print a table fitted to the terminal. ``limit`` 0 prints all rows."""
    from batchvision.commands.show import rows_of

    found = rows_of(output, status, columns)
    names = columns or list(default_columns(found.columns, status))
    if not names:
        click.echo(f"no row of {output} is {status}", err=True)
        return
    lines: list[tuple[str, list[str]]] = []
    numeric: set[str] = set()
    for row in _rows(rows_of(output, status, names), limit + 1 if limit else 0):
        numeric.update(name for name in names if isinstance(row[name], int | float | Decimal))
        cells = [cell_text(row[name]) for name in names]
        lines.append((str(row.get("row_id", "")), [" ".join(cell.split())[:CELL_CHARACTERS] for cell in cells]))
    shown = sorted(lines[: limit or None], key=lambda line: line[0])
    titles = [TextColumn(_title(name), right=name in numeric) for name in names]
    print_table(titles, [cells for _, cells in shown])
    if len(lines) > len(shown):
        click.echo("... and more: --limit 0 shows all rows, --format csv writes them", err=True)


def default_columns(names: Sequence[str], status: str, *, for_file: bool = False) -> tuple[str, ...]:
    """Id, kept columns, and the typed answers, the answer text or the error.

    A table has the cost too, and a file the image references.
    """
    from batchvision.job import FIXED_COLUMNS

    own = [name for name in names if name not in FIXED_COLUMNS]
    answers = [name for name in own if name.startswith("answer_")]
    kept = [name for name in own if name not in answers]
    last = (answers or ["output_text"]) if status == "completed" else ["error_kind", "error_message"]
    images = ["image_ref"] if for_file else []
    cost = ["cost_usd"] if status == "completed" and not for_file else []
    return tuple(name for name in ("row_id", *images, *kept, *last, *cost) if name in names)


def _stream(output: Path, status: str, form: str, limit: int, columns: list[str] | None) -> None:
    """Print CSV or JSON lines batch by batch, so that any size fits in memory."""
    from batchvision.commands.show import rows_of

    found = rows_of(output, status, columns)
    names = columns or list(found.columns)
    if form == "csv" and names:
        write(csv_line(names))
    for row in _rows(found, limit):
        write(csv_line(plain(row[name]) for name in names) if form == "csv" else json_line(_json_ready(row)))


def _rows(found: OutputRows, limit: int) -> Iterator[dict[str, Any]]:
    left = limit or None
    for batch in found.batches:
        rows = _batch_rows(batch)
        yield from rows if left is None else rows[:left]
        if left is not None:
            left -= len(rows)
            if left <= 0:
                return


def _batch_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = batch.to_pylist()
    return rows


def _title(name: str) -> str:
    return name.removeprefix("answer_")


def _json_ready(row: dict[str, Any]) -> dict[str, Any]:
    """The row with costs as numbers and times as text."""
    return {name: float(value) if isinstance(value, Decimal) else plain(value) for name, value in row.items()}
