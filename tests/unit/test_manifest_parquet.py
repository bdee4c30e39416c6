"""Parquet files and folders of them, as bounded, normalised batches."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_files import opened

from batchvision.errors import JobInvalid
from batchvision.manifest import parquet_reader
from batchvision.manifest.parquet import pieces_below


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def read(path: Path, *columns: str) -> list[tuple[Any, ...]]:
    batches = opened(path, {}).batches(columns)
    return [row for batch in batches for row in zip(*(column.to_pylist() for column in batch.columns), strict=True)]


def fault(path: Path, needed: dict[str, str] | None = None) -> str:
    with pytest.raises(JobInvalid) as caught:
        manifest = opened(path, needed or {})
        list(manifest.batches(manifest.columns))
    return str(caught.value)


def test_columns_are_read_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"id": [2**62 + 1, 2], "image": ["a", "b"], "other": [0, 0]})
    assert read(path, "image", "id") == [("a", 2**62 + 1), ("b", 2)]


def test_types_of_any_encoding_come_out_plain(tmp_path: Path) -> None:
    one = uuid.uuid4()
    path = write(
        tmp_path / "m.parquet",
        {
            "category": pa.array(["a"]).dictionary_encode(),
            "large": pa.array(["b"], pa.large_string()),
            "listed": pa.array([["d"]], pa.large_list(pa.large_string())),
            "uuid": pa.array([one.bytes], pa.uuid()),
            "fixed": pa.array([one.bytes], pa.binary(16)),
            "image": pa.array(
                [{"bytes": b"e", "path": "f"}], pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
            ),
        },
    )
    (batch,) = opened(path, {}).batches(["category", "large", "listed", "uuid", "fixed", "image"])
    assert [str(field.type) for field in batch.schema] == [
        *["string"] * 2,
        "list<item: string>",
        "string",
        "string",
        "struct<bytes: binary, path: string>",
    ]
    assert batch.to_pylist()[0]["uuid"] == batch.to_pylist()[0]["fixed"] == str(one)


def test_columns_of_bytes_are_known_before_they_are_read(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"x", "path": None}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    path = write(tmp_path / "m.parquet", {"id": ["1"], "image": image, "raw": [b"x"], "list": [[b"x"]]})
    assert opened(path, {}).byte_columns == {"image", "raw", "list"}


def test_a_batch_is_bounded_in_bytes_however_the_file_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "BATCH_BYTES", 1_000_000)
    images = [bytes([number]) * 100_000 for number in range(50)]
    path = write(tmp_path / "m.parquet", {"image": images})
    batches = list(opened(path, {}).batches(["image"]))
    assert max(batch.num_rows for batch in batches) <= 10
    assert [cell for batch in batches for cell in batch.column(0).to_pylist()] == images


def test_a_dictionary_does_not_hide_how_large_rows_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_reader, "BATCH_BYTES", 1_000_000)
    path = write(tmp_path / "m.parquet", {"image": [b"x" * 100_000] * 500}, use_dictionary=True)
    assert max(batch.nbytes for batch in opened(path, {}).batches(["image"])) <= 1_100_000


def test_several_columns_share_the_bytes_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alone would fit."""
    monkeypatch.setattr(parquet_reader, "BATCH_BYTES", 1_000_000)
    columns = {name: [b"x" * 10_000] * 90 for name in "abcd"}
    path = write(tmp_path / "m.parquet", columns, use_dictionary=False)
    assert max(batch.nbytes for batch in opened(path, {}).batches(["a"])) > 900_000
    assert max(batch.nbytes for batch in opened(path, {}).batches([*columns])) <= 1_100_000


def test_an_empty_table_has_columns_and_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"id": pa.array([], pa.int64())})
    assert (opened(path, {}).columns, read(path, "id")) == (("id",), [])


# ---------------------------------------------------------------------------------- folders


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / "t" / f"{name}.parquet", {"id": [name]})
    assert read(tmp_path / "t", "id") == [("a",), ("b",), ("c",)]


def test_hive_partitions_are_text_as_written(tmp_path: Path) -> None:
    write(tmp_path / "t" / "shop=007" / "day=2026-01-01" / "p.parquet", {"id": [1]})
    write(tmp_path / "t" / "shop=a%2Fb" / "day=__HIVE_DEFAULT_PARTITION__" / "p.parquet", {"id": [2]})
    assert read(tmp_path / "t", "id", "shop", "day") == [(1, "007", "2026-01-01"), (2, "a/b", None)]
    assert read(tmp_path / "t", "shop") == [("007",), ("a/b",)]


def test_hidden_and_underscore_files_are_not_part_of_the_table(tmp_path: Path) -> None:
    write(tmp_path / "t" / "p.parquet", {"id": [1]})
    for name in (
        "_SUCCESS",
        "_metadata.parquet",
        ".p.parquet.crc",
        ".hidden.parquet",
        "_temporary/p.parquet",
        "README.md",
    ):
        (tmp_path / "t" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "t" / name).write_bytes(b"junk")
    assert read(tmp_path / "t", "id") == [(1,)]


def test_a_link_that_leads_upward_repeats_no_row(tmp_path: Path) -> None:
    write(tmp_path / "t" / "p.parquet", {"id": [1]})
    (tmp_path / "t" / "again").symlink_to(tmp_path / "t")
    assert read(tmp_path / "t", "id") == [(1,)]


def test_dots_in_a_columns_name_are_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"a.b": [1], "a": [{"b": 2}]})
    assert read(path, "a.b") == [(1,)]
    assert read(path, "a") == [({"b": 2},)]


def test_files_without_suffix_count_where_they_are_parquet(tmp_path: Path) -> None:
    write(tmp_path / "t" / "part-00000", {"id": [1]})
    assert read(tmp_path / "t", "id") == [(1,)]


def test_a_column_that_only_later_files_have_is_null_before(tmp_path: Path) -> None:
    write(tmp_path / "t" / "1.parquet", {"id": [1]})
    write(tmp_path / "t" / "2.parquet", {"id": [2], "title": ["x"]})
    batches = opened(tmp_path / "t", {"title": "[prompt]"}).batches(["id", "title"])
    assert [row for batch in batches for row in batch.to_pylist()] == [
        {"id": 1, "title": None},
        {"id": 2, "title": "x"},
    ]


# ---------------------------------------------------------------------------------- damage


def test_a_missing_column_is_reported_with_the_columns_of_the_manifest(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"SKU": [1], "photo": ["a"]})
    message = fault(path, {"sku": "[manifest] id", "image": "[manifest] images"})
    assert "no column 'sku', which [manifest] id names; its columns are 'SKU', 'photo'. Did you mean 'SKU'?" in message
    assert "no column 'image'" in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"id,image\n1,a.jpg\n", "the name says Parquet, but the file is text"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "the file is a PNG image"),
        (b"PAR1" + bytes(50), "damaged or cut short"),
    ],
)
def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(content)
    assert words in fault(path)


def test_a_truncated_file_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "m.parquet", {"id": list(range(1000))})
    path.write_bytes(path.read_bytes()[:-30])
    assert "m.parquet is damaged or cut short" in fault(path)


def test_a_page_that_does_not_match_its_checksum_is_damage(tmp_path: Path) -> None:
    names = [f"row {number}" for number in range(10_000)]
    path = write(tmp_path / "m.parquet", {"id": names}, compression="none", write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(content)
    assert "m.parquet is damaged" in fault(path)


def test_text_that_is_no_utf8_is_damage(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    assert "Invalid UTF8" in fault(write(tmp_path / "m.parquet", {"id": bad}))


def test_answers_below_the_folder_are_no_rows(tmp_path: Path) -> None:
    """The job's own output by its path, those of other jobs by the folder that every output has."""
    write(tmp_path / "photos.parquet", {"id": ["a"]})
    write(tmp_path / "more" / "b.parquet", {"id": ["b"]})
    write(tmp_path / "answers" / "results" / "part-0.parquet", {"id": ["c"]})
    write(tmp_path / "more" / "other" / "results" / "part-0.parquet", {"id": ["d"]})
    (tmp_path / "more" / "other" / ".batchvision").mkdir()
    found = pieces_below(tmp_path, tmp_path / "more" / ".." / "answers")
    assert [piece.source.name for piece in found] == ["b.parquet", "photos.parquet"]
    (tmp_path / ".batchvision").mkdir()  # of an output in the folder itself: what lies in it is read as it was
    assert len(pieces_below(tmp_path, tmp_path / "answers")) == 2
