"""Convert any readable image to an upright 8-bit JPEG. Only this module decodes images.

The size is checked before decoding. Each error of a decoder becomes a fault of that row. The work is a pure function of
bytes, so it can run in a thread or in another process.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
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
from batchvision.images.flatten import STRIP_ROWS, flattened, other_order, widened
from batchvision.images.formats import Converted, ImageFormat, ImageHeader, check_pixels, exif_orientation
from batchvision.records import ImagePreparation

JPEG_QUALITY = 90
WEBP_QUALITY = 60  #: of thumbnails
THUMBNAIL_BYTES = 9_000  #: a thumbnail is scaled down to this: 2,000 of them fit into 24 MB of base64
JPEG_MAX_SIDE = 65_500  # a limit of the format
#: A converted image has at most this many pixels: no model sees more.
MOST_PIXELS = 25_000_000
#: Larger images are converted one at a time where no decoding process is used.
BIG_PIXELS = MOST_PIXELS
SHRINK_ROUNDS = 8

_ROTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The decoder is chosen by content and called directly. Image.open would try each installed plugin, and would warn of
# large sizes through process-wide filters. Here ``images.max_pixels`` is the limit.
_DECODERS: dict[ImageFormat, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    ImageFormat.JPEG: JpegImagePlugin.JpegImageFile,
    ImageFormat.PNG: PngImagePlugin.PngImageFile,
    ImageFormat.WEBP: WebPImagePlugin.WebPImageFile,
    ImageFormat.GIF: GifImagePlugin.GifImageFile,
    ImageFormat.BMP: BmpImagePlugin.BmpImageFile,
    ImageFormat.TIFF: TiffImagePlugin.TiffImageFile,
    ImageFormat.AVIF: AvifImagePlugin.AvifImageFile,
}
# Peak bytes of a decoder per pixel of the full image: the picture, and frames or rows beside it.
_DECODING_BYTES = {
    ImageFormat.WEBP: 16,
    ImageFormat.AVIF: 16,
    ImageFormat.HEIC: 16,
    ImageFormat.GIF: 12,
    ImageFormat.TIFF: 8,
}
#: Pages beyond this number are not counted: a hostile file may have millions.
MAX_PAGES_COUNTED = 1000
_SAMPLES_PER_PIXEL = 277  # TIFF's tag
#: Modes with a padding band: RGBX is RGB and a channel that is not read.
_PADDED = frozenset({"RGBX"})
#: Global, because memory is: large images are decoded one at a time in the whole process.
_one_big_image = threading.Lock()


class NeedsMemory(Exception):
    """The image needs more memory than it may use now."""


def convert(
    content: bytes, header: ImageHeader, preparation: ImagePreparation, memory_bytes: int | None = None
) -> Converted:
    """The image as an upright JPEG within the limits. Raises ImageUnreadable or ImageTooLarge.

    With ``memory_bytes``: raises NeedsMemory before decoding where that memory does not suffice.
    """
    try:
        with _open(content, header.format) as image:
            pages = _count_pages(content, image, header.format)
            _go_to_page(image, preparation.page, pages)
            channels = _hidden_channels(image)
            check_pixels(*image.size, preparation)
            full, target = image.size, _target(image.size, preparation)
            if header.format is ImageFormat.JPEG:
                # a JPEG decodes straight to a half, a quarter or an eighth: scale first, while that is possible
                image.draft(None, target)
            if memory_bytes is not None:
                _check_memory(image, full, target, header, memory_bytes)
            with _one_big_image if image.size[0] * image.size[1] > BIG_PIXELS else nullcontext():

                def again() -> ImageFile.ImageFile:
                    copy = _open(content, header.format)
                    _go_to_page(copy, preparation.page, pages)
                    return copy

                upright = _upright(image, header, target, preparation.background, again)
                ready = _encode_within(upright, header.format, preparation.max_bytes)
                return ready._replace(pages=pages, channels=channels)
    except (RowFault, NeedsMemory):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageTooLarge(f"the image does not fit into memory when decoded: {error}") from error
    except Exception as error:  # decoders raise any error; a bad image must not end the run
        raise ImageUnreadable(f"damaged {header.format.value.upper()}: {error or type(error).__name__}") from error


def thumbnail(
    content: bytes, header: ImageHeader, preparation: ImagePreparation, memory_bytes: int | None = None
) -> Converted:
    """The image as a WebP of at most ``THUMBNAIL_BYTES``, with sides of at most ``preparation.max_side``.

    Raises as :func:`convert` does.
    """
    ready = convert(content, header, preparation, memory_bytes)
    with JpegImagePlugin.JpegImageFile(io.BytesIO(ready.content)) as image:
        small: Image.Image = image
        while len(encoded := _webp(small)) > THUMBNAIL_BYTES:
            small = small.resize((max(1, small.width * 3 // 4), max(1, small.height * 3 // 4)))
    return ready._replace(content=encoded)


def _webp(image: Image.Image) -> bytes:
    target = io.BytesIO()
    image.save(target, "WEBP", quality=WEBP_QUALITY, method=4, icc_profile=b"")
    return target.getvalue()


def _open(content: bytes, image_format: ImageFormat) -> ImageFile.ImageFile:
    if image_format is ImageFormat.HEIC:
        try:
            from pillow_heif import HeifImageFile
        except ImportError:
            raise ImageUnreadable("HEIC images need an extra: pip install 'batchvision[heic]'") from None
        heic: ImageFile.ImageFile = HeifImageFile(io.BytesIO(content))
        return heic
    if image_format is ImageFormat.AVIF and not AvifImagePlugin.SUPPORTED:
        raise ImageUnreadable("this build of Pillow cannot read AVIF: pip install --upgrade Pillow")
    return _DECODERS[image_format](io.BytesIO(content))


def _target(size: tuple[int, int], preparation: ImagePreparation) -> tuple[int, int]:
    """The size in pixels of the result, before it is rotated."""
    width, height = _fitting(size, min(preparation.max_side or JPEG_MAX_SIDE, JPEG_MAX_SIDE))
    while width * height > MOST_PIXELS:  # halves: they need no copy in full size
        width, height = (width + 1) // 2, (height + 1) // 2
    return width, height


def _check_memory(
    image: ImageFile.ImageFile,
    full: tuple[int, int],
    target: tuple[int, int],
    header: ImageHeader,
    memory_bytes: int,
) -> None:
    decoded, copies = image.size[0] * image.size[1], 1 if header.orientation == 1 else 2
    need = decoded * _DECODING_BYTES.get(header.format, 4) + 4 * copies * min(decoded, target[0] * target[1])
    if header.format is ImageFormat.JPEG and "progressive" in image.info:
        need += 6 * full[0] * full[1]  # all coefficients are held at any scale
    if need > memory_bytes:
        megabytes = -(-need // 1_000_000)
        raise NeedsMemory(
            f"{full[0]} x {full[1]} takes {megabytes:,} MB to decode, more than decoders are given: scale it down"
        )


def _upright(
    image: ImageFile.ImageFile,
    header: ImageHeader,
    target: tuple[int, int],
    background: str,
    again: Callable[[], ImageFile.ImageFile],
) -> Image.Image:
    """Decode, convert to grey or RGB, scale to ``target`` and rotate upright. ``again`` opens the image once more."""
    size = image.size
    order = other_order(image) if header.format in (ImageFormat.PNG, ImageFormat.TIFF) else None
    image.load()
    picture = image if order is None else widened(image, order, again)
    if image.size != size:  # Pillow rotates a TIFF while it loads it
        target = _fitting(image.size, max(target))
    shrink, spare = 1, 1 if size[0] * size[1] > BIG_PIXELS else 2  # scaling from twice the target looks best
    while image.size[0] >= 2 * spare * shrink * target[0] and shrink < STRIP_ROWS:
        shrink *= 2
    decoded = flattened(picture, shrink, background)
    if decoded.size != target:
        decoded = decoded.resize(target, Image.Resampling.BICUBIC, reducing_gap=2.0)
    rotation = _ROTATIONS.get(_orientation(image, header))
    return decoded if rotation is None else decoded.transpose(rotation)


def _fitting(size: tuple[int, int], side: int) -> tuple[int, int]:
    """``size`` scaled in proportion, so that the longer side is at most ``side``."""
    scale = min(1.0, side / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _orientation(image: ImageFile.ImageFile, header: ImageHeader) -> int:
    match header.format:
        case ImageFormat.JPEG:
            return header.orientation
        case ImageFormat.PNG:  # Pillow reads ImageMagick's notation, too
            return header.orientation if header.orientation > 1 else int(image.getexif().get(0x0112) or 1)
        case ImageFormat.TIFF:
            return 1  # Pillow rotates a TIFF while it loads it
        case _:
            exif = image.info.get("exif")
            return exif_orientation(exif) if isinstance(exif, bytes) else 1


def _encode_within(image: Image.Image, source: ImageFormat, max_bytes: int) -> Converted:
    """Encode as JPEG, and scale down until it fits into ``max_bytes``."""
    subsampling = 2 if source is ImageFormat.JPEG else 0  # drawn and lossless sources keep sharp colour edges
    for _ in range(SHRINK_ROUNDS):
        target = io.BytesIO()
        image.info = {}  # Pillow would write the metadata again (comment, EXIF, profile)
        image.save(target, "JPEG", quality=JPEG_QUALITY, subsampling=subsampling)
        encoded = target.getvalue()
        if len(encoded) <= max_bytes:
            return Converted(encoded, *image.size)
        scale = min(0.9, 0.95 * sqrt(max_bytes / len(encoded)))
        width, height = (max(1, round(length * scale)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
    raise ImageTooLarge(f"the image cannot be made smaller than {max_bytes:,} bytes: raise images.max_bytes")


# ---------------------------------------------------------------------------------- pages and channels


def _count_pages(content: bytes, image: ImageFile.ImageFile, image_format: ImageFormat) -> int:
    """The number of pages or frames of ``content``, the source of ``image``. Decodes nothing, and ignores damage
    behind the first page."""
    count = 1
    match image_format:
        case ImageFormat.JPEG | ImageFormat.BMP:  # in an MPO a preview or a gain map follows
            pass
        case ImageFormat.TIFF:
            count = _count_tiff(content)
        case ImageFormat.GIF:
            with suppress(Exception):  # damage behind the first frame
                count = GifImagePlugin.GifImageFile(io.BytesIO(content)).n_frames
        case _:
            count = getattr(image, "n_frames", 1)
    return max(1, min(count, MAX_PAGES_COUNTED))


def _count_tiff(content: bytes) -> int:
    count = 1
    with suppress(Exception):  # EOFError at the end, and any error for damage
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(content))
        while count < MAX_PAGES_COUNTED:
            image.seek(count)
            count += 1
    return count


def _go_to_page(image: ImageFile.ImageFile, page: str | int, count: int) -> None:
    """Choose the page to decode, counted from 1. A file with one page has no choice. Raises ImageUnreadable."""
    if not isinstance(page, int) or count == 1:
        return
    if page > count:
        raise ImageUnreadable(f"it has {count} pages, but images.page asks for page {page}")
    image.seek(page - 1)


def _hidden_channels(image: ImageFile.ImageFile) -> int:
    """The number of channels of a picture that has more than can be shown; otherwise 0."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    samples = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1)
    shown = len(image.getbands()) - (image.mode in _PADDED)
    return samples if isinstance(samples, int) and 1 < shown < samples else 0
