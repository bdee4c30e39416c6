"""From any of Pillow's modes to 8 bits of grey or RGB: what is under transparent pixels, and how wide greys are shown.

Rule: pictures are converted strip by strip, as copies in full size are costly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

STRIP_ROWS = 64  #: a multiple of every shrinking factor
#: Pixels with less alpha than this do not decide the background: shadows, and the edges of letters.
VISIBLE_ALPHA = 64
#: More difference in brightness than this reads no better.
ENOUGH_CONTRAST = 96
#: White is taken unless black shows so many times its contrast.
WHITE_FIRST = 1.5
#: A 16-bit picture that uses less than this part of its range is stretched over what it uses.
SMALL_PART = 0.25
#: So many of its levels are at least shown apart from black and white: noise is not made a picture.
LEAST_LEVELS = 256
#: This part of the darkest and of the brightest pixels may be hot or dead ones.
OUTLIERS = 0.001


def flattened(image: Image.Image, shrink: int = 1, background: str = "auto") -> Image.Image:
    """In mode L or RGB, ``background`` (auto, white or black) under what is transparent; smaller by ``shrink``."""
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
    """The picture in pieces, each with its first row's number."""
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
    """White or black, whichever keeps the contrast of the visible pixels; white where both do."""
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
    """How wide greys become 8 bits: value * factor + offset."""

    factor: float
    offset: float

    @classmethod
    def over(cls, low: float, high: float) -> _Levels:
        """``low`` becomes black and ``high`` white."""
        factor = 255.0 / (high - low) if high > low else 0.0
        return cls(factor, -low * factor)


def _levels(image: Image.Image) -> _Levels:
    """Of 16-bit, 32-bit and float greys. 16 bits keep their scale where most of it is used; all else is stretched."""
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
    """From where to where the greys reach that are no outliers."""
    for _ in range(3):
        if high <= low:
            break
        levels, seen = _Levels.over(low, high), [0] * 256
        for _, strip in _strips(image):
            seen = [sum(counts) for counts in zip(seen, _grey_strip(strip, levels).histogram(), strict=True)]
        first, last = _without_tails(seen)
        step = (high - low) / 255
        low, high = max(low, low + (first - 1) * step), min(high, low + (last + 1) * step)
        if last - first > 32:  # what is left is known closely enough
            break
    return low, high


def _without_tails(seen: list[int]) -> tuple[int, int]:
    """The first and the last level that is not among the few outermost pixels."""
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
