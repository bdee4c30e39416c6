"""Colours of 16 bits that use a small part of their range. Pillow keeps their high bytes, which are nearly black.

The low bytes are decoded as well, by Pillow's name for the other byte order, and both make 8 bits of the range in use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageChops, ImageFile

#: Of the high byte: brighter pictures keep their scale.
MOST_HIGH = 63
_NATIVE_SWAPPED = "RGB;16B" if sys.byteorder == "little" else "RGB;16L"
_OTHER_ORDER = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": _NATIVE_SWAPPED}


def other_order(image: ImageFile.ImageFile) -> str | None:
    """How the low bytes of a picture that is not loaded are read; None: it has no 16-bit colours."""
    modes = {tile.args if isinstance(tile.args, str) else (tile.args or [""])[0] for tile in image.tile}
    return _OTHER_ORDER.get(str(modes.pop())) if len(modes) == 1 else None


def widened(image: Image.Image, order: str, again: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """A loaded picture over the range that it uses; as it is where that is most of it, or where memory is too short.
    ``again`` opens it anew."""
    highest = max(int(high) for _, high in image.getextrema())  # type: ignore[misc]  # three bands: pairs
    if highest > MOST_HIGH:
        return image
    factor = 255 / (highest * 256 + 255)
    try:
        low = again()
        low.tile = [tile._replace(args=_with_order(tile.args, order)) for tile in low.tile]
        low.load()
        highs = image.point(lambda value: round(value * 256 * factor))
        return ImageChops.add(highs, low.point(lambda value: round(value * factor)))
    except MemoryError:
        return image


def _with_order(args: Any, order: str) -> Any:
    return order if isinstance(args, str) else (order, *args[1:])
