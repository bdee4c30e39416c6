"""Convert any of Pillow's modes to 8 bits of grey or RGB: transparent pixels, wide greys and 16-bit colours.

Pictures are converted strip by strip, to save the memory of copies in full size.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from PIL import Image, ImageChops, ImageFile

STRIP_ROWS = 64  #: a multiple of every shrinking factor
#: Pixels with less alpha (shadows, the edges of letters) do not count when the background is chosen.
VISIBLE_ALPHA = 64
#: More difference in brightness does not improve legibility.
ENOUGH_CONTRAST = 96
#: Black is chosen where it gives this many times the contrast of white.
WHITE_FIRST = 1.5
#: A 16-bit grey picture is stretched where it uses less than this part of its range.
SMALL_PART = 0.25
#: Stretching keeps at least this range of levels, so that noise does not become a picture.
LEAST_LEVELS = 256
#: This part of the darkest and of the brightest pixels is ignored: they may be dead or hot pixels.
OUTLIERS = 0.001


#: A 16-bit picture with a larger high byte keeps its scale.
MAX_HIGH_BYTE = 63
_NATIVE_SWAPPED = "RGB;16B" if sys.byteorder == "little" else "RGB;16L"
_OTHER_ORDER = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": _NATIVE_SWAPPED}


def flattened(image: Image.Image, shrink: int = 1, background: str = "auto") -> Image.Image:
    """The picture in mode L or RGB, ``shrink`` times smaller, with ``background`` (auto, white or black) under
    transparent pixels."""
    if image.mode in ("L", "RGB") and not image.has_transparency_data:
        return image if shrink == 1 else image.reduce(shrink)
    width, height = image.size
    levels = _levels(image) if image.mode.startswith(("I", "F")) else None
    mode = "L" if levels is not None or (image.mode == "1" and not image.has_transparency_data) else "RGB"
    if levels is None and image.has_transparency_data and background == "auto":
        background = _background(image)
    flat = Image.new(mode, (-(-width // shrink), -(-height // shrink)))
    for top, strip in _strips(image):
        ready = _flat_strip(strip, mode, background) if levels is None else _grey_strip(strip, levels)
        flat.paste(ready if shrink == 1 else ready.reduce(shrink), (0, top // shrink))
    return flat


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """The strips of the picture, each with the number of its first row."""
    for top in range(0, image.height, STRIP_ROWS):
        yield top, image.crop((0, top, image.width, min(image.height, top + STRIP_ROWS)))


# ---------------------------------------------------------------------------------- transparency


def _flat_strip(strip: Image.Image, mode: str, background: str) -> Image.Image:
    if not strip.has_transparency_data:
        return strip.convert(mode)
    layered = strip.convert("RGBA")
    ground = Image.new("RGB", layered.size, background)
    ground.paste(layered, mask=layered.getchannel("A"))
    return ground


def _background(image: Image.Image) -> str:
    """White or black: the colour that gives the visible pixels more contrast. White where both suffice."""
    seen = [0] * 256
    for _, strip in _strips(image):
        layered = strip.convert("RGBA")
        visible = layered.getchannel("A").point(lambda alpha: 255 if alpha >= VISIBLE_ALPHA else 0)
        seen = [sum(counts) for counts in zip(seen, layered.convert("L").histogram(visible), strict=True)]
    white = sum(count * min(255 - level, ENOUGH_CONTRAST) for level, count in enumerate(seen))
    black = sum(count * min(level, ENOUGH_CONTRAST) for level, count in enumerate(seen))
    return "black" if black > WHITE_FIRST * white else "white"


# ---------------------------------------------------------------------------------- wide greys


class _Levels(NamedTuple):
    """The scale from wide greys to 8 bits: value * factor + offset."""

    factor: float
    offset: float

    @classmethod
    def over(cls, low: float, high: float) -> _Levels:
        """``low`` becomes black and ``high`` white."""
        factor = 255.0 / (high - low) if high > low else 0.0
        return cls(factor, -low * factor)


def _levels(image: Image.Image) -> _Levels:
    """The scale of 16-bit, 32-bit and float greys. A 16-bit picture that uses most of its range keeps its scale."""
    found = [strip.convert("F").getextrema() for _, strip in _strips(image)]
    low = min(float(lowest) for lowest, _ in found)  # type: ignore[arg-type]  # one band: two numbers
    high = max(float(highest) for _, highest in found)  # type: ignore[arg-type]
    if image.mode == "F" or low < 0 or high > 65_535:
        return _Levels.over(low, high)
    if high <= 255:
        return _Levels.over(0.0, 255.0)
    first, last = _used_range(image, low, high)
    if last <= first or last - first >= SMALL_PART * 65_535:
        return _Levels.over(0.0, 65_535.0)
    spare = max(0.0, LEAST_LEVELS - (last - first)) / 2
    return _Levels.over(first - spare, last + spare)


def _used_range(image: Image.Image, low: float, high: float) -> tuple[float, float]:
    """The lowest and highest grey, without outliers."""
    for _ in range(3):
        if high <= low:
            break
        levels, seen = _Levels.over(low, high), [0] * 256
        for _, strip in _strips(image):
            seen = [sum(counts) for counts in zip(seen, _grey_strip(strip, levels).histogram(), strict=True)]
        first, last = _without_tails(seen)
        step = (high - low) / 255
        low, high = max(low, low + (first - 1) * step), min(high, low + (last + 1) * step)
        if last - first > 32:  # the range is known precisely enough
            break
    return low, high


def _without_tails(seen: list[int]) -> tuple[int, int]:
    """The first and the last level after the outermost pixels are dropped."""
    most = sum(seen) * OUTLIERS
    ends = []
    for levels in (range(256), range(255, -1, -1)):
        passed = 0
        for level in levels:
            passed += seen[level]
            if passed > most:
                ends.append(level)
                break
    return ends[0], ends[1]


def _grey_strip(strip: Image.Image, levels: _Levels) -> Image.Image:
    factor, offset = levels
    return strip.convert("F").point(lambda value: value * factor + offset).convert("L")


# ---------------------------------------------------------------------------------- 16-bit colours


def other_order(image: ImageFile.ImageFile) -> str | None:
    """The decoder mode that reads the low bytes of a picture that is not loaded. ``None``: it has no 16-bit colours."""
    modes = {tile.args if isinstance(tile.args, str) else (tile.args or [""])[0] for tile in image.tile}
    return _OTHER_ORDER.get(str(modes.pop())) if len(modes) == 1 else None


def widened(image: Image.Image, order: str, again: Callable[[], ImageFile.ImageFile]) -> Image.Image:
    """A loaded 16-bit picture in 8 bits of the range that it uses. Pillow keeps the high bytes, which are nearly black
    where a picture uses a small part of the range. So the low bytes are decoded as well, with the other byte order.

    The picture is returned unchanged where it uses most of the range, or where memory is short. ``again`` opens the
    image once more."""
    highest = max(int(high) for _, high in image.getextrema())  # type: ignore[misc]  # three bands: pairs
    if highest > MAX_HIGH_BYTE:
        return image
    factor = 255 / (highest * 256 + 255)
    try:
        low = again()
        low.tile = [
            tile._replace(args=order if isinstance(tile.args, str) else (order, *(tile.args or ())[1:]))
            for tile in low.tile
        ]
        low.load()
        highs = image.point(lambda value: round(value * 256 * factor))
        return ImageChops.add(highs, low.point(lambda value: round(value * factor)))
    except MemoryError:
        return image
