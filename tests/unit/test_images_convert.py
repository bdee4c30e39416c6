"""Whatever is not plain becomes an upright 8-bit JPEG within the limits, or a fault of its row."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from typing import Any

import pytest
from PIL import Image, ImageDraw

from batchvision.errors import ImageTooLarge, ImageUnreadable
from batchvision.images import prepare_bytes
from batchvision.images.formats import examine, without_metadata
from batchvision.records import ImagePreparation

DEFAULT = ImagePreparation()


def two_halves(mode: str = "RGB", size: tuple[int, int] = (64, 32)) -> Image.Image:
    """Red on the left, blue on the right."""
    drawn = Image.new("RGB", size, "red")
    ImageDraw.Draw(drawn).rectangle((size[0] // 2, 0, size[0], size[1]), fill="blue")
    return drawn.convert(mode)


def noise(size: tuple[int, int]) -> Image.Image:
    return Image.effect_noise(size, 90).convert("RGB")


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, image_format, **options)
    return target.getvalue()


def exif(orientation: int) -> bytes:
    marks = Image.Exif()
    marks[0x0112] = orientation
    return marks.tobytes()


def prepared(content: bytes, preparation: ImagePreparation = DEFAULT) -> Image.Image:
    """What arrives, decoded; checks that it is a plain JPEG of the size that is told."""
    ready = prepare_bytes(content, preparation)
    assert ready.media_type == "image/jpeg"
    assert examine(ready.content).is_plain
    assert without_metadata(ready.content, examine(ready.content)) == ready.content
    assert len(ready.content) <= preparation.max_bytes
    image = Image.open(io.BytesIO(ready.content))
    assert image.size == (ready.width, ready.height)
    return image


def close_to(image: Image.Image, at: tuple[int, int], colour: tuple[int, int, int]) -> bool:
    pixel = image.convert("RGB").getpixel(at)
    assert isinstance(pixel, tuple)
    return all(abs(found - wanted) < 30 for found, wanted in zip(pixel, colour, strict=True))


# ---------------------------------------------------------------------------------- unchanged


@pytest.mark.parametrize(("name", "media_type"), [("JPEG", "image/jpeg"), ("PNG", "image/png")])
def test_plain_images_pass_byte_for_byte(name: str, media_type: str) -> None:
    content = encoded(two_halves(), name)
    assert prepare_bytes(content, DEFAULT)[:4] == (content, media_type, 64, 32)


def test_plain_images_lose_their_metadata_only_where_that_is_asked_for() -> None:
    content = encoded(two_halves(), "JPEG", exif=exif(1), comment=b"canary")
    assert prepare_bytes(content, DEFAULT).content == content
    stripped = prepare_bytes(content, ImagePreparation(strip_metadata=True))
    assert b"canary" not in stripped.content
    assert len(stripped.content) < len(content)


def test_where_metadata_cannot_be_cut_out_safely_the_image_is_converted() -> None:
    """Junk in its scan that looks like a marker: what a decoder makes of it is a picture and nothing else."""
    content = encoded(two_halves(), "JPEG", comment=b"canary")
    scan = content.index(b"\xff\xda") + 14
    content = content[:scan] + b"\xff\x01" + content[scan:]
    assert prepare_bytes(content, DEFAULT).content == content
    stripped = prepare_bytes(content, ImagePreparation(strip_metadata=True))
    assert b"canary" not in stripped.content
    assert (stripped.width, stripped.height) == (64, 32)


# ---------------------------------------------------------------------------------- converted


@pytest.mark.parametrize(
    ("image_format", "mode", "options"),
    [
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (64, 32), "green")]}),
        ("AVIF", "RGB", {}),
        ("GIF", "P", {}),
        ("GIF", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (64, 32), "green")]}),
        ("TIFF", "RGB", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("BMP", "RGB", {}),
        ("JPEG", "CMYK", {}),
        ("MPO", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (64, 32), "green")]}),
        ("PNG", "P", {}),
        ("PNG", "RGB", {"save_all": True, "append_images": [Image.new("RGB", (64, 32), "green")]}),
    ],
)
def test_every_format_and_mode_keeps_its_picture(image_format: str, mode: str, options: dict[str, Any]) -> None:
    image = prepared(encoded(two_halves(mode), image_format, **options))
    assert image.size == (64, 32)
    assert close_to(image, (10, 16), (254, 0, 0))
    assert close_to(image, (54, 16), (0, 0, 254))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_turned_image_is_set_upright(image_format: str, orientation: int) -> None:
    upright = prepared(encoded(two_halves(), image_format, exif=exif(orientation)))
    assert upright.size == ((64, 32) if orientation == 3 else (32, 64))
    red_at = {3: (54, 16), 6: (16, 10), 8: (16, 54)}[orientation]
    blue_at = {3: (10, 16), 6: (16, 54), 8: (16, 10)}[orientation]
    assert close_to(upright, red_at, (254, 0, 0))
    assert close_to(upright, blue_at, (0, 0, 254))


@pytest.mark.parametrize("image_format", ["WEBP", "GIF", "TIFF", "AVIF"])
def test_transparent_pixels_become_white(image_format: str) -> None:
    clear = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (20, 0, 40, 20))
    image = prepared(encoded(clear, image_format))
    assert close_to(image, (5, 10), (255, 255, 255))
    assert close_to(image, (35, 10), (254, 0, 0))


def test_transparency_given_as_a_colour_becomes_white_too() -> None:
    image = prepared(encoded(two_halves(), "PNG", transparency=(255, 0, 0)), ImagePreparation(max_side=40))
    assert close_to(image, (5, 10), (255, 255, 255))


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_scale(image_format: str) -> None:
    grey = Image.new("I;16", (40, 20), 0x8000)
    grey.paste(0xFFFF, (20, 0, 40, 20))
    image = prepared(encoded(grey, image_format))
    assert image.mode == "L"
    assert close_to(image, (5, 10), (128, 128, 128))
    assert close_to(image, (35, 10), (255, 255, 255))


def ramp(low: int, high: int, mode: str = "I;16") -> Image.Image:
    """256 columns of greys from ``low`` to ``high``."""
    greys = Image.new("I", (256, 40))
    for x in range(256):
        greys.paste(low + (high - low) * x // 255, (x, 0, x + 1, 40))
    return greys if mode == "I" else greys.convert(mode)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 4095), (0, 1023), (0, 16_383), (1000, 1500), (40_000, 50_000)],  # 12, 10 and 14 bits; a scan, a bright part
)
def test_sixteen_bits_that_use_a_part_of_their_range_are_stretched_over_it(
    image_format: str, low: int, high: int
) -> None:
    image = prepared(encoded(ramp(low, high), image_format)).convert("L")
    darkest, brightest = image.getextrema()
    assert darkest < 12  # type: ignore[operator]  # one band: two numbers
    assert brightest > 243  # type: ignore[operator]
    assert abs(image.getpixel((128, 20)) - 128) < 12  # type: ignore[operator]


def test_a_few_hot_pixels_do_not_decide_the_range() -> None:
    grey = ramp(0, 4095)
    for x in (3, 90):
        grey.putpixel((x, 7), 65_535)
    image = prepared(encoded(grey, "PNG")).convert("L")
    assert abs(image.getpixel((128, 20)) - 128) < 12  # type: ignore[operator]


def test_a_picture_that_uses_most_of_its_range_keeps_its_scale_and_so_does_an_even_one() -> None:
    image = prepared(encoded(ramp(10_000, 40_000), "PNG")).convert("L")
    assert abs(image.getpixel((5, 20)) - 40) < 6  # type: ignore[operator]
    assert abs(image.getpixel((250, 20)) - 153) < 6  # type: ignore[operator]
    even = prepared(encoded(Image.new("I;16", (40, 40), 3000), "PNG")).convert("L")
    assert abs(even.getpixel((20, 20)) - 12) < 3  # type: ignore[operator]


def test_noise_in_an_even_picture_is_not_made_a_picture() -> None:
    grey = Image.new("I", (64, 64), 3000)
    for x in range(0, 64, 2):
        grey.paste(3010, (x, 0, x + 1, 64))
    darkest, brightest = prepared(encoded(grey.convert("I;16"), "PNG")).convert("L").getextrema()
    assert brightest - darkest < 40  # type: ignore[operator]


def deep_colours(highest: int) -> bytes:
    """A PNG of 16-bit colours: red rises to ``highest`` from left to right, green is half of that, blue none."""
    rows = bytearray()
    for _ in range(20):
        rows += b"\0"
        for x in range(256):
            rows += struct.pack(">HHH", highest * x // 255, highest // 2, 0)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 256, 20, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("highest", "brightest"), [(4095, 255), (1023, 255), (16_383, 255), (65_535, 255), (30_000, 117)]
)
def test_sixteen_bit_colours_that_use_a_small_part_of_their_range_are_not_nearly_black(
    highest: int, brightest: int
) -> None:
    image = prepared(deep_colours(highest))
    assert close_to(image, (250, 10), (brightest * 250 // 255, brightest // 2, 0))
    assert close_to(image, (128, 10), (brightest // 2, brightest // 2, 0))


def test_float_greys_are_stretched_over_their_own_range() -> None:
    grey = Image.new("F", (40, 20), -1.5)
    grey.paste(2.5, (20, 0, 40, 20))
    image = prepared(encoded(grey, "TIFF"))
    assert close_to(image, (5, 10), (0, 0, 0))
    assert close_to(image, (35, 10), (255, 255, 255))


def test_an_even_float_grey_is_no_division_by_zero() -> None:
    assert prepared(encoded(Image.new("F", (8, 8), 0.25), "TIFF")).size == (8, 8)


def test_a_bilevel_scan_becomes_grey() -> None:
    assert prepared(encoded(two_halves("1"), "TIFF")).mode == "L"


# ---------------------------------------------------------------------------------- scaled


def test_longer_sides_are_scaled_down_in_proportion() -> None:
    image = prepared(encoded(two_halves(size=(3000, 1500)), "JPEG"), ImagePreparation(max_side=1024))
    assert image.size == (1024, 512)
    assert close_to(image, (100, 100), (254, 0, 0))


def test_a_turned_image_is_scaled_by_its_longer_side() -> None:
    image = prepared(encoded(two_halves(size=(3000, 1500)), "JPEG", exif=exif(6)), ImagePreparation(max_side=512))
    assert image.size == (256, 512)


def test_a_palette_is_scaled_smoothly() -> None:
    assert prepared(encoded(two_halves("P", (800, 400)), "PNG"), ImagePreparation(max_side=100)).size == (100, 50)


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_more_bytes_than_allowed_are_made_fewer(name: str) -> None:
    limit = ImagePreparation(max_bytes=30_000)
    image = prepared(encoded(noise((600, 400)), name), limit)
    assert image.width < 600
    assert image.width / image.height == pytest.approx(1.5, abs=0.05)


def test_an_image_that_cannot_be_made_small_enough_says_so() -> None:
    with pytest.raises(ImageTooLarge, match=r"images\.max_bytes"):
        prepare_bytes(encoded(noise((64, 64)), "PNG"), ImagePreparation(max_bytes=100))


def test_a_picture_longer_than_jpeg_allows_is_scaled() -> None:
    image = prepared(encoded(Image.new("P", (70_000, 12)), "PNG"))
    assert image.width == 65_500


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF"])
def test_more_pixels_than_allowed_are_refused_in_every_format(image_format: str) -> None:
    with pytest.raises(ImageTooLarge, match="64 x 32 is more than 2,000 pixels"):
        prepare_bytes(encoded(two_halves(), image_format), ImagePreparation(max_pixels=2000))


def test_sizes_pillow_would_warn_about_are_ours_to_allow() -> None:
    flat = encoded(Image.new("1", (10_000, 9_500)), "PNG")
    assert prepared(flat, ImagePreparation(max_side=256)).size == (256, 243)


# ---------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("image_format", ["WEBP", "GIF", "BMP", "TIFF", "AVIF", "MPO"])
def test_a_truncated_image_of_any_format_is_unreadable(image_format: str) -> None:
    options = {"save_all": True, "append_images": [noise((60, 40))]} if image_format == "MPO" else {}
    content = encoded(noise((60, 40)), image_format, **options)
    for share in (0.2, 0.5) if image_format == "MPO" else (0.1, 0.5, 0.9):
        with pytest.raises(ImageUnreadable):
            prepare_bytes(content[: int(len(content) * share)], DEFAULT)


def test_a_damaged_progressive_cmyk_does_not_crash() -> None:
    content = bytearray(encoded(noise((60, 40)).convert("CMYK"), "JPEG"))
    for at in range(300, len(content) - 2, 37):
        content[at] ^= 0x5A
    try:
        prepare_bytes(bytes(content), DEFAULT)
    except ImageUnreadable as error:
        assert error.message


def test_heic_without_its_extra_names_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageUnreadable, match=r"pip install 'batchvision\[heic\]'"):
        prepare_bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", DEFAULT)


def test_heic_is_read_where_the_extra_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif")
    target = io.BytesIO()
    heif.from_pillow(two_halves(size=(64, 64))).save(target, quality=95)
    image = prepared(target.getvalue())
    assert close_to(image, (10, 32), (254, 0, 0))
