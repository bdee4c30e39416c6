"""``data:`` URIs in the forms that tools write, and base64 without its head.

They are read as browsers read them. No message contains text of the image.
"""

from __future__ import annotations

import binascii
import re
from hashlib import sha256
from urllib.parse import unquote, unquote_to_bytes

from batchvision.errors import ImageTooLarge, ImageUnreadable
from batchvision.images.formats import sniff

_DATA_URI = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)
#: A data: URI that has lost its first word: ``image/png;base64,...`` or ``base64,...``.
_HEADLESS = re.compile(r"(?:image/[a-z0-9.+-]+\s*;(?:[^,;]*;)*\s*)?base64\s*,", re.IGNORECASE)
#: The first characters of JPEG, PNG, GIF, WebP, TIFF, AVIF and HEIC in base64.
_BARE = re.compile(r"[/_]9j[/_]|iVBORw0KGgo|R0lGOD|UklGR|SUkqA|TU0AK|AAAA..Z0eX[A-D]")
_BASE64 = re.compile(r"[A-Za-z0-9+/_=\s-]+")
#: Shorter text is no image. A path of this length contains a dot.
_LEAST_BARE = 100
_SPACES = re.compile(r"\s+")
_FROM_URL_ALPHABET = str.maketrans("-_", "+/")


def as_data_uri(text: str) -> str | None:
    """``text`` as a data: URI, where it is one or lacks only the head of one; otherwise ``None``."""
    if text[:5].lower() == "data:":
        return text
    if head := _HEADLESS.match(text):
        return f"data:{text}" if text[: head.end()].lower().startswith("image/") else f"data:;{text}"
    if len(text) >= _LEAST_BARE and _BARE.match(text) and _BASE64.fullmatch(text):
        return f"data:;base64,{text}"
    return None


def read_data_uri(uri: str, max_bytes: int) -> bytes:
    """The content of a ``data:`` URI. Raises ImageUnreadable, or ImageTooLarge before anything is decoded."""
    head = _DATA_URI.match(uri)
    if head is None:
        raise ImageUnreadable("not a usable data: URI: it needs the form data:image/png;base64,...")
    encoded = uri[head.end() :]
    if not _SPACES.sub("", head.group(2)).lower().endswith(";base64"):
        return _percent_decoded(encoded, max_bytes)
    if (len(encoded) - _beside_base64(encoded, max_bytes)) * 3 // 4 > max_bytes + 2:
        raise ImageTooLarge(f"a data: URI of more than the {max_bytes:,} bytes that are read")
    try:
        return _decoded(unquote(encoded) if "%" in encoded else encoded)
    except ValueError as error:
        raise ImageUnreadable(f"the base64 of a data: URI is damaged: {error}") from error


def _beside_base64(encoded: str, max_bytes: int) -> int:
    """Characters that encode no bytes: line ends, blanks, two of each %2B. Counted only near the limit."""
    if len(encoded) * 3 // 4 <= max_bytes + 2:
        return 0
    return sum(map(len, _SPACES.findall(encoded))) + 2 * encoded.count("%")


def _decoded(encoded: str) -> bytes:
    """Base64 with or without padding, in lines, in either alphabet. Raises ValueError."""
    try:
        return binascii.a2b_base64(encoded, strict_mode=True)
    except ValueError:
        bare = _SPACES.sub("", encoded).translate(_FROM_URL_ALPHABET).rstrip("=")
    if not bare or len(bare) % 4 == 1:
        raise ValueError("it is cut short")
    return binascii.a2b_base64(bare + "=" * (-len(bare) % 4), strict_mode=True)


def _percent_decoded(encoded: str, max_bytes: int) -> bytes:
    """The bytes of a percent-encoded data: URI. Only images are accepted."""
    if len(encoded) > 3 * max_bytes:
        raise ImageTooLarge(f"a data: URI of more than the {max_bytes:,} bytes that are read")
    content = unquote_to_bytes(encoded.encode("utf-8", "surrogatepass"))
    if sniff(content) is None:
        raise ImageUnreadable("a data: URI must be base64: data:image/png;base64,...")
    return content


def media_type(uri: str) -> str:
    """The media type in the URI, or "unknown"."""
    head = _DATA_URI.match(uri[:256])
    named = head.group(1).strip().lower() if head else ""
    return named if re.fullmatch(r"[a-z0-9.+-]+/[a-z0-9.+-]+", named) else "unknown"


def data_digest(uri: str) -> str:
    """The sha256 of the decoded bytes, equal for two spellings of one image; of the text where decoding fails."""
    try:
        return sha256(read_data_uri(uri, len(uri))).hexdigest()
    except (ImageUnreadable, ImageTooLarge):
        return text_digest(uri)


def text_digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def shown_path(reference: str) -> str:
    """A path unchanged; for text that is too long, or looks like an encoded image, its length and hash."""
    if len(reference) <= 4096 and (len(reference) <= 255 or not _BASE64.fullmatch(reference)):
        return reference
    return f"text of {len(reference):,} characters;sha256={text_digest(reference)}"
