"""What is transparent keeps its contrast: sent as it is, or on the ground that shows it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image, ImageDraw

from batchvision.images import prepare_bytes
from batchvision.images.formats import examine, without_metadata
from batchvision.records import ImagePreparation

SMALLER = ImagePreparation(max_side=60)  #: an image of 80 x 40 has to be converted


def writing(colour: tuple[int, ...], mode: str = "RGBA", size: tuple[int, int] = (80, 40)) -> Image.Image:
    """A bar of ``colour`` in the middle of nothing."""
    drawn = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(drawn).rectangle((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill=colour)
    return drawn if mode == "RGBA" else drawn.convert(mode)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, image_format, **options)
    return target.getvalue()


def ground_and_bar(content: bytes, **settings: Any) -> tuple[int, int]:
    """How bright the corner and the middle of what is sent are."""
    ready = prepare_bytes(content, ImagePreparation(**settings))
    assert ready.media_type == "image/jpeg"
    image = Image.open(io.BytesIO(ready.content)).convert("L")
    corner, middle = image.getpixel((2, 2)), image.getpixel((image.width // 2, image.height // 2))
    assert isinstance(corner, int)
    assert isinstance(middle, int)
    return corner, middle


@pytest.mark.parametrize(
    "content",
    [
        encoded(writing((255, 255, 255, 255)), "PNG"),
        encoded(writing((255, 255, 255, 255), "LA"), "PNG"),
        encoded(writing((255, 0, 0, 255)).quantize(8), "PNG"),
        encoded(writing((255, 0, 0, 255)).convert("RGB"), "PNG", transparency=(0, 0, 0)),
    ],
)
def test_a_png_with_transparency_is_sent_byte_for_byte(content: bytes) -> None:
    assert prepare_bytes(content, ImagePreparation())[:2] == (content, "image/png")


def test_metadata_is_cut_out_of_a_transparent_png_and_its_transparency_is_not() -> None:
    content = encoded(writing((255, 0, 0, 255)).quantize(8), "PNG", exif=Image.Exif())
    stripped = without_metadata(content, examine(content))
    assert (
        Image.open(io.BytesIO(stripped)).convert("RGBA").tobytes()
        == writing((255, 0, 0, 255)).quantize(8).convert("RGBA").tobytes()
    )


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "TIFF", "AVIF", "GIF"])
@pytest.mark.parametrize(
    ("colour", "is_ground_white"),
    [
        ((255, 255, 255, 255), False),  # the white writing that was lost on white
        ((0, 0, 0, 255), True),
        ((235, 235, 200, 255), False),
        ((120, 120, 120, 255), True),  # either would do
        ((200, 30, 30, 255), True),
    ],
)
def test_the_background_keeps_the_contrast(image_format: str, colour: tuple[int, ...], is_ground_white: bool) -> None:
    corner, middle = ground_and_bar(encoded(writing(colour), image_format), max_side=60)
    assert (corner > 240) is is_ground_white
    assert (corner < 15) is not is_ground_white
    assert abs(corner - middle) > 100


def test_faint_shadows_do_not_decide_the_background() -> None:
    drawn = writing((250, 250, 250, 255))
    ImageDraw.Draw(drawn).rectangle((0, 32, 80, 40), fill=(0, 0, 0, 40))
    corner, middle = ground_and_bar(encoded(drawn, "WEBP", lossless=True))
    assert corner < 15
    assert middle > 240


@pytest.mark.parametrize(("background", "corner"), [("white", 255), ("black", 0)])
@pytest.mark.parametrize("colour", [(255, 255, 255, 255), (0, 0, 0, 255)])
def test_the_job_may_name_the_background(background: str, corner: int, colour: tuple[int, ...]) -> None:
    found, _ = ground_and_bar(encoded(writing(colour), "WEBP", lossless=True), background=background)
    assert abs(found - corner) < 10


def test_an_image_with_nothing_to_see_is_white() -> None:
    corner, middle = ground_and_bar(encoded(Image.new("RGBA", (80, 40), (9, 9, 9, 0)), "WEBP", lossless=True))
    assert min(corner, middle) > 240


def test_a_large_picture_is_looked_at_as_a_whole() -> None:
    drawn = Image.new("RGBA", (400, 1000), (0, 0, 0, 0))
    ImageDraw.Draw(drawn).rectangle((0, 960, 400, 1000), fill=(255, 255, 255, 255))
    ready = prepare_bytes(encoded(drawn, "WEBP", lossless=True), ImagePreparation())
    image = Image.open(io.BytesIO(ready.content)).convert("L")
    assert image.getpixel((200, 100)) < 15  # type: ignore[operator]  # one band
    assert image.getpixel((200, 980)) > 240  # type: ignore[operator]
