"""``batchvision show OUT -o FILE``: rows as a CSV, Excel or Parquet file. The file is renamed into place when complete.

No cell of a spreadsheet becomes a formula. In CSV an apostrophe comes before its text, as OWASP advises. Excel files
hold the text unchanged, in a text cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from batchvision.cli.output import csv_line, plain
from batchvision.cli.terminal import safe_text
from batchvision.errors import JobInvalid
from batchvision.wording import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from batchvision.checkpoint import NewFile

#: Makes Excel read the file as UTF-8.
BOM = "\ufeff"
#: Rows of an Excel sheet, with the header.
SHEET_ROWS = 1_048_576
#: UTF-16 units in a cell of an Excel sheet.
SHEET_CELL_UNITS = 32_767
#: A complete Excel file is copied in portions of this size.
COPIED_BYTES = 1024 * 1024
#: An Excel sheet holds larger integers only inexactly, so they are text.
EXACT_INTEGER = 2**53


def export(output: Path, to: Path, status: str, columns: Sequence[str]) -> list[str]:
    """Write the rows that are "completed" or "failed", and return lines for people.

    Raises JobInvalid for an unknown suffix or column.
    """
    from batchvision.checkpoint import LocalDisk
    from batchvision.commands.read import read

    write = _WRITERS.get(to.suffix.lower())
    if write is None:
        raise JobInvalid(f"{to} has no known suffix: name a file that ends in {', '.join(_WRITERS)}.")
    rows = read(output, "failures" if status == "failed" else "results", columns=columns)
    try:
        with LocalDisk().growing(to) as file:
            notes = write(file, rows.schema, iter(rows))
            file.publish(to)
    except OSError as fault:
        raise click.ClickException(f"{to} cannot be written: {fault.strerror or fault}") from None
    return [f"{notes[0]} in {to}", *notes[1:]]


def _write_csv(file: NewFile, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> list[str]:
    count = 0
    file.write((BOM + csv_line(schema.names)).encode())
    for batch in batches:
        for row in batch.to_pylist():
            file.write(csv_line(plain(_spreadsheet_cell(value)) for value in row.values()).encode())
        count += batch.num_rows
    return [counted(count, "row")]


def _write_parquet(file: NewFile, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> list[str]:
    from batchvision.checkpoint import write_batches

    counts: list[int] = []

    def counting() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            counts.append(batch.num_rows)
            yield batch

    write_batches(file, schema, counting())
    return [counted(sum(counts), "row")]


def _write_xlsx(file: NewFile, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> list[str]:
    """Write a sheet in constant memory. Times are UTC. Raises JobInvalid for more rows than a sheet holds."""
    try:
        from xlsxwriter import Workbook
        from xlsxwriter.exceptions import FileCreateError
    except ImportError as missing:
        raise JobInvalid("an .xlsx file needs the extra xlsx: pip install 'batchvision[xlsx]'") from missing
    count = cut = 0
    with TemporaryDirectory(prefix="batchvision-") as folder:
        settings = {"constant_memory": True, "remove_timezone": True, "tmpdir": folder}
        whole = Path(folder, "whole.xlsx")
        book = Workbook(whole, {**settings, "default_date_format": "yyyy-mm-dd hh:mm:ss"})
        book.use_zip64()
        sheet = book.add_worksheet("batchvision")
        sheet.freeze_panes(1, 1)
        for column, name in enumerate(schema.names):
            sheet.write_string(0, column, name)
        try:
            for batch in batches:
                for row in batch.to_pylist():
                    count += 1
                    if count >= SHEET_ROWS:
                        raise JobInvalid(
                            f"a sheet of an .xlsx file holds {SHEET_ROWS - 1:,} rows, and there are more: "
                            "write .csv or .parquet."
                        )
                    for column, value in enumerate(row.values()):
                        cut += _write_cell(sheet, count, column, _spreadsheet_cell(value))
        finally:  # after an error too: only this closes the temporary files of the sheet
            try:
                book.close()
            except FileCreateError as fault:  # it wraps the OSError of the file
                raise OSError(*fault.args[0].args) from fault
        with whole.open("rb") as complete:
            while part := complete.read(COPIED_BYTES):
                file.write(part)
    notes = [counted(count, "row")]
    if cut:
        cells = counted(cut, "cell")
        notes.append(f"{cells} had more than {SHEET_CELL_UNITS:,} characters and lost the rest: write .csv or .parquet")
    return notes


def _spreadsheet_cell(value: Any) -> Any:
    """A list as text, its items joined by ", "."""
    if isinstance(value, list):
        return ", ".join("" if each is None else str(plain(each)) for each in value)
    return value


def _write_cell(sheet: Any, row: int, column: int, value: Any) -> bool:
    """Write a cell by its type. Text never becomes a formula or a link. Returns whether the text was cut."""
    match value:
        case None:
            return False
        case bool():
            sheet.write_boolean(row, column, value)
        case datetime():
            sheet.write_datetime(row, column, value)
        case int() | float() | Decimal() if -EXACT_INTEGER <= value <= EXACT_INTEGER:
            sheet.write_number(row, column, float(value))
        case _:
            text = safe_text(str(value))
            units = text.encode("utf-16-le")
            kept = units[: 2 * SHEET_CELL_UNITS].decode("utf-16-le", "ignore")
            sheet.write_string(row, column, kept)
            return len(kept) < len(text)
    return False


_WRITERS: dict[str, Callable[[NewFile, pa.Schema, Iterator[pa.RecordBatch]], list[str]]] = {
    ".csv": _write_csv,
    ".xlsx": _write_xlsx,
    ".parquet": _write_parquet,
}
