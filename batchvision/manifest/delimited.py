"""CSV and TSV as record batches. Each cell is text as written (``007`` stays). An empty cell is null.

Rule: Python's csv module in strict mode splits the cells, which counts the physical lines of each record. Blank
lines and rows of empty cells are skipped. A first line ``sep=;`` names the separator, as in Excel. A record with more
or fewer cells than the header is damage and is never padded.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

from batchvision.errors import JobInvalid
from batchvision.job import is_blank, separator_of
from batchvision.manifest.columns import reject_repeated
from batchvision.manifest.inputs import ManifestInput
from batchvision.manifest.text_file import MAX_LINE_CHARACTERS, TextFile

#: No cell may be longer. The csv module has one limit for the whole process, which is only raised.
MAX_CELL_CHARACTERS = 16 * 1024 * 1024
#: No line may have more cells.
MAX_CELLS = 1_000_000
MAX_HEADER_CHARACTERS = 16 * 1024 * 1024
#: Limits of a batch.
BATCH_ROWS = 8192
BATCH_CHARACTERS = 16 * 1024 * 1024
#: Reading stops after this number of lines with a wrong number of cells.
MOST_FAULTS = 5
_DELIMITERS = (",", ";", "\t")
_DELIMITER_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}


class DelimitedManifest:
    """One CSV or TSV file."""

    def __init__(self, source: ManifestInput, packing: str | None, *, tabs: bool = False) -> None:
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))
        self._text = TextFile(source, packing)
        self.inputs: tuple[ManifestInput, ...] = (source,)
        self.byte_columns: frozenset[str] = frozenset()
        self._head_lines = 0  #: lines before the header: blank ones, and one that names the separator
        named = self._named_separator()
        self._delimiter, self.columns = self._read_header((named,) if named else ("\t",) if tabs else _DELIMITERS)
        reject_repeated(self.columns, source.name)

    def _named_separator(self) -> str | None:
        """The separator of a first line ``sep=;``. Raises JobInvalid for text that is no table."""
        for number, line in enumerate(self._text.lines(), start=1):
            if not line.strip():
                continue
            if line.lstrip().startswith('{"'):
                raise JobInvalid(f"{self._text.name}: the name says CSV, but line 1 is JSON: name the file .jsonl.")
            found = separator_of(line)
            if found is not None:
                self._head_lines = number
            return found
        raise self._text.empty()

    def _lines(self) -> Iterator[str]:
        """The file's lines, with those before the header blank, so that lines keep their numbers."""
        for number, line in enumerate(self._text.lines(), start=1):
            yield line if number > self._head_lines else "\n"

    def _read_header(self, delimiters: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """The delimiter that gives the header the most columns (the first of equals), and the columns."""
        best: tuple[str, tuple[str, ...]] | None = None
        fault = ""
        for delimiter in delimiters:
            try:
                lines = self._capped(self._lines(), delimiter, MAX_HEADER_CHARACTERS)
                header = next(filter(None, csv.reader(lines, delimiter=delimiter, strict=True)), None)
            except csv.Error as error:
                fault = fault or str(error)
                continue
            if header is None:
                raise self._text.empty()
            if best is None or len(header) > len(best[1]):
                best = delimiter, tuple(header)
        if best is None:
            raise self._text.line_fault(1, f"the header cannot be read: {fault}.")
        return best

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of each row, as strings. Raises JobInvalid at damage, for a few ragged lines together."""
        places = [self.columns.index(name) for name in columns]
        for rows in self._record_lists():
            arrays = [pa.array([row[place] or None for row in rows], pa.string()) for place in places]
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def _record_lists(self) -> Iterator[list[list[str]]]:
        """The records after the header, in lists of bounded size."""
        width, faults = len(self.columns), list[str]()
        rows: list[list[str]] = []
        characters, is_header = 0, True
        for line_number, size, record in self._records():
            if not record:
                continue
            if not is_header and is_blank(record):
                continue
            if is_header:
                is_header = False
                continue
            if len(record) != width:
                faults.append(self._ragged(line_number, len(record)))
                if len(faults) == MOST_FAULTS:
                    break
                continue
            rows.append(record)
            characters += size
            if len(rows) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
                yield rows
                rows, characters = [], 0
        if faults:
            raise JobInvalid(faults)
        if rows:
            yield rows

    def _records(self) -> Iterator[tuple[int, int, list[str]]]:
        """Each record with the physical line it begins on and its length in characters."""
        taken = 0

        def counted() -> Iterator[str]:
            nonlocal taken
            for line in self._capped(self._lines(), self._delimiter):
                taken += len(line)
                if taken - before > MAX_LINE_CHARACTERS:
                    fault = f"a record of more than {MAX_LINE_CHARACTERS:,} characters. Does a double quote not close?"
                    raise self._text.line_fault(first_line, fault)
                yield line

        reader = csv.reader(counted(), delimiter=self._delimiter, strict=True)
        first_line, before = 1, 0
        try:
            for record in reader:
                yield first_line, taken - before, record
                first_line, before = reader.line_num + 1, taken
        except csv.Error as error:
            raise self._text.line_fault(first_line, self._quoting(str(error), first_line, reader.line_num)) from error

    def _capped(self, lines: Iterable[str], delimiter: str, most: int | None = None) -> Iterator[str]:
        """The lines. Raises JobInvalid at a line of too many cells, and after ``most`` characters."""
        taken = 0
        for number, line in enumerate(lines, start=1):
            taken += len(line)
            if len(line) > MAX_CELLS and line.count(delimiter) > MAX_CELLS:
                raise self._text.line_fault(number, f"more than {MAX_CELLS:,} cells.")
            if most is not None and taken > most:
                raise self._text.line_fault(1, f"the header is longer than {most:,} characters.")
            yield line

    def _ragged(self, line_number: int, cells: int) -> str:
        separators = _DELIMITER_NAMES.get(self._delimiter, repr(self._delimiter))
        return (
            f"{self._text.name}, line {line_number}: {cells} cells, but the header has {len(self.columns)} "
            f"columns (separated by {separators}). A cell that holds the separator or a line end must stand in double "
            "quotes."
        )

    def _quoting(self, fault: str, first_line: int, last_line: int) -> str:
        if "field limit" in fault or "unexpected end" in fault:
            return (
                f"a double quote opens a cell that does not close up to line {last_line} "
                f"(or the cell is longer than {MAX_CELL_CHARACTERS:,} characters)."
            )
        where = f" (seen in line {last_line})" if last_line > first_line else ""
        return f"a quoted cell is followed by more text{where}: {fault}. Inside quotes, write a double quote twice."
