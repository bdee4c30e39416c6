"""Turns any readable image into an upright 8-bit JPEG that a provider takes; images meet a decoder only here.

Rule: the size is checked before anything is decoded, and whatever a decoder raises becomes a fault of that row.
The work is a pure function of bytes, so that it may run in a thread or in another process.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from math import sqrt
from typing import NamedTuple

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from batchvision.errors import ImageTooLarge, ImageUnreadable, RowFault
from batchvision.images.formats import Header, ImageFormat, check_pixels, exif_orientation
from batchvision.records import ImagePreparation

JPEG_QUALITY = 90
JPEG_MAX_SIDE = 65_500  # a limit of the format
BIG_PIXELS = 25_000_000  # from here on one image at a time: ten bytes a pixel while it is converted
SHRINK_ROUNDS = 8

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The decoder is chosen by content and called directly: Image.open would try every plugin there is, and would warn
# on large sizes through the process-wide warning filters; the pixel cap here is ours.
_DECODERS: dict[ImageFormat, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    ImageFormat.JPEG: JpegImagePlugin.JpegImageFile,
    ImageFormat.PNG: PngImagePlugin.PngImageFile,
    ImageFormat.WEBP: WebPImagePlugin.WebPImageFile,
    ImageFormat.GIF: GifImagePlugin.GifImageFile,
    ImageFormat.BMP: BmpImagePlugin.BmpImageFile,
    ImageFormat.TIFF: TiffImagePlugin.TiffImageFile,
    ImageFormat.AVIF: AvifImagePlugin.AvifImageFile,
}
_one_big_image = threading.Lock()


class Converted(NamedTuple):
    """A JPEG and its size."""

    content: bytes
    width: int
    height: int


def convert(content: bytes, header: Header, preparation: ImagePreparation) -> Converted:
    """The image as an upright JPEG within the limits. Raises ImageUnreadable or ImageTooLarge, and nothing else."""
    try:
        with _open(content, header.format) as image:
            check_pixels(*image.size, preparation)
            with _room_for(image.size):
                return _encode_within(_upright(image, header, preparation), header.format, preparation.max_bytes)
    except RowFault:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageTooLarge(f"the image does not fit into memory when decoded: {error}") from error
    except Exception as error:  # decoders raise what they like; one bad image must not end the run
        raise ImageUnreadable(f"damaged {header.format.value.upper()}: {error or type(error).__name__}") from error


def _open(content: bytes, image_format: ImageFormat) -> ImageFile.ImageFile:
    if image_format is ImageFormat.HEIC:
        return _open_heic(content)
    if image_format is ImageFormat.AVIF and not AvifImagePlugin.SUPPORTED:
        raise ImageUnreadable("this build of Pillow cannot read AVIF: pip install --upgrade Pillow")
    return _DECODERS[image_format](io.BytesIO(content))


def _open_heic(content: bytes) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageUnreadable("HEIC images need an extra: pip install 'batchvision[heic]'") from None
    image: ImageFile.ImageFile = HeifImageFile(io.BytesIO(content))
    return image


def _room_for(size: tuple[int, int]) -> AbstractContextManager[object]:
    return _one_big_image if size[0] * size[1] > BIG_PIXELS else nullcontext()


def _upright(image: ImageFile.ImageFile, header: Header, preparation: ImagePreparation) -> Image.Image:
    """Decoded, scaled to ``max_side``, in grey or RGB, and the right way up."""
    side = min(preparation.max_side or JPEG_MAX_SIDE, JPEG_MAX_SIDE)
    if header.format is ImageFormat.JPEG:
        # a JPEG decodes straight to a half, a quarter or an eighth: scale first, while that is possible
        size = _fitting(image.size, side)
        image.draft(None, size)
        decoded = _flattened(_scaled(image, size))
    else:
        image.load()
        decoded = _flattened(image)
        decoded = _scaled(decoded, _fitting(decoded.size, side))
    turn = _TURNS.get(_orientation(image, header))
    return decoded if turn is None else decoded.transpose(turn)


def _fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` in proportion, its longer side at most ``side``."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _orientation(image: ImageFile.ImageFile, header: Header) -> int:
    match header.format:
        case ImageFormat.JPEG | ImageFormat.PNG:
            return header.orientation
        case ImageFormat.TIFF:
            return 1  # Pillow turns TIFFs itself while it loads them
        case _:
            exif = image.info.get("exif")
            return exif_orientation(exif) if isinstance(exif, bytes) else 1


def _flattened(image: Image.Image) -> Image.Image:
    """In mode L or RGB; what is transparent becomes white."""
    if image.mode.startswith(("I", "F")):
        return _eight_bit(image)
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        ground = Image.new("RGB", layered.size, "white")
        ground.paste(layered, mask=layered.getchannel("A"))
        return ground
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greys: 16-bit keeps its scale, anything wider is stretched over its own range."""
    wide = image.convert("F")
    low, high = (float(value) for value in wide.getextrema())  # type: ignore[arg-type]  # one band: two numbers
    if image.mode != "F" and low >= 0 and high <= 65_535:
        low, high = 0.0, 65_535.0 if high > 255 else 255.0
    factor = 255.0 / (high - low) if high > low else 0.0
    return wide.point(lambda value: value * factor + -low * factor).convert("L")


def _encode_within(image: Image.Image, source: ImageFormat, max_bytes: int) -> Converted:
    """As JPEG, made smaller until it fits."""
    subsampling = 2 if source is ImageFormat.JPEG else 0  # drawn and lossless sources keep sharp colour edges
    for _ in range(SHRINK_ROUNDS):
        target = io.BytesIO()
        clean = image if not image.info else _bare(image)
        clean.save(target, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling)
        encoded = target.getvalue()
        if len(encoded) <= max_bytes:
            return Converted(encoded, *image.size)
        scale = min(0.9, 0.95 * sqrt(max_bytes / len(encoded)))
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    raise ImageTooLarge(f"the image cannot be made smaller than {max_bytes:,} bytes: raise images.max_bytes")


def _bare(image: Image.Image) -> Image.Image:
    """Without the notes Pillow would write again (comment, EXIF, profile)."""
    image.info = {}
    return image
