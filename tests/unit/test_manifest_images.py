"""Image cells of every shape, and manifests made of folders."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchvision.errors import JobInvalid
from batchvision.manifest import make_manifest
from batchvision.manifest.cells import JsonCells
from batchvision.manifest.image_cells import holds_bytes, image_refs, reject_no_images
from batchvision.records import ImageKind, ImageRef

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
HF = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def refs(value: Any, given: pa.DataType | None = None, separator: str | None = None) -> tuple[ImageRef, ...]:
    array = pa.array([value], given or pa.string())
    (found,) = image_refs(array, pa.field("front", array.type), separator)
    return found


def named(*found: ImageRef) -> list[tuple[str, str]]:
    assert all(ref.slot == "front" for ref in found)
    return [(ref.kind.value, ref.reference) for ref in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/b.jpg", [("path", "a/b.jpg")]),
        ("/abs/ü.jpg", [("path", "/abs/ü.jpg")]),
        (" a.jpg ", [("path", " a.jpg ")]),
        ("12:30.jpg", [("path", "12:30.jpg")]),
        ("[1].jpg", [("path", "[1].jpg")]),
        ("[1, 2]", [("path", "[1, 2]")]),
        ("file:///abs/a.jpg", [("path", "file:///abs/a.jpg")]),
        (" HTTPS://Host/a.jpg?x=1\n", [("url", "HTTPS://Host/a.jpg?x=1")]),
        ("data:image/png;base64,AA==", [("data", "data:image/png;base64,AA==")]),
        ("s3://bucket/a.jpg", [("unsupported", "s3://bucket/a.jpg")]),
        ("gs://bucket/a.jpg", [("unsupported", "gs://bucket/a.jpg")]),
        ('["a.jpg", null, "https://h/b.jpg"]', [("path", "a.jpg"), ("url", "https://h/b.jpg")]),
        ('[{"path": "a.jpg"}, {"url": "https://h/b.jpg"}]', [("path", "a.jpg"), ("url", "https://h/b.jpg")]),
        ("[]", []),
        ("  ", []),
        (None, []),
    ],
)
def test_a_text_cell_names_images(text: str | None, expected: list[tuple[str, str]]) -> None:
    assert named(*refs(text)) == expected


def test_separated_text_is_several_images() -> None:
    assert named(*refs("a.jpg| https://h/b.jpg ||", separator="|")) == [("path", "a.jpg"), ("url", "https://h/b.jpg")]
    assert named(*refs("a.jpg|b.jpg")) == [("path", "a.jpg|b.jpg")]


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_separator_does_not_cut_a_data_uri(separator: str) -> None:
    assert named(*refs("data:image/png;base64,AA==", separator=separator)) == [("data", "data:image/png;base64,AA==")]


def test_bytes_and_hugging_face_structs_are_images() -> None:
    assert refs(b"x", pa.binary()) == (ImageRef(ImageKind.BYTES, "", "front", b"x"),)
    assert refs({"bytes": b"x", "path": "a.jpg"}, HF) == (ImageRef(ImageKind.BYTES, "a.jpg", "front", b"x"),)
    assert refs({"bytes": None, "path": "a.jpg"}, HF) == (ImageRef(ImageKind.PATH, "a.jpg", "front"),)
    assert refs({"bytes": None, "path": None}, HF) == ()
    assert refs(None, HF) == ()


def test_lists_of_all_shapes_are_several_images() -> None:
    assert named(*refs(["a.jpg", None, "b.jpg"], pa.list_(pa.string()))) == [("path", "a.jpg"), ("path", "b.jpg")]
    assert len(refs([{"bytes": b"x", "path": None}, None, {"bytes": b"y", "path": None}], pa.list_(HF))) == 2
    assert len(refs([b"x", b"y"], pa.list_(pa.binary()))) == 2


def test_nested_cells_of_json_lines_are_images() -> None:
    array = pa.array(['"a.jpg"', '["b.jpg"]', None])
    found = image_refs(array, JsonCells.ANY.field("front"))
    assert [named(*row) for row in found] == [[("path", "a.jpg")], [("path", "b.jpg")], []]


def test_every_image_of_a_row_bears_its_version() -> None:
    array = pa.array(['["a.jpg", "b.jpg"]', "c.jpg"])
    found = image_refs(array, pa.field("front", pa.string()), versions=["v1", None])
    assert [[ref.version for ref in row] for row in found] == [["v1", "v1"], [None]]


@pytest.mark.parametrize("given", [pa.int64(), pa.list_(pa.float64()), pa.struct([("a", pa.string())]), pa.bool_()])
def test_a_column_that_cannot_hold_images_is_refused(given: pa.DataType) -> None:
    with pytest.raises(JobInvalid, match="image column 'front' holds"):
        reject_no_images(pa.field("front", given))


@pytest.mark.parametrize("given", [pa.string(), pa.binary(), HF, pa.list_(HF), pa.null(), pa.list_(pa.string())])
def test_a_column_that_can_hold_images_is_not(given: pa.DataType) -> None:
    reject_no_images(pa.field("front", given))
    assert holds_bytes(given) == ("binary" in str(given))


# ---------------------------------------------------------------------------------- batchvision manifest FOLDER


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("b.png", "a.png", "sub/a.png", "twin.png", "twin.jpg", "no_suffix", ".hidden.png", ".git/x.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(PNG)
    (folder / "notes.png").write_text("not an image")
    (folder / "empty.png").touch()
    return folder


IDS = ["a", "b", "no_suffix", "sub/a", "twin.jpg", "twin.png"]
IMAGES = [f"photos/{name}" for name in ("a.png", "b.png", "no_suffix", "sub/a.png", "twin.jpg", "twin.png")]


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.parquet"])
def test_a_folder_becomes_a_manifest_in_every_form(photos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    assert make_manifest(photos, out) == 6
    if out.suffix == ".parquet":
        rows = pq.read_table(out).to_pylist()
    elif out.suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        text = io.StringIO(out.read_bytes().decode(), newline="")
        rows = list(csv.DictReader(text, delimiter="\t" if out.suffix == ".tsv" else ","))
    assert [row["id"] for row in rows] == IDS
    assert [row["image"] for row in rows] == IMAGES
    before = out.read_bytes()
    make_manifest(photos, out)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*.new"))


def test_images_outside_the_manifests_folder_are_named_by_their_whole_path(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "jobs" / "m.jsonl"
    make_manifest(photos, out)
    first = json.loads(out.read_text().splitlines()[0])
    assert first == {"id": "a", "image": str(photos / "a.png")}


@pytest.mark.parametrize("name", ['["a.jpg"]', " a.png", "http:x.png", 'a,b\n"c".png', "data:x.png", "c\rd.png"])
def test_a_hostile_file_name_is_still_that_files_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PNG)
    out = tmp_path / "m.csv"
    make_manifest(tmp_path, out)
    (row,) = csv.DictReader(io.StringIO(out.read_bytes().decode(), newline=""))
    (ref,) = refs(row["image"])
    assert ref.kind is ImageKind.PATH
    assert (tmp_path / ref.reference).read_bytes() == PNG


def test_a_folder_without_images_and_a_wrong_suffix_are_told(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="no image was found"):
        make_manifest(tmp_path, tmp_path / "m.csv")
    with pytest.raises(JobInvalid, match=r"ends in \.csv"):
        make_manifest(tmp_path, tmp_path / "m.xlsx")
    with pytest.raises(JobInvalid, match="is no folder"):
        make_manifest(tmp_path / "none", tmp_path / "m.csv")
    with pytest.raises(JobInvalid, match="without packing"):
        make_manifest(tmp_path, tmp_path / "m.csv.gz")
