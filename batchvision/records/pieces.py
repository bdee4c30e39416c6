"""A request's body: pieces that follow each other, never joined, for megabytes of an image are one of them.

Rule: an image is encoded as it leaves, by whoever sends it. Until then a row holds it once, a quarter smaller, and what
was just encoded is still in the processor's cache when it is sent.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable


def _fastest() -> Callable[[bytes], bytes]:
    try:
        import pybase64  # three times as fast
    except ImportError:
        return base64.b64encode
    encode: Callable[[bytes], bytes] = pybase64.b64encode
    return encode


_b64encode = _fastest()


class Base64:
    """``content``, that travels as base64; ``len()`` counts the characters of that."""

    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    def __len__(self) -> int:
        return (len(self.content) + 2) // 3 * 4

    def encoded(self) -> bytes:
        return _b64encode(self.content)


Pieces = tuple[bytes | Base64, ...]


def as_sent(pieces: Iterable[bytes | Base64]) -> list[bytes]:
    """The bytes of each piece."""
    return [piece if isinstance(piece, bytes) else piece.encoded() for piece in pieces]


def joined(pieces: Iterable[bytes | Base64]) -> bytes:
    """The bytes of all pieces together: for what reads a body in place of sending it."""
    return b"".join(as_sent(pieces))
