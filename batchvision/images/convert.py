"""Turns any readable image into an upright 8-bit JPEG that a provider takes; images meet a decoder only here.

Rule: the size is checked before anything is decoded, and whatever a decoder raises becomes a fault of that row.
The work is a pure function of bytes, so that it may run in a thread or in another process.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import sqrt

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
from batchvision.images.deep import other_order, widened
from batchvision.images.exif import exif_orientation
from batchvision.images.flatten import STRIP_ROWS, flattened
from batchvision.images.formats import Converted, ImageFormat, ImageHeader, check_pixels
from batchvision.images.pages import count_pages, turn_to, unseen_channels
from batchvision.records import ImagePreparation

JPEG_QUALITY = 90
JPEG_MAX_SIDE = 65_500  # a limit of the format
#: What has to be converted has at most so many pixels afterwards, and more only before: no model sees as many.
MOST_PIXELS = 25_000_000
#: In this process (without decoding processes) larger images are converted one at a time.
BIG_PIXELS = MOST_PIXELS
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
# Bytes a decoder holds for each pixel of the full image at its peak: the picture, and beside it frames or rows.
_DECODING_BYTES = {
    ImageFormat.WEBP: 16,
    ImageFormat.AVIF: 16,
    ImageFormat.HEIC: 16,
    ImageFormat.GIF: 12,
    ImageFormat.TIFF: 8,
}
_one_big_image = threading.Lock()


class NeedsRoom(Exception):
    """The image would take more memory than it may have now."""


def convert(
    content: bytes, header: ImageHeader, preparation: ImagePreparation, room_bytes: int | None = None
) -> Converted:
    """The image as an upright JPEG within the limits. Raises ImageUnreadable or ImageTooLarge.

    With ``room_bytes``, NeedsRoom where that much memory is not enough, before anything is decoded.
    """
    try:
        with _open(content, header.format) as image:
            pages = count_pages(content, image, header.format)
            turn_to(image, preparation.page, pages)
            channels = unseen_channels(image)
            check_pixels(*image.size, preparation)
            full, target = image.size, _target(image.size, preparation)
            if header.format is ImageFormat.JPEG:
                # a JPEG decodes straight to a half, a quarter or an eighth: scale first, while that is possible
                image.draft(None, target)
            if room_bytes is not None:
                _check_room(image, full, target, header, room_bytes)
            with _room_for(image.size):
                again = partial(_opened_at, content, header.format, preparation.page, pages)
                upright = _upright(image, header, target, preparation.background, again)
                ready = _encode_within(upright, header.format, preparation.max_bytes)
                return ready._replace(pages=pages, channels=channels)
    except (RowFault, NeedsRoom):
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


def _opened_at(content: bytes, image_format: ImageFormat, page: str | int, pages: int) -> ImageFile.ImageFile:
    image = _open(content, image_format)
    turn_to(image, page, pages)
    return image


def _open_heic(content: bytes) -> ImageFile.ImageFile:
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageUnreadable("HEIC images need an extra: pip install 'batchvision[heic]'") from None
    image: ImageFile.ImageFile = HeifImageFile(io.BytesIO(content))
    return image


def _room_for(size: tuple[int, int]) -> AbstractContextManager[object]:
    return _one_big_image if size[0] * size[1] > BIG_PIXELS else nullcontext()


def _target(size: tuple[int, int], preparation: ImagePreparation) -> tuple[int, int]:
    """The size in pixels that the image is to have, before it is turned."""
    width, height = _fitting(size, min(preparation.max_side or JPEG_MAX_SIDE, JPEG_MAX_SIDE))
    while width * height > MOST_PIXELS:  # halves: they need no copy in full size
        width, height = (width + 1) // 2, (height + 1) // 2
    return width, height


def _check_room(
    image: ImageFile.ImageFile,
    full: tuple[int, int],
    target: tuple[int, int],
    header: ImageHeader,
    room_bytes: int,
) -> None:
    decoded, copies = image.size[0] * image.size[1], 1 if header.orientation == 1 else 2
    need = decoded * _DECODING_BYTES.get(header.format, 4) + 4 * copies * min(decoded, target[0] * target[1])
    if header.format is ImageFormat.JPEG and "progressive" in image.info:
        need += 6 * full[0] * full[1]  # all coefficients are held, whatever the scale
    if need > room_bytes:
        megabytes = -(-need // 1_000_000)
        raise NeedsRoom(
            f"{full[0]} x {full[1]} takes {megabytes:,} MB to decode, more than decoders are given: scale it down"
        )


def _upright(
    image: ImageFile.ImageFile,
    header: ImageHeader,
    target: tuple[int, int],
    background: str,
    again: Callable[[], ImageFile.ImageFile],
) -> Image.Image:
    """Decoded, in grey or RGB, scaled to ``target``, and the right way up. ``again`` opens the image anew."""
    size = image.size
    order = other_order(image) if header.format in (ImageFormat.PNG, ImageFormat.TIFF) else None
    image.load()
    picture = image if order is None else widened(image, order, again)
    if image.size != size:  # TIFFs are turned while they are loaded
        target = _fitting(image.size, max(target))
    shrink, spare = 1, 1 if size[0] * size[1] > BIG_PIXELS else 2  # scaling from twice the target looks best
    while image.size[0] >= 2 * spare * shrink * target[0] and shrink < STRIP_ROWS:
        shrink *= 2
    decoded = _scaled(flattened(picture, shrink, background), target)
    turn = _TURNS.get(_orientation(image, header))
    return decoded if turn is None else decoded.transpose(turn)


def _fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` in proportion, its longer side at most ``side``."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scaled(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _orientation(image: ImageFile.ImageFile, header: ImageHeader) -> int:
    match header.format:
        case ImageFormat.JPEG:
            return header.orientation
        case ImageFormat.PNG:  # Pillow knows ImageMagick's notation too
            return header.orientation if header.orientation > 1 else int(image.getexif().get(0x0112) or 1)
        case ImageFormat.TIFF:
            return 1  # Pillow turns TIFFs itself while it loads them
        case _:
            exif = image.info.get("exif")
            return exif_orientation(exif) if isinstance(exif, bytes) else 1


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
