"""What the bytes say: plain images are told from all others, and damage is seen, without decoding anything."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from batchvision.errors import ImageTooLarge, ImageUnreadable
from batchvision.images.formats import (
    ImageFormat,
    ImageHeader,
    check_pixels,
    examine,
    exif_orientation,
    sniff,
    without_metadata,
)
from batchvision.records import ImagePreparation


def picture(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    drawn = Image.new("RGB", size, "white")
    ImageDraw.Draw(drawn).ellipse((4, 4, size[0] - 4, size[1] - 4), fill="orange", outline="navy")
    return drawn.convert(mode)


def encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, image_format, **options)
    return target.getvalue()


def exif(orientation: int) -> bytes:
    marks = Image.Exif()
    marks[0x0112] = orientation
    return marks.tobytes()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


JPEG = encoded(picture(), "JPEG")
PNG = encoded(picture(), "PNG")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("JPEG", ImageFormat.JPEG),
        ("PNG", ImageFormat.PNG),
        ("WEBP", ImageFormat.WEBP),
        ("GIF", ImageFormat.GIF),
        ("BMP", ImageFormat.BMP),
        ("TIFF", ImageFormat.TIFF),
        ("AVIF", ImageFormat.AVIF),
    ],
)
def test_each_format_is_recognised_by_its_content(name: str, expected: ImageFormat) -> None:
    header = examine(encoded(picture(), name))
    assert header.format is expected
    assert header.is_plain is (name in ("JPEG", "PNG"))
    if header.width is not None:
        assert (header.width, header.height) == (48, 32)


def test_heic_differs_from_avif_by_its_brands() -> None:
    assert sniff(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic") is ImageFormat.HEIC
    assert sniff(b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic") is ImageFormat.HEIC
    assert sniff(b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1avif") is ImageFormat.AVIF
    assert sniff(b"\x00\x00\x00\x18ftypisom\x00\x00\x00\x00isommp41") is None


@pytest.mark.parametrize("options", [{"lossless": True}, {"lossless": False}, {"exif": exif(6)}])
def test_the_size_of_a_webp_is_read_from_each_of_its_three_headers(options: dict[str, Any]) -> None:
    header = examine(encoded(picture(), "WEBP", **options))
    assert (header.width, header.height) == (48, 32)


# ---------------------------------------------------------------------------------- plain or not


@pytest.mark.parametrize(
    "content",
    [
        JPEG,
        PNG,
        encoded(picture("L"), "JPEG"),
        encoded(picture("L"), "PNG"),
        encoded(picture(), "JPEG", progressive=True),
        encoded(picture(), "JPEG", exif=exif(1)),
        encoded(picture(), "JPEG", comment=b"hello"),
        encoded(picture(), "PNG", exif=exif(1)),
        encoded(picture("RGBA"), "PNG"),
        encoded(picture("LA"), "PNG"),
        encoded(picture(), "PNG", transparency=(255, 255, 255)),
        encoded(picture("L"), "PNG", transparency=255),
        encoded(picture("P"), "PNG", transparency=0),
        encoded(picture().quantize(4), "PNG", transparency=0),
    ],
)
def test_whole_upright_grey_and_rgb_images_are_plain_and_so_are_pngs_with_transparency(content: bytes) -> None:
    header = examine(content)
    assert header.is_plain
    assert (header.width, header.height) == (48, 32)


@pytest.mark.parametrize(
    "content",
    [
        encoded(picture("CMYK"), "JPEG"),
        encoded(picture(), "JPEG", exif=exif(6)),
        encoded(picture(), "MPO", save_all=True, append_images=[picture()]),
        JPEG + b"a trailer",
        encoded(picture("P"), "PNG"),
        encoded(picture("RGBA"), "PNG", exif=exif(6)),
        encoded(picture("RGBA"), "PNG", save_all=True, append_images=[picture("L").convert("RGBA")]),
        encoded(picture().quantize(4), "PNG"),
        encoded(picture("1"), "PNG"),
        encoded(picture("I;16"), "PNG"),
        encoded(picture(), "PNG", exif=exif(8)),
        encoded(picture(), "PNG", save_all=True, append_images=[picture("L").convert("RGB")]),
        PNG + b"a trailer",
    ],
)
def test_other_images_are_not_plain(content: bytes) -> None:
    assert not examine(content).is_plain


# ---------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("content", [JPEG, PNG], ids=["jpeg", "png"])
def test_an_image_cut_anywhere_is_unreadable(content: bytes) -> None:
    for length in range(len(content)):
        with pytest.raises(ImageUnreadable):
            examine(content[:length])


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"quality": 95}, {"subsampling": 0}, {"comment": b"made by hand"}])
def test_a_common_jpeg_is_plain_and_has_its_size(mode: str, options: dict[str, Any]) -> None:
    header = examine(encoded(picture(mode), "JPEG", **options))
    assert header == ImageHeader(ImageFormat.JPEG, 48, 32, is_plain=True)


def test_the_end_marker_of_a_thumbnail_is_not_taken_for_the_end() -> None:
    with_thumbnail = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(JPEG) + 2) + JPEG + JPEG[2:]
    assert examine(with_thumbnail).is_plain
    with pytest.raises(ImageUnreadable, match="no end marker"):
        examine(with_thumbnail[:-10])


def test_a_flipped_bit_in_a_png_is_seen_by_its_checksum() -> None:
    damaged = bytearray(PNG)
    damaged[PNG.index(b"IDAT") + 10] ^= 1
    with pytest.raises(ImageUnreadable, match=r"IDAT.*checksum"):
        examine(bytes(damaged))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"%PDF-1.7", "PDF"),
        (b"\n <!DOCTYPE html><html>", "HTML"),
        (b"<svg xmlns=''/>", "SVG"),
        (b'{"error": "no"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x00\x01\x02", "unknown format"),
        (b"\xff\xd8\xff\xd9", "damaged|truncated"),
        (b"\xff\xd8\xff\xe0\x00\x00\x00\x00", "no length"),
        (JPEG[:2] + JPEG[JPEG.index(b"\xff\xda") :], "no frame header"),
        (PNG[:8] + chunk(b"IEND", b""), "no header or no picture"),
    ],
)
def test_files_that_are_no_images_are_named(content: bytes, says: str) -> None:
    with pytest.raises(ImageUnreadable, match=says):
        examine(content)


@given(
    st.sampled_from([JPEG[:64], PNG[:33], b"RIFF\0\0\0\0WEBPVP8X", b"GIF89a", b"II*\0", b""]), st.binary(max_size=200)
)
def test_no_bytes_do_more_than_be_unreadable(start: bytes, rest: bytes) -> None:
    try:
        examine(start + rest)
    except ImageUnreadable as error:
        assert error.message


@given(st.binary(max_size=120))
def test_damaged_exif_means_upright(raw: bytes) -> None:
    assert 1 <= exif_orientation(b"Exif\x00\x00II*\x00" + raw) <= 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_read(orientation: int) -> None:
    assert examine(encoded(picture(), "JPEG", exif=exif(orientation))).orientation == orientation
    assert exif_orientation(b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00") == 6


def test_more_pixels_than_allowed_are_refused_with_the_next_step() -> None:
    check_pixels(1000, 1000, ImagePreparation(max_pixels=1_000_000))
    check_pixels(None, None, ImagePreparation(max_pixels=1))
    with pytest.raises(ImageTooLarge, match=r"images\.max_pixels"):
        check_pixels(1000, 1001, ImagePreparation(max_pixels=1_000_000))


# ---------------------------------------------------------------------------------- stripping


@pytest.mark.parametrize("name", ["JPEG", "PNG"])
def test_metadata_is_removed_and_the_bytes_of_the_picture_stay(name: str) -> None:
    gps = Image.Exif()
    gps.get_ifd(0x8825)[1] = "N"
    gps[0x010E] = "canary"
    content = encoded(picture(), name, exif=gps.tobytes(), icc_profile=b"a profile")
    stripped = without_metadata(content, examine(content))
    assert b"canary" in content
    assert b"canary" not in stripped
    assert examine(stripped).is_plain
    with Image.open(io.BytesIO(stripped)) as left, Image.open(io.BytesIO(content)) as before:
        assert left.tobytes() == before.tobytes()
        assert left.info.get("icc_profile") == b"a profile"
        assert not left.getexif()


def with_comment_between_scans(note: bytes) -> bytes:
    content = encoded(picture(), "JPEG", progressive=True)
    scan = content.index(b"\xff\xda", content.index(b"\xff\xda") + 2)
    return content[:scan] + b"\xff\xfe" + struct.pack(">H", 2 + len(note)) + note + content[scan:]


@pytest.mark.parametrize(
    "content",
    [
        with_comment_between_scans(b"canary"),
        PNG[:33] + chunk(b"gpSx", b"canary") + PNG[33:],
        PNG[:33] + chunk(b"caBX", b"canary") + PNG[33:],
        encoded(picture(), "JPEG", comment=b"canary"),
    ],
)
def test_metadata_of_each_kind_is_removed_at_each_position(content: bytes) -> None:
    header = examine(content)
    assert header.is_plain
    assert b"canary" in content
    stripped = without_metadata(content, header)
    assert b"canary" not in stripped
    assert examine(stripped).is_plain
    with Image.open(io.BytesIO(stripped)) as left, Image.open(io.BytesIO(content)) as before:
        assert left.tobytes() == before.tobytes()


@pytest.mark.parametrize("tail", [b"<script>canary</script>\xff\xd9", encoded(picture(), "JPEG", comment=b"canary")])
def test_bytes_after_the_end_of_a_jpeg_are_removed(tail: bytes) -> None:
    """A second picture behind the first, with its own GPS, ends like a picture that is whole."""
    assert examine(JPEG + tail).is_plain
    assert without_metadata(JPEG + tail, examine(JPEG + tail)) == without_metadata(JPEG, examine(JPEG))


@given(st.binary(max_size=60))
def test_stripping_gives_a_plain_picture_or_nothing(junk: bytes) -> None:
    scan = JPEG.index(b"\xff\xda")
    content = JPEG[: scan + 40] + junk + JPEG[scan + 40 :]
    try:
        stripped = without_metadata(content, examine(content))
    except ImageUnreadable:
        return
    assert examine(stripped).is_plain


@pytest.mark.parametrize(
    "content",
    [
        JPEG[:2] + b"\xff\xe2\x00\x02" * 70_000 + JPEG[2:],
        JPEG[:2] + b"\xff" * 70_000 + JPEG[2:],
        JPEG[:2] + b"\xff\x01a" * 70_000 + JPEG[2:],
        PNG[:33] + chunk(b"abCd", b"") * 70_000 + PNG[33:],
    ],
    ids=["segments", "fill bytes", "junk", "chunks"],
)
def test_a_header_in_countless_pieces_is_not_read_to_its_end(content: bytes) -> None:
    with pytest.raises(ImageUnreadable, match="more than 65,536"):
        examine(content)
