"""Examine an image by its bytes alone. File names and media types are ignored, and nothing is decoded.

A *plain* image may be sent byte for byte: a whole, single-frame, upright, 8-bit grey or RGB JPEG or PNG. A PNG may have
transparent pixels, also in its palette: every provider takes them, and a JPEG cannot hold them.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Literal, NamedTuple

from batchvision.errors import ImageTooLarge, ImageUnreadable
from batchvision.records import ImagePreparation


class ImageFormat(StrEnum):
    """The formats that are read; the first two are the ones providers take."""

    JPEG = "jpeg"
    PNG = "png"
    WEBP = "webp"
    GIF = "gif"
    BMP = "bmp"
    TIFF = "tiff"
    AVIF = "avif"
    HEIC = "heic"  #: with the extra ``heic``


class ImageHeader(NamedTuple):
    """Facts of an image that is not decoded. Sizes are ``None`` where only a decoder can read them cheaply."""

    format: ImageFormat
    width: int | None = None
    height: int | None = None
    is_plain: bool = False
    orientation: int = 1  #: EXIF: 1 is upright


#: A segment of a JPEG header: marker, start and end. Its content begins 4 bytes after the start. Junk between two
#: segments, which decoders skip, has the marker ``JUNK``.
JpegSegment = tuple[int, int, int]
JUNK = 0


class PngChunk(NamedTuple):
    """One PNG chunk ``[start:end]``, its kind, and where its content begins."""

    kind: bytes
    start: int
    content: int
    end: int


class Converted(NamedTuple):
    """A converted image: a JPEG and its size. ``pages`` counts the pages or frames of its source.

    ``channels`` counts the channels of the source where some cannot be shown; otherwise it is 0.
    """

    content: bytes
    width: int
    height: int
    pages: int = 1
    channels: int = 0


PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_END = b"\xff\xd9"
_PNG_TEXTS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_PNG_KEPT = frozenset(
    {b"IHDR", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"sBIT", b"pHYs", b"cICP", b"PLTE", b"tRNS"}
)
_JPEG_FRAMES = frozenset({0xC0, 0xC1, 0xC2})  # baseline, extended, progressive: every decoder reads them
_JPEG_ODD_FRAMES = frozenset({0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
#: Markers that are followed by a length.
_WITH_LENGTH = frozenset(range(0x02, 0xFF)) - frozenset({*range(0xD0, 0xD9), 0xD9})
_segment_head = struct.Struct(">BBH").unpack_from
_frame_head = struct.Struct(">BHHB").unpack_from  # precision, height, width, components
#: Markers between the scans of a JPEG: tables, restarts, lines, comments, another scan, the end.
_BETWEEN_SCANS = frozenset({0xC4, 0xCC, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
#: A header of more segments, or a PNG of more chunks, is an attack on the processor's time.
_MAX_SEGMENTS = 65_536
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
#: Common files that are no images, by their first bytes.
_IMPOSTORS = (
    (b"%PDF", "a PDF document"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document (SVG?)"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"{", "JSON text"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"version https://git-lfs", "a Git LFS pointer; run: git lfs pull"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP", "JPEG 2000"),
    (b"8BPS", "a Photoshop document"),
)
_UNKNOWN = "an unknown format (read are JPEG, PNG, WebP, AVIF, GIF, TIFF, BMP and, with the extra, HEIC)"


def sniff(content: bytes) -> ImageFormat | None:
    """The format by magic bytes, or ``None``."""
    if content.startswith(b"\xff\xd8\xff"):
        return ImageFormat.JPEG
    if content.startswith(PNG_SIGNATURE):
        return ImageFormat.PNG
    if content.startswith((b"GIF87a", b"GIF89a")):
        return ImageFormat.GIF
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return ImageFormat.WEBP
    if content.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return ImageFormat.TIFF
    if content.startswith(b"BM"):
        return ImageFormat.BMP
    if content[4:8] == b"ftyp":
        end = min(int.from_bytes(content[:4], "big"), 256, len(content))
        brands = {content[8:12], *(content[at : at + 4] for at in range(16, end - 3, 4))}
        if brands & _AVIF_BRANDS:
            return ImageFormat.AVIF
        return ImageFormat.HEIC if brands & _HEIC_BRANDS else None
    return None


def examine(content: bytes) -> ImageHeader:
    """The header of an image. Raises ImageUnreadable for bytes that are no image, or only a part of one."""
    if not content:
        raise ImageUnreadable("the image is empty (0 bytes)")
    match sniff(content):
        case None:
            start = content[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
            known = (name for magic, name in _IMPOSTORS if start.startswith(magic.lower()))
            raise ImageUnreadable(f"not an image: it looks like {next(known, _UNKNOWN)}")
        case ImageFormat.JPEG:
            return _examine_jpeg(content)
        case ImageFormat.PNG:
            return _examine_png(content)
        case ImageFormat.WEBP:
            return ImageHeader(ImageFormat.WEBP, *_webp_size(content))
        case ImageFormat.GIF:
            return ImageHeader(ImageFormat.GIF, *_little_size(content[6:10], 2))
        case other:
            return ImageHeader(other)


# ---------------------------------------------------------------------------------- JPEG


def _jpeg_segments(content: bytes, at: int = 2) -> Iterator[JpegSegment]:
    """The segments up to and including the next start of scan (DA)."""
    last = len(content) - 4
    for _ in range(_MAX_SEGMENTS):
        if not 0 <= at <= last:
            raise ImageUnreadable("truncated JPEG: it ends inside its header")
        lead, marker, length = _segment_head(content, at)
        if lead != 0xFF:
            start, at = at, content.find(b"\xff", at)
            yield JUNK, start, at
        elif marker in _WITH_LENGTH:
            end = at + 2 + length
            if length < 2:
                raise ImageUnreadable("damaged JPEG: a segment has no length")
            yield marker, at, end
            if marker == 0xDA:
                return
            at = end
        elif marker == 0xD9:
            raise ImageUnreadable("damaged JPEG: it ends before its picture begins")
        else:
            at += 1 if marker == 0xFF else 2  # a fill byte; a marker without a length; an FF that is no marker
    raise ImageUnreadable(f"damaged JPEG: its header has more than {_MAX_SEGMENTS:,} pieces")


def _examine_jpeg(content: bytes) -> ImageHeader:
    frame = scan = 0
    kind, orientation, is_single, is_clean = 0, 1, True, True
    for marker, start, end in _jpeg_segments(content):
        if marker in _JPEG_FRAMES or marker in _JPEG_ODD_FRAMES:
            kind, frame = marker, start + 4
        elif marker == 0xE1 and content.startswith(b"Exif\x00\x00", start + 4):
            orientation = exif_orientation(content[start + 4 : end])
        elif marker == 0xE2 and content.startswith(b"MPF\x00", start + 4):
            is_single = False  # an MPO: more pictures follow the first
        elif marker == JUNK:
            is_clean = False
        scan = end
    if not frame:
        raise ImageUnreadable("damaged JPEG: it has no frame header")
    ends_well = scan <= len(content) - 2 and content.endswith(JPEG_END)
    if not ends_well and content.find(JPEG_END, scan) < 0:  # in a scan 00 follows each FF, so there is no false end
        raise ImageUnreadable("truncated JPEG: it has no end marker")
    precision, height, width, components = _frame_head(content, frame)
    return ImageHeader(
        ImageFormat.JPEG,
        width,
        height,
        is_plain=(
            kind in _JPEG_FRAMES
            and precision == 8
            and components in (1, 3)
            and orientation == 1
            and is_single
            and is_clean
            and ends_well
            and width > 0 < height
        ),
        orientation=orientation,
    )


def _is_jpeg_metadata(content: bytes, marker: int, at: int) -> bool:
    """Whether no decoder needs a segment: an application segment other than JFIF, Adobe and ICC profile,
    or a comment. ``at``: where its content begins."""
    if marker == 0xE0:
        return not content.startswith(b"JFIF\x00", at)
    if marker == 0xE2:
        return not content.startswith(b"ICC_PROFILE\x00", at)
    return (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE


# ---------------------------------------------------------------------------------- PNG


def _png_chunks(content: bytes) -> Iterator[PngChunk]:
    """All chunks up to IEND, each checked against its checksum."""
    view = memoryview(content)
    at, pieces = len(PNG_SIGNATURE), 0
    while at + 12 <= len(content):
        if (pieces := pieces + 1) > _MAX_SEGMENTS:
            raise ImageUnreadable(f"a PNG of more than {_MAX_SEGMENTS:,} chunks: save it again")
        end = at + 12 + int.from_bytes(content[at : at + 4], "big")
        kind = content[at + 4 : at + 8]
        if end > len(content):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end], "big"):
            raise ImageUnreadable(f"damaged PNG: chunk {kind!r} does not match its checksum")
        yield PngChunk(kind, at, at + 8, end)
        if kind == b"IEND":
            return
        at = end
    raise ImageUnreadable("truncated PNG: it ends before IEND")


def _examine_png(content: bytes) -> ImageHeader:
    kinds: set[bytes] = set()
    orientation, end, start, has_profile = 1, 0, b"", False
    for segment in _png_chunks(content):
        if not kinds:
            start = content[segment.content : segment.end - 4] if segment.kind == b"IHDR" else b""
        if segment.kind in _PNG_TEXTS and content.startswith(b"Raw profile type ", segment.content):
            has_profile = True
        if segment.kind == b"eXIf":
            orientation = exif_orientation(content[segment.content : segment.end - 4])
        kinds.add(segment.kind)
        end = segment.end
    if len(start) != 13 or b"IDAT" not in kinds:
        raise ImageUnreadable("damaged PNG: it has no header or no picture")
    width, height = struct.unpack(">II", start[:8])
    depth, colour, compression, filtering, interlace = start[8:]
    return ImageHeader(
        ImageFormat.PNG,
        width,
        height,
        is_plain=(
            _is_plain_png_colour(depth, colour, kinds)
            and (compression, filtering) == (0, 0)
            and interlace < 2
            and b"acTL" not in kinds
            and orientation == 1
            and not has_profile  # ImageMagick's form of EXIF
            and end == len(content)
            and width > 0 < height
        ),
        orientation=orientation,
    )


def _is_plain_png_colour(depth: int, colour: int, kinds: set[bytes]) -> bool:
    """Whether the colours are 8 bits of grey or RGB, with or without alpha, or a palette with transparent entries."""
    if colour == 3:
        return depth in (1, 2, 4, 8) and {b"PLTE", b"tRNS"} <= kinds
    return depth == 8 and colour in (0, 2, 4, 6) and b"PLTE" not in kinds


# ---------------------------------------------------------------------------------- sizes, orientation, stripping


def _little_size(raw: bytes, width: int) -> tuple[int, int]:
    return int.from_bytes(raw[:width], "little"), int.from_bytes(raw[width : 2 * width], "little")


def _webp_size(content: bytes) -> tuple[int | None, int | None]:
    """The canvas, which a decoder would allocate."""
    match content[12:16]:
        case b"VP8X":
            width, height = _little_size(content[24:30], 3)
            return width + 1, height + 1
        case b"VP8L":
            packed = int.from_bytes(content[21:25], "little")
            return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        case b"VP8 ":
            width, height = _little_size(content[26:30], 2)
            return width & 0x3FFF, height & 0x3FFF
        case _:
            return None, None


def exif_orientation(exif: bytes) -> int:
    """The orientation (1 to 8) of an EXIF block; 1 where the block is damaged, which is common."""
    exif = exif.removeprefix(b"Exif\x00\x00")
    if exif[:4] not in (b"II*\x00", b"MM\x00*"):
        return 1
    order: Literal["little", "big"] = "little" if exif.startswith(b"II") else "big"

    def number(at: int, width: int) -> int:
        return int.from_bytes(exif[at : at + width], order)

    table = number(4, 4)
    for entry in range(table + 2, table + 2 + 12 * number(table, 2), 12):
        if entry + 12 > len(exif):
            break
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def check_pixels(width: int | None, height: int | None, preparation: ImagePreparation) -> None:
    if width is not None and height is not None and width * height > preparation.max_pixels:
        raise ImageTooLarge(
            f"{width} x {height} is more than {preparation.max_pixels:,} pixels: scale the image down, "
            "or raise images.max_pixels"
        )


def without_metadata(content: bytes, header: ImageHeader) -> bytes:
    """Remove EXIF, XMP, comments, text, unknown chunks and trailing bytes of a plain JPEG or PNG. The bytes of the
    picture stay. Raises ImageUnreadable for a JPEG whose scans cannot be separated safely."""
    if header.format is ImageFormat.PNG:
        kept = [content[chunk.start : chunk.end] for chunk in _png_chunks(content) if chunk.kind in _PNG_KEPT]
        return PNG_SIGNATURE + b"".join(kept)
    parts, at = [content[:2]], 2
    while content[at : at + 2] != JPEG_END:
        for marker, start, end in _jpeg_segments(content, at):
            if marker == JUNK:
                raise ImageUnreadable("damaged JPEG: junk between its scans")
            if not _is_jpeg_metadata(content, marker, start + 4):
                parts.append(content[start:end])
            at = end
        scan_end = _SCAN_END.search(content, at)
        if scan_end is None or content[scan_end.start() + 1] not in _BETWEEN_SCANS:
            raise ImageUnreadable("damaged JPEG: a scan has no end")
        parts.append(content[at : scan_end.start()])
        at = scan_end.start()
    return b"".join([*parts, JPEG_END])
