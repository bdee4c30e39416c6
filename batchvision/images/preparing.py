"""Prepare an image for a provider: unchanged if possible, otherwise as JPEG.

All functions block. Decoding is the work of a ``Converter``, in this process or in another one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, Protocol

from batchvision.errors import ImageTooLarge, ImageUnreadable
from batchvision.images.formats import Converted, ImageHeader, check_pixels, examine, without_metadata
from batchvision.records import ImagePreparation, Page

#: ``images.page = "all"`` sends at most this many pages of one file.
MOST_PAGES = 100


class Converter(Protocol):
    """Converts any readable image to a plain JPEG. Blocking. Raises ImageUnreadable or ImageTooLarge."""

    def __call__(self, content: bytes, header: ImageHeader, preparation: ImagePreparation, /) -> Converted: ...


class LeastSize(NamedTuple):
    """The smallest image a provider takes: pixels of each side, and pixels in all."""

    side: int = 1
    pixels: int = 1


ANY_SIZE = LeastSize()


class Prepared(NamedTuple):
    """An image as it is sent. ``pages`` and ``channels`` describe its source as in ``Converted``. ``more`` holds its
    further pages where they are sent."""

    content: bytes
    media_type: str
    width: int
    height: int
    pages: int = 1
    channels: int = 0
    more: tuple[Page, ...] = ()


def convert_here(content: bytes, header: ImageHeader, preparation: ImagePreparation) -> Converted:
    """Convert in this process: for images that the author of the job chose, and for tests in virtual time."""
    from batchvision.images.convert import convert  # imports Pillow

    return convert(content, header, preparation)


def prepare_bytes(
    content: bytes, preparation: ImagePreparation, convert: Converter = convert_here, header: ImageHeader | None = None
) -> Prepared:
    """Prepare ``content``: unchanged where it is plain and within the limits, otherwise converted.

    ``header`` saves a second examination. Raises ImageUnreadable or ImageTooLarge.
    """
    header = header or examine(content)
    prepared = as_it_is(content, header, preparation)
    if prepared is not None:
        return prepared
    is_whole = preparation.page == "all"
    first = convert(content, header, replace(preparation, page=1) if is_whole else preparation)
    more = _further_pages(content, header, preparation, convert, first) if is_whole else ()
    return Prepared(first.content, "image/jpeg", *first[1:], more)


def _further_pages(
    content: bytes, header: ImageHeader, preparation: ImagePreparation, convert: Converter, first: Converted
) -> tuple[Page, ...]:
    """Convert all pages after the first. All pages together may have the bytes of one image."""
    if first.pages > MOST_PAGES:
        raise ImageTooLarge(
            f'it has {first.pages} pages or more, and images.page = "all" sends {MOST_PAGES} at most: name one page'
        )
    pages, left = list[Page](), preparation.max_bytes - len(first.content)
    for number in range(2, first.pages + 1):
        page = convert(content, header, replace(preparation, page=number))
        left -= len(page.content)
        if left < 0:
            raise ImageTooLarge(
                f"its {first.pages} pages together have more than the {preparation.max_bytes:,} bytes of "
                "images.max_bytes: set images.max_side, or name one page in images.page"
            )
        pages.append(Page(page.content, page.width, page.height))
    return tuple(pages)


def as_it_is(content: bytes, header: ImageHeader, preparation: ImagePreparation) -> Prepared | None:
    """Prepare an image that needs no decoder. ``None``: it needs one. Raises ImageTooLarge."""
    check_pixels(header.width, header.height, preparation)
    if not passes_unchanged(content, header, preparation):
        return None
    if preparation.strip_metadata:
        try:
            content = without_metadata(content, header)
        except ImageUnreadable:  # the converted image holds no metadata either
            return None
    return Prepared(content, f"image/{header.format}", header.width or 0, header.height or 0)


def passes_unchanged(content: bytes, header: ImageHeader, preparation: ImagePreparation) -> bool:
    """Whether the picture bytes may be sent unchanged."""
    side = max(header.width or 0, header.height or 0)
    return (
        header.is_plain
        and len(content) <= preparation.max_bytes
        and (preparation.max_side is None or side <= preparation.max_side)
    )


def part_sent(prepared: Prepared, preparation: ImagePreparation) -> str | None:
    """Describe the pages and channels that are sent, where some are left out; otherwise ``None``."""
    if prepared.pages > 1 and not prepared.more and preparation.page == "first":
        return (
            f"has {prepared.pages} pages or frames, of which the first is sent "
            '(images.page = "all", or a number, chooses others)'
        )
    if prepared.channels:
        return f"has {prepared.channels} channels, of which some cannot be shown: convert it to RGB to choose them"
    return None
