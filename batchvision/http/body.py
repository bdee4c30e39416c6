"""Decode a body as it arrives, up to a bound on its decoded bytes. Sans-IO.

httpx's own decoders have no bound: 200 KB of gzip can become 200 MB.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterator

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_RAW_DEFLATE = -zlib.MAX_WBITS
#: A body over the bound is cut to this length, which is enough to recognise it.
KEPT_OF_TOO_LONG = 64 * 1024
#: More gzip members than this are damage: each may be empty, so the bound on bytes does not end them.
MOST_MEMBERS = 10_000
#: Decoded bytes of one step.
MOST_AT_ONCE = 1024 * 1024


class Body:
    """Collects one body. ``encoding`` is its content-encoding header. Encodings other than gzip and deflate are kept
    as sent, and make the body unreadable. With a ``sink`` the decoded bytes go there, without a bound."""

    def __init__(self, encoding: str, max_bytes: int, sink: Callable[[bytes], object] | None = None) -> None:
        coding = encoding.strip().lower()
        is_deflated = coding in ("gzip", "x-gzip", "deflate")
        self._is_known = is_deflated or coding in ("", "identity")
        self._max_bytes = max_bytes if sink is None else sys.maxsize // 2
        self._sink = sink
        self._parts: list[bytes] = []
        self._size = 0
        self._members = 1
        self._head: bytes | None = b"" if coding == "deflate" else None  # until its form is known
        self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB) if is_deflated else None
        self.is_too_long = False
        self.is_damaged = False

    @property
    def is_readable(self) -> bool:
        """Whether the collected bytes can be a whole body. The transport decides whether the transfer was complete."""
        unfinished = self._inflater is not None and self._size > 0 and not self._inflater.eof
        return self._is_known and not (unfinished or self.is_too_long or self.is_damaged)

    def content(self) -> bytes:
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return whole[:KEPT_OF_TOO_LONG] if self.is_too_long else whole

    def feed(self, chunk: bytes) -> bool:
        """Add bytes as they arrived. False: the body is too long or damaged, and is read no further."""
        try:
            for piece in (chunk,) if self._inflater is None else self._inflated(self._inflater, chunk):
                if piece and self._sink is not None:
                    self._sink(piece)
                elif piece:
                    self._parts.append(piece)
                self._size += len(piece)
                self.is_too_long = self._size > self._max_bytes
        except zlib.error:
            self.is_damaged = True
        return not (self.is_too_long or self.is_damaged)

    def _inflated(self, inflater: zlib._Decompress, chunk: bytes) -> Iterator[bytes]:
        if self._head is not None:
            chunk, self._head = self._head + chunk, None
            if len(chunk) < 2:
                self._head = chunk
                return
            if not _has_zlib_head(chunk):
                inflater = zlib.decompressobj(_RAW_DEFLATE)
        while chunk and not (self.is_too_long or self.is_damaged):
            if inflater.eof:  # gzip members may follow each other
                self._members += 1
                self.is_damaged = self._members > MOST_MEMBERS
                inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
            # one byte more than allowed shows that the body is too long
            yield inflater.decompress(chunk, min(self._max_bytes - self._size + 1, MOST_AT_ONCE))
            chunk = inflater.unconsumed_tail or inflater.unused_data
        self._inflater = inflater


def _has_zlib_head(start: bytes) -> bool:
    """Whether "deflate" is not the raw form, which some servers send. Gzip under that name counts too."""
    is_zlib = start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    return is_zlib or start[:2] == b"\x1f\x8b"
