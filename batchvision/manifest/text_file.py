"""The format of a manifest file, and the decoded lines of a text file.

Rule: a file that is empty, packed in another way, of another format or not UTF-8 is refused here, as ``JobInvalid``
with the line where there is one. The readers of CSV and JSONL get whole text.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import PurePath
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from batchvision.errors import JobInvalid
from batchvision.manifest.inputs import ManifestInput, unreadable

#: No line may be longer: a whole line is in memory, and a file without line ends is one line.
MAX_LINE_CHARACTERS = 64 * 1024 * 1024
_HEAD_BYTES = 4096
_BLOCK_BYTES = 1024 * 1024
_LINE_END = re.compile(r"\r\n|\r|\n")


class TableFormat(Enum):
    """How rows are written."""

    CSV = "CSV"  #: one of , ; tab between cells, as the header has it
    TSV = "TSV"  #: tabs between cells
    JSONL = "JSONL"  #: one JSON object a line
    PARQUET = "Parquet"  #: one file, or a folder of them


class FileFormat(NamedTuple):
    """The format by a file's name. ``packing``: the codec of a packed file."""

    table: TableFormat
    packing: str | None


_FORMATS = {
    ".csv": TableFormat.CSV,
    ".tsv": TableFormat.TSV,
    ".jsonl": TableFormat.JSONL,
    ".ndjson": TableFormat.JSONL,
    ".parquet": TableFormat.PARQUET,
    ".parq": TableFormat.PARQUET,
    ".pq": TableFormat.PARQUET,
}
_PACKINGS = {".gz": "gzip", ".zst": "zstd"}
_PACKING_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd"}
#: Byte order marks, longest first: the mark of UTF-32 begins with the mark of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Files that are no text table, by their first bytes.
_FOREIGN = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a WebP image or another RIFF file"),
    (b"PAR1", "Parquet (name it .parquet)"),
    (b"ARROW1", "an Arrow file (save it as Parquet)"),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook (save the sheet as CSV UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (save the sheet as CSV UTF-8)"),
    (_PACKING_MAGIC["gzip"], "packed with gzip (add .gz to its name)"),
    (_PACKING_MAGIC["zstd"], "packed with zstd (add .zst to its name)"),
    (b"BZh", "packed with bzip2 (unpack it first)"),
    (b"\xfd7zXZ", "packed with xz (unpack it first)"),
    (b"%PDF", "a PDF"),
    (b"SQLite format 3", "an SQLite database"),
    (b"<!DOCTYPE", "a web page"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
)


def format_of(name: str) -> FileFormat:
    """The format by the suffixes of ``name``. Raises JobInvalid, which lists the suffixes."""
    suffixes = [suffix.lower() for suffix in PurePath(name).suffixes]
    packing = _PACKINGS.get(suffixes[-1]) if suffixes else None
    if packing:
        suffixes.pop()
    table = _FORMATS.get(suffixes[-1]) if suffixes else None
    if table is None or (packing and table is TableFormat.PARQUET):
        raise JobInvalid(
            f"{name}: the name of a manifest ends in .csv, .tsv or .jsonl (also with .gz or .zst behind it) or in "
            ".parquet; a folder of Parquet files serves too."
        )
    return FileFormat(table, packing)


def foreign_format(head: bytes) -> str | None:
    """The kind of file that begins with ``head``, if it is no text table."""
    for magic, name in _FOREIGN:
        if head.startswith(magic):
            return name
    has_mark = any(head.startswith(mark) for mark, _ in _MARKS)
    if not has_mark and head.count(0) * 5 > len(head):
        return "binary, or UTF-16 without a byte order mark (save it as UTF-8)"
    return None


def read_head(source: ManifestInput) -> bytes:
    """The first bytes of ``source``, still packed."""
    with source.open() as file:
        return file.read(_HEAD_BYTES)


class TextFile:
    """A text manifest. It is checked on construction and opened for each reading of its lines."""

    def __init__(self, source: ManifestInput, packing: str | None) -> None:
        self.name = source.name
        self._source = source
        self._packing = packing
        head = self._unpacked_head()
        name = foreign_format(head)
        if name:
            raise JobInvalid(f"{self.name}: the name says {format_of(self.name).table.value}, but the file is {name}.")
        self._encoding = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), "utf-8")

    def _unpacked_head(self) -> bytes:
        head = read_head(self._source)
        if not head:
            raise self.empty()
        if self._packing is None:
            return head
        if not head.startswith(_PACKING_MAGIC[self._packing]):
            raise JobInvalid(f"{self.name}: the name says that it is packed with {self._packing}, but it is not.")
        with self._faults_as_job_invalid(), closing(self._open()) as raw:
            return raw.read(_HEAD_BYTES)

    def empty(self) -> JobInvalid:
        """The error for an empty file."""
        return JobInvalid(f"{self.name} is empty: it has no header and no rows.")

    def line_fault(self, number: int, fault: str) -> JobInvalid:
        """The error for damage in physical line ``number``."""
        return JobInvalid(f"{self.name}, line {number}: {fault}")

    def lines(self) -> Iterator[str]:
        """Each physical line with its end: LF, CRLF or CR."""
        number = 0
        with self._faults_as_job_invalid(), closing(self._open()) as raw:
            text = io.TextIOWrapper(io.BufferedReader(raw, _BLOCK_BYTES), encoding=self._encoding, newline="")  # type: ignore[type-var]
            try:
                while line := text.readline(MAX_LINE_CHARACTERS):
                    number += 1
                    if len(line) == MAX_LINE_CHARACTERS:
                        raise self.line_fault(number, f"longer than {MAX_LINE_CHARACTERS:,} characters.")
                    yield line
            finally:
                text.detach()

    def _open(self) -> BinaryIO:
        stream: BinaryIO = pa.input_stream(self._source.open(), compression=self._packing, buffer_size=0)
        return stream

    @contextmanager
    def _faults_as_job_invalid(self) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise self._not_text() from error
        except pa.ArrowInvalid as error:
            raise JobInvalid(f"{self.name} is damaged: {error}.") from error
        except OSError as error:
            if self._packing and error.errno is None:
                raise JobInvalid(f"{self.name} is damaged or cut short: {error}.") from error
            raise unreadable(self.name, error) from error

    def _not_text(self) -> JobInvalid:
        """Read again from the start to find the line that cannot be decoded. Slow, but only before an error."""
        decoder = codecs.getincrementaldecoder(self._encoding)()
        number, tail = 1, ""
        with closing(self._open()) as raw:
            while True:
                block = raw.read(_BLOCK_BYTES)
                try:
                    text = tail + decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    whole = tail + error.object[: error.start].decode(error.encoding, "replace")
                    encoding = self._encoding.removesuffix("-sig").upper()
                    fault = f"not valid {encoding} ({error.reason}). Save the file as UTF-8."
                    return self.line_fault(number + len(_LINE_END.findall(whole)), fault)
                tail = "\r" if text.endswith("\r") else ""  # half of a CRLF may follow in the next block
                number += len(_LINE_END.findall(text[: len(text) - len(tail)]))
