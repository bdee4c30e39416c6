"""Size, format and main colours of an image. Decodes each image fully, so that damage is found.

Distinct images are decoded once: results are cached by sha256.
"""

from __future__ import annotations

import colorsys
import hashlib
import io
import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass

from PIL import Image

_MEDIA_TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # MPO (several pictures in one JPEG) opens as JPEG
_GRID = 24  # colours are counted on a picture of 24 x 24
_REMEMBERED = 4096


class NotAnImage(Exception):
    """The bytes are not an image of a known format, or do not decode to the end."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image. ``colours``: one or two main colours, the most frequent first."""

    sha256: str
    format: str
    media_type: str
    width: int
    height: int
    colours: tuple[str, ...]


class PictureMemory:
    """Decodes images and remembers the newest 4096. Thread-safe."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def look(self, content: bytes) -> Picture:
        """Raises NotAnImage."""
        sha256 = hashlib.sha256(content).hexdigest()
        with self._lock:
            known = self._seen.get(sha256)
            if known is not None:
                self._seen.move_to_end(sha256)
                return known
        picture = look(content, sha256)
        with self._lock:
            self._seen[sha256] = picture
            if len(self._seen) > _REMEMBERED:
                self._seen.popitem(last=False)
        return picture


def look(content: bytes, sha256: str) -> Picture:
    """Decode ``content`` to its last pixel. Raises NotAnImage."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            width, height = image.size
            form = image.format or ""
            # at an eighth of its size a JPEG decodes in a third of the time, and each byte is still read
            image.draft("RGB", (_GRID, _GRID))
            image.load()
            colours = _main_colours(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise NotAnImage("too many pixels") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:  # raised by Pillow's decoders on damage
        raise NotAnImage(str(error)) from error
    return Picture(sha256, "JPEG" if form == "MPO" else form, _MEDIA_TYPES[form], width, height, colours)


def _main_colours(image: Image.Image) -> tuple[str, ...]:
    """The most frequent colour, and the second if it covers a sixth. Transparent pixels count as white."""
    small = image.convert("RGBA").resize((_GRID, _GRID), Image.Resampling.BOX)
    ground = Image.new("RGBA", small.size, "white")
    flat = Image.alpha_composite(ground, small).convert("RGB").tobytes()
    counts = Counter(colour_name(*flat[at : at + 3]) for at in range(0, len(flat), 3))
    (first, _), *others = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return (first, *(name for name, count in others[:1] if count * 6 >= _GRID * _GRID))


_HUES = (
    (15, "red"),
    (40, "orange"),
    (70, "yellow"),
    (165, "green"),
    (200, "cyan"),
    (255, "blue"),
    (290, "purple"),
    (345, "pink"),
    (361, "red"),
)


def colour_name(red: int, green: int, blue: int) -> str:
    """The name of an 8-bit RGB colour."""
    hue, saturation, value = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey"
    name = next(word for limit, word in _HUES if hue * 360 < limit)
    if name == "orange" and value < 0.7:
        return "brown"
    if name == "red" and saturation < 0.5 and value > 0.7:
        return "pink"
    return name
