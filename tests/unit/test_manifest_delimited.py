"""CSV and TSV: cells are read as written, and damage is reported with its line."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchvision.errors import JobInvalid
from batchvision.manifest import delimited, text_file
from batchvision.manifest.delimited import DelimitedManifest
from batchvision.manifest.inputs import LocalInput

Put = Callable[..., Path]

TEXT = "id,image,title\n007,a.jpg,Boot\n12345678901234567890,b.jpg,\n"
ROWS = [("007", "a.jpg", "Boot"), ("12345678901234567890", "b.jpg", None)]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(content: bytes | str, name: str = "photos.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def read(path: Path, columns: Sequence[str] | None = None, packing: str | None = None) -> list[tuple[str | None, ...]]:
    table = DelimitedManifest(LocalInput(path), packing, tabs=path.suffix == ".tsv")
    names = columns or table.columns
    return [tuple(row.values()) for batch in table.batches(names) for row in batch.to_pylist()]


def fault(path: Path, packing: str | None = None) -> str:
    with pytest.raises(JobInvalid) as caught:
        read(path, packing=packing)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TEXT.encode(), id="UTF-8"),
        pytest.param(codecs.BOM_UTF8 + TEXT.encode(), id="UTF-8 with BOM"),
        pytest.param(codecs.BOM_UTF16_LE + TEXT.encode("utf-16-le"), id="UTF-16 little"),
        pytest.param(codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), id="UTF-16 big"),
        pytest.param(TEXT.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(TEXT.replace("\n", "\r").encode(), id="CR"),
        pytest.param(TEXT.replace(",", ";").encode(), id="semicolons"),
        pytest.param(TEXT.replace(",", "\t").encode(), id="tabs"),
        pytest.param(TEXT.rstrip("\n").encode(), id="no newline at the end"),
        pytest.param(b"\n\n" + TEXT.replace("\n", "\n\n").encode(), id="blank lines"),
    ],
)
def test_every_dialect_gives_the_same_cells_exactly_as_written(put: Put, content: bytes) -> None:
    assert read(put(content)) == ROWS


@pytest.mark.parametrize(
    "content",
    [
        b"sep=;\r\n" + TEXT.replace(",", ";").encode(),
        codecs.BOM_UTF8 + b"sep=,\r\n" + TEXT.encode(),
        b"SEP=,\n" + TEXT.encode(),
        b'"sep=,"\n' + TEXT.encode(),
        b"\r\nsep=|\r\n\r\n" + TEXT.replace(",", "|").encode(),
        b"sep=\t\n" + TEXT.replace(",", "\t").encode(),
        b"sep=;;;\n" + TEXT.replace(",", ";").encode(),
        codecs.BOM_UTF16_LE + ("sep=;\r\n" + TEXT.replace(",", ";")).encode("utf-16-le"),
    ],
)
def test_a_first_line_of_excels_names_the_separator(put: Put, content: bytes) -> None:
    assert read(put(content)) == ROWS
    assert read(put(content, "photos.tsv")) == ROWS


def test_the_separator_that_is_named_holds_where_another_would_cut_the_header_more_often(put: Put) -> None:
    assert read(put("sep=;\nid;a,b,c,d\n1;x,y\n")) == [("1", "x,y")]


def test_a_column_may_be_called_sep(put: Put) -> None:
    assert read(put("sep,image\n1,a.jpg\n")) == [("1", "a.jpg")]
    assert "has no header" in fault(put("sep=;\r\n\r\n"))


def test_rows_of_empty_cells_are_blank_lines_wherever_they_stand(put: Put) -> None:
    rows = 'id;image;title\n;;\nr1;a.jpg;x\n;\n;;;;\nr2;b.jpg;\n"";;\n;;\n'
    assert read(put(rows)) == [("r1", "a.jpg", "x"), ("r2", "b.jpg", None)]
    assert "line 6: 1 cells" in fault(put("id;image\n;\n;\nr1;a\n;\nragged\n"))


def test_lines_keep_their_numbers_behind_a_line_that_names_the_separator(put: Put) -> None:
    assert "line 4: 3 cells" in fault(put("sep=;\nid;image\nr1;a\nr2;b;c\n"))


def test_packed_files_are_unpacked_while_they_stream(put: Put) -> None:
    assert read(put(gzip.compress(TEXT.encode()), "p.csv.gz"), packing="gzip") == ROWS
    packed = pa.compress(TEXT.encode(), codec="zstd", asbytes=True)
    assert read(put(packed, "p.csv.zst"), packing="zstd") == ROWS
    assert read(put(packed + pa.compress(b"9,c.jpg,x\n", codec="zstd", asbytes=True), "p.csv.zst"), packing="zstd") == [
        *ROWS,
        ("9", "c.jpg", "x"),
    ]


def test_a_tsv_is_cut_at_tabs_alone(put: Put) -> None:
    assert read(put("id\tnote;a,b,c\n1\tx,y\n", "t.tsv")) == [("1", "x,y")]


def test_columns_come_in_the_order_asked_for(put: Put) -> None:
    assert read(put(TEXT), ["title", "id"]) == [("Boot", "007"), (None, "12345678901234567890")]


def test_a_header_alone_is_a_manifest_without_rows(put: Put) -> None:
    assert read(put("id,image\n")) == []


def test_quoted_separators_quotes_and_line_ends_belong_to_the_cell(put: Put) -> None:
    assert read(put('id,t\n1,"a, ""b""\r\nc"\n')) == [("1", 'a, "b"\r\nc')]


def test_a_quote_inside_an_unquoted_cell_is_only_a_quote(put: Put) -> None:
    assert read(put('id,t\n1,a 5" screen\n')) == [("1", 'a 5" screen')]


hostile = st.text(st.one_of(st.sampled_from(',;\t"\r\n\\ \x00 ﻿\x1c\x85'), st.characters(exclude_categories=["Cs"])))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    rows=st.lists(st.tuples(hostile, hostile, hostile), max_size=8),
    delimiter=st.sampled_from(",;\t"),
    line_end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_whatever_the_csv_module_writes_is_read_back(
    put: Put, rows: list[tuple[str, str, str]], delimiter: str, line_end: str, encoding: str
) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "image", "prompt"), *rows])
    expected = [tuple(cell or None for cell in row) for row in rows if any(row)]
    assert read(put(text.getvalue().encode(encoding))) == expected


def test_batches_are_bounded_in_rows_and_in_characters(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "BATCH_ROWS", 10)
    monkeypatch.setattr(delimited, "BATCH_CHARACTERS", 100)
    path = put("id\n" + "".join(f"{number}\n" for number in range(25)) + f"{'x' * 300}\n" * 3)
    sizes = [batch.num_rows for batch in DelimitedManifest(LocalInput(path), None).batches(["id"])]
    assert sizes == [10, 10, 6, 1, 1]


# ---------------------------------------------------------------------------------- damage


def test_ragged_lines_are_told_by_their_physical_line(put: Put) -> None:
    message = fault(put('id,t\n1,"two\nlines"\n2,a,b\n\n3\n'))
    assert "photos.csv, line 4: 3 cells, but the header has 2 columns" in message
    assert "photos.csv, line 6: 1 cells" in message


def test_only_a_few_ragged_lines_are_reported(put: Put) -> None:
    assert len(fault(put("a,b\n" + "1\n" * 50)).splitlines()) == delimited.MOST_FAULTS


def test_a_quote_that_never_closes_is_reported_where_it_opens(put: Put) -> None:
    assert "photos.csv, line 3: a double quote opens a cell that does not close" in fault(put('a,b\n1,2\n3,"4\n5,6\n'))


def test_text_behind_a_closing_quote_is_damage(put: Put) -> None:
    assert "photos.csv, line 2: a quoted cell is followed by more text" in fault(put('a,b\n1,"2"x\n'))


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_bytes_that_are_no_utf8_are_reported_with_their_line(put: Put, line_end: str) -> None:
    text = line_end.join(["id,t", "1,a", "2,é", ""])
    assert "photos.csv, line 3: not valid UTF-8" in fault(put(text.encode("latin-1")))


def test_a_bad_byte_far_into_the_file_has_the_right_line(put: Put) -> None:
    lines = [b"id,t"] + [b"%d,text text text text" % number for number in range(200_000)]
    lines[123_456] = b"1,\xff"
    assert "line 123457: not valid UTF-8" in fault(put(b"\r\n".join(lines)))


def test_half_a_utf16_character_is_reported_with_its_line(put: Put) -> None:
    content = codecs.BOM_UTF16_LE + "id\n1\n2".encode("utf-16-le") + b"x"
    assert "line 3: not valid UTF-16" in fault(put(content))


def test_a_line_without_end_is_not_read_into_memory(put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "MAX_LINE_CHARACTERS", 1000)
    assert "line 2: longer than 1,000 characters" in fault(put("id\n" + "x" * 5000))


def test_a_column_name_must_stand_once(put: Put) -> None:
    assert "more than one column named 'id'" in fault(put("id,image,id\n1,2,3\n"))


def test_columns_without_a_name_are_tolerated(put: Put) -> None:
    assert read(put(",id,\n0,a,\n"), ["id"]) == [("a",)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (codecs.BOM_UTF8, "is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG image"),
        (b"\xff\xd8\xff\xe0" + bytes(100), "a JPEG image"),
        (b"PAR1" + bytes(100), "Parquet (name it .parquet)"),
        (b"PK\x03\x04" + bytes(100), "an Excel workbook"),
        (gzip.compress(b"id\n1\n", mtime=0), "packed with gzip (add .gz"),
        (b'{"id": 1}\n', "name the file .jsonl"),
        ("id,image\n1,2\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
    ],
)
def test_content_that_contradicts_the_name_is_refused(put: Put, content: bytes, words: str) -> None:
    assert words in fault(put(content))


def test_a_file_that_is_not_packed_as_its_name_promises_is_refused(put: Put) -> None:
    assert "packed with gzip, but it is not" in fault(put(TEXT, "p.csv.gz"), "gzip")
    assert "packed with zstd, but it is not" in fault(put(TEXT, "p.csv.zst"), "zstd")


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_packed_file_cut_short_is_damage_not_fewer_rows(put: Put, kept: float) -> None:
    packed = gzip.compress(("id\n" + "".join(f"{number}\n" for number in range(100_000))).encode())
    message = fault(put(packed[: int(len(packed) * kept)], "p.csv.gz"), "gzip")
    assert "p.csv.gz is damaged or cut short" in message


def test_a_missing_file_is_reported_with_the_next_step(tmp_path: Path) -> None:
    assert "does not exist: correct [manifest] path" in fault(tmp_path / "none.csv")
