"""The sample images are what their names say, show what the tool handles, and can be sent."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from batchvision.images import prepare_bytes
from batchvision.images.formats import ImageFormat, examine
from batchvision.records import ImagePreparation
from batchvision.samples import write_samples


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_samples(tmp_path_factory.mktemp("samples") / "made" / "here")


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents_of(manifest: Path) -> list[bytes]:
    return [(manifest.parent / row["image"]).read_bytes() for row in rows_of(manifest)]


def test_the_manifest_names_every_image_once(manifest: Path) -> None:
    rows = rows_of(manifest)
    assert list(rows[0]) == ["id", "image", "title"]
    assert len({row["id"] for row in rows}) == len(rows) == 9
    assert {row["image"] for row in rows} == {path.name for path in manifest.parent.iterdir()} - {manifest.name}
    assert len(set(contents_of(manifest))) == 9


def test_they_are_jpeg_png_one_webp_and_one_turned_on_its_side(manifest: Path) -> None:
    headers = [examine(content) for content in contents_of(manifest)]
    formats = [header.format for header in headers]
    assert formats.count(ImageFormat.WEBP) == 1
    assert {ImageFormat.JPEG, ImageFormat.PNG} < set(formats)
    assert [header.orientation for header in headers if header.orientation != 1] == [6]


def test_every_sample_can_be_sent_and_arrives_upright(manifest: Path) -> None:
    for content in contents_of(manifest):
        ready = prepare_bytes(content, ImagePreparation())
        assert (ready.width, ready.height) == (640, 480)
        assert len(ready.content) < 100_000
