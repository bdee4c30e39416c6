"""Which page of a file with several is decoded, and how many there are. Pages are counted from 1.

Rule: counting is bounded and decodes nothing, and what is wrong behind the page that is wanted is no fault.
"""

from __future__ import annotations

import io
from contextlib import suppress

from PIL import GifImagePlugin, ImageFile, TiffImagePlugin

from batchvision.errors import ImageUnreadable
from batchvision.images.formats import ImageFormat

#: A file of more pages is said to have this many.
MOST_COUNTED = 1000
_SAMPLES_PER_PIXEL = 277  # TIFF's tag
#: Bands of Pillow's modes that hold no colour of their own: RGBX is RGB and a channel that is not read.
_PADDED = frozenset({"RGBX"})


def count_pages(content: bytes, image: ImageFile.ImageFile, image_format: ImageFormat) -> int:
    """How many pages or frames ``content`` has, which ``image`` was opened from; at least one."""
    count = 1
    match image_format:
        case ImageFormat.JPEG | ImageFormat.BMP:  # what follows in an MPO is a preview or a gain map
            pass
        case ImageFormat.TIFF:
            count = _count_tiff(content)
        case ImageFormat.GIF:
            with suppress(Exception):  # damage behind the first frame
                count = GifImagePlugin.GifImageFile(io.BytesIO(content)).n_frames
        case _:
            count = getattr(image, "n_frames", 1)
    return max(1, min(count, MOST_COUNTED))


def _count_tiff(content: bytes) -> int:
    """Directories are read one after the other: a hostile file may have millions."""
    count = 1
    with suppress(Exception):  # EOFError at the end, and whatever damage raises
        image = TiffImagePlugin.TiffImageFile(io.BytesIO(content))
        while count < MOST_COUNTED:
            image.seek(count)
            count += 1
    return count


def turn_to(image: ImageFile.ImageFile, page: str | int, count: int) -> None:
    """Make ``page`` of ``count`` the one that is decoded; files with one page have no other. Raises ImageUnreadable."""
    if not isinstance(page, int) or count == 1:
        return
    if page > count:
        raise ImageUnreadable(f"it has {count} pages, but images.page asks for page {page}")
    image.seek(page - 1)


def unseen_channels(image: ImageFile.ImageFile) -> int:
    """How many channels a picture has of which some cannot be shown; 0 where all are."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    samples = image.tag_v2.get(_SAMPLES_PER_PIXEL, 1)
    shown = len(image.getbands()) - (image.mode in _PADDED)
    return samples if isinstance(samples, int) and 1 < shown < samples else 0
