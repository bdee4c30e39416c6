"""Size, format and colours of images, and damage."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from batchvision.emulator.pixels import NotAnImage, PictureMemory, colour_name, look


def encoded(form: str, mode: str = "RGB", colour: object = "red", size: tuple[int, int] = (64, 48)) -> bytes:
    target = io.BytesIO()
    Image.new(mode, size, colour).save(target, form)  # type: ignore[arg-type]
    return target.getvalue()


@pytest.mark.parametrize(("form", "media_type"), [("JPEG", "image/jpeg"), ("PNG", "image/png")])
def test_size_format_and_colour_are_seen(form: str, media_type: str) -> None:
    picture = look(encoded(form), "0" * 64)
    assert (picture.width, picture.height, picture.format, picture.media_type) == (64, 48, form, media_type)
    assert picture.colours == ("red",)


def test_webp_and_gif_are_seen_too() -> None:
    assert look(encoded("WEBP"), "").media_type == "image/webp"
    assert look(encoded("GIF", "P", 0), "").media_type == "image/gif"


def test_two_colours_are_named_where_two_matter() -> None:
    image = Image.new("RGB", (90, 30), "white")
    image.paste("red", (0, 0, 60, 30))
    target = io.BytesIO()
    image.save(target, "PNG")
    assert look(target.getvalue(), "").colours == ("red", "white")


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (0, 0, 0, 0)), ("LA", (255, 0)), ("L", 255), ("1", 1)])
def test_transparent_and_grey_modes_are_seen(mode: str, colour: object) -> None:
    assert look(encoded("PNG", mode, colour), "").colours == ("white",)


def test_sixteen_bit_images_are_seen() -> None:
    assert look(encoded("PNG", "I;16", 40000), "").width == 64


def test_a_cut_image_is_no_image() -> None:
    noise = Image.effect_noise((300, 200), 60).convert("RGB")
    for form in ("JPEG", "PNG"):
        target = io.BytesIO()
        noise.save(target, form)
        whole = target.getvalue()
        assert look(whole, "").width == 300
        with pytest.raises(NotAnImage):
            look(whole[: len(whole) // 2], "")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0" + b"\0" * 50])
def test_other_bytes_are_no_image(content: bytes) -> None:
    with pytest.raises(NotAnImage):
        look(content, "")


def test_the_same_bytes_are_decoded_once() -> None:
    memory = PictureMemory()
    content = encoded("PNG")
    assert memory.look(content) is memory.look(bytes(content))
    assert memory.look(content).sha256[:8] != memory.look(encoded("PNG", colour="blue")).sha256[:8]


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((0, 0, 0), "black"),
        ((250, 250, 250), "white"),
        ((128, 128, 128), "grey"),
        ((255, 0, 0), "red"),
        ((255, 140, 0), "orange"),
        ((120, 70, 20), "brown"),
        ((255, 230, 0), "yellow"),
        ((0, 160, 0), "green"),
        ((0, 200, 220), "cyan"),
        ((20, 40, 220), "blue"),
        ((120, 20, 200), "purple"),
        ((255, 20, 150), "pink"),
        ((255, 150, 150), "pink"),
        ((200, 0, 20), "red"),
    ],
)
def test_colours_have_plain_names(rgb: tuple[int, int, int], name: str) -> None:
    assert colour_name(*rgb) == name
