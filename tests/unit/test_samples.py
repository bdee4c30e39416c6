"""The sample images are drawn the same every time, are what their names say, and show what the tool handles."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image

from batchvision.images import prepare_bytes
from batchvision.images.formats import ImageFormat, examine
from batchvision.records import ImagePreparation
from batchvision.samples import SAMPLES, draw_samples


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_samples(tmp_path_factory.mktemp("samples") / "made" / "here")


def test_the_manifest_names_every_image_once(manifest: Path) -> None:
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "image", "title"]
    assert len({row["id"] for row in rows}) == len(rows) == len(SAMPLES)
    assert {row["image"] for row in rows} == {path.name for path in manifest.parent.iterdir()} - {"photos.csv"}


def test_drawing_again_gives_the_same_bytes(manifest: Path, tmp_path: Path) -> None:
    draw_samples(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in manifest.parent.iterdir()
    }


def test_they_are_jpeg_png_one_webp_and_one_turned_on_its_side(manifest: Path) -> None:
    headers = [examine((manifest.parent / sample.image).read_bytes()) for sample in SAMPLES]
    formats = [header.format for header in headers]
    assert formats.count(ImageFormat.WEBP) == 1
    assert {ImageFormat.JPEG, ImageFormat.PNG} < set(formats)
    assert [header.orientation for header in headers if header.orientation != 1] == [6]


def test_every_sample_can_be_sent_and_arrives_upright(manifest: Path) -> None:
    for sample in SAMPLES:
        ready = prepare_bytes((manifest.parent / sample.image).read_bytes(), ImagePreparation())
        assert (ready.width, ready.height) == (640, 480), sample.image
        assert len(ready.content) < 100_000


def test_no_two_samples_look_alike(manifest: Path) -> None:
    thumbnails = [Image.open(manifest.parent / sample.image).convert("RGB").resize((8, 8)) for sample in SAMPLES]
    assert len({thumbnail.tobytes() for thumbnail in thumbnails}) == len(SAMPLES)
