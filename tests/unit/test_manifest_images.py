"""Image cells of every shape, and manifests made of folders."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.errors import JobInvalid
from batchvision.manifest import in_words, make_manifest
from batchvision.manifest.cells import JsonCells
from batchvision.manifest.image_cells import image_refs, named_image, reject_no_images
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
        ("s3://bucket/a.jpg", [("object", "s3://bucket/a.jpg")]),
        ("ftp://host/a.jpg", [("unsupported", "ftp://host/a.jpg")]),
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


@given(
    st.lists(
        st.sampled_from(["data:image/png;base64,AA==", "https://h/b.jpg", "HTTP://h/c", ",", ";", " ", "\n", "A"])
    ),
    st.sampled_from([",", ";", " ", "\n", "  "]),
)
def test_a_data_uri_ends_where_another_image_begins(parts: list[str], separator: str) -> None:
    """The pattern is the plain rule; it takes quadratic time for blanks."""
    text = "data:image/png;base64,AA==" + "".join(parts)
    cut = re.split(rf"{re.escape(separator)}\s*(?=data:|https?://)", text, flags=re.IGNORECASE)
    assert refs(text, separator=separator) == refs_of_pieces(cut)


def refs_of_pieces(pieces: list[str]) -> tuple[ImageRef, ...]:
    return tuple(named_image(piece, "front") for piece in pieces if piece.strip())


def test_a_million_blanks_behind_a_data_uri_are_looked_at_once() -> None:
    """A pattern that looks again from each of them would not end."""
    uri = "data:image/png;base64,AA=="
    cell = f"{uri}{' ' * 1_000_000}x {uri}"
    assert named(*refs(cell, separator=" "))[-1] == ("data", uri)


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


def listed(out: Path) -> list[tuple[str, str]]:
    """The ids and images of a manifest in any form."""
    if out.suffix == ".parquet":
        rows = pq.read_table(out).to_pylist()
    elif out.suffix == ".jsonl":
        rows = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        text = io.StringIO(out.read_bytes().decode(), newline="")
        rows = list(csv.DictReader(text, delimiter="\t" if out.suffix == ".tsv" else ","))
    return [(row["id"], row["image"]) for row in rows]


IDS = ["a", "b", "no_suffix", "sub/a", "twin.jpg", "twin.png"]
IMAGES = [f"photos/{name}" for name in ("a.png", "b.png", "no_suffix", "sub/a.png", "twin.jpg", "twin.png")]


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.parquet"])
def test_a_folder_becomes_a_manifest_in_every_form(photos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    assert make_manifest(photos, out) == 6
    assert listed(out) == list(zip(IDS, IMAGES, strict=True))
    before = out.read_bytes()
    make_manifest(photos, out)
    assert out.read_bytes() == before
    assert not list(tmp_path.glob(".*.new"))


@pytest.mark.parametrize("name", ["m.csv", "m.tsv", "m.jsonl", "m.parquet"])
def test_an_image_keeps_the_id_that_the_manifest_has_for_it(tmp_path: Path, name: str) -> None:
    folder, out = tmp_path / "photos", tmp_path / name
    folder.mkdir()
    (folder / "a.jpg").write_bytes(PNG)
    (folder / "z.jpg").write_bytes(PNG)
    make_manifest(folder, out)
    assert listed(out) == [("a", "photos/a.jpg"), ("z", "photos/z.jpg")]
    (folder / "a.png").write_bytes(PNG)  # alone it would be a, too
    (folder / "z.jpg").unlink()
    (folder / "b.webp").write_bytes(PNG)
    make_manifest(folder, out)
    assert listed(out) == [("a", "photos/a.jpg"), ("a.png", "photos/a.png"), ("b", "photos/b.webp")]
    (folder / "a.jpg").unlink()
    make_manifest(folder, out)
    assert listed(out) == [("a.png", "photos/a.png"), ("b", "photos/b.webp")]


def test_ids_that_a_person_has_given_stay_and_no_new_one_is_like_them(tmp_path: Path) -> None:
    out = tmp_path / "m.csv"
    for name in ("a.png", "b.png", "b.jpg", "c.png"):
        (tmp_path / name).write_bytes(PNG)
    out.write_text("id,image,title\nb.png,a.png,one\nb.jpg,c.png,two\n")
    make_manifest(tmp_path, out)
    assert listed(out) == [("b.png", "a.png"), ("b.jpg-2", "b.jpg"), ("b.png-2", "b.png"), ("b.jpg", "c.png")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.csv", "sku,photo\n1,a.png\n", "has no column 'id'"),
        ("m.jsonl", "{]", "not valid JSON"),
        ("m.csv", "id,image\nx,a.png\nx,b.png\n", "has an id twice"),
    ],
)
def test_a_file_that_is_no_manifest_is_not_replaced(tmp_path: Path, name: str, content: str, words: str) -> None:
    for image in ("a.png", "b.png"):
        (tmp_path / image).write_bytes(PNG)
    (tmp_path / name).write_text(content)
    with pytest.raises(JobInvalid, match=words):
        make_manifest(tmp_path, tmp_path / name)
    assert (tmp_path / name).read_text() == content


def test_skipped_files_are_counted_by_suffix(photos: Path, tmp_path: Path) -> None:
    for name in ("read.me", "a.PDF", "b.pdf", "sub/c.pdf", "LICENSE"):
        (photos / name).write_text("words")
    skipped = Counter[str]()
    make_manifest(photos, tmp_path / "m.csv", skipped)
    assert skipped == {".pdf": 3, ".png": 2, ".me": 1, "": 1}  # .png: one is empty, one holds text
    assert in_words(skipped) == "3 .pdf, 2 .png, 1 without a suffix, 1 .me"
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("words")
    with pytest.raises(JobInvalid, match=r"no image was found in .* There are 1 \.txt\."):
        make_manifest(tmp_path / "words", tmp_path / "n.csv")


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


def test_a_folder_without_images_and_a_wrong_suffix_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobInvalid, match="no image was found"):
        make_manifest(tmp_path, tmp_path / "m.csv")
    with pytest.raises(JobInvalid, match=r"ends in \.csv"):
        make_manifest(tmp_path, tmp_path / "m.xlsx")
    with pytest.raises(JobInvalid, match="is no folder"):
        make_manifest(tmp_path / "none", tmp_path / "m.csv")
    with pytest.raises(JobInvalid, match="without packing"):
        make_manifest(tmp_path, tmp_path / "m.csv.gz")
