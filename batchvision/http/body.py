"""A body as it arrives: decoded piece by piece, and never more of it than allowed. Sans-IO.

Rule: the cap is on *decoded* bytes, so that 200 KB of gzip cannot become 200 MB.
"""

from __future__ import annotations

import zlib

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_RAW_DEFLATE = -zlib.MAX_WBITS
#: Of a body over the cap so much is kept: enough to see what it was.
KEPT_OF_TOO_LONG = 64 * 1024
#: Gzip members one after the other; each may be of nothing, and there may be no end of them.
MOST_MEMBERS = 10_000


class Body:
    """Collects one body. ``encoding`` is the content-encoding header; others than gzip and deflate are kept as sent."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._coding = encoding.strip().lower()
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._members = 1
        self._head: bytes | None = b"" if self._coding == "deflate" else None  # until its form is known
        self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB) if self._is_deflated else None
        self.is_too_long = False
        self.is_damaged = False

    @property
    def _is_deflated(self) -> bool:
        return self._coding in ("gzip", "x-gzip", "deflate")

    @property
    def is_readable(self) -> bool:
        """Whether what was collected can be a whole body (the end of the transfer itself is for others to see)."""
        known = self._is_deflated or self._coding in ("", "identity")
        unfinished = self._inflater is not None and self._size > 0 and not self._inflater.eof
        return known and not (unfinished or self.is_too_long or self.is_damaged)

    @property
    def wants_more(self) -> bool:
        return not (self.is_too_long or self.is_damaged)

    def content(self) -> bytes:
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        return whole[:KEPT_OF_TOO_LONG] if self.is_too_long else whole

    def feed(self, chunk: bytes) -> None:
        try:
            self._feed(chunk)
        except zlib.error:
            self.is_damaged = True

    def _feed(self, chunk: bytes) -> None:
        if self._inflater is None:
            return self._keep(chunk)
        if self._head is not None:
            chunk, self._head = self._head + chunk, None
            if len(chunk) < 2:
                self._head = chunk
                return None
            if not _has_zlib_head(chunk):
                self._inflater = zlib.decompressobj(_RAW_DEFLATE)
        while chunk and self.wants_more:
            if self._inflater.eof:  # gzip members may follow each other
                self._members += 1
                self.is_damaged = self._members > MOST_MEMBERS
                self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
            # one more byte than allowed shows that there is more
            self._keep(self._inflater.decompress(chunk, self._max_bytes - self._size + 1))
            chunk = self._inflater.unconsumed_tail or self._inflater.unused_data
        return None

    def _keep(self, piece: bytes) -> None:
        if piece:
            self._parts.append(piece)
        self._size += len(piece)
        self.is_too_long = self._size > self._max_bytes


def _has_zlib_head(start: bytes) -> bool:
    """Some servers mean the raw form by "deflate"; others send gzip under that name."""
    is_zlib = start[0] & 0x0F == 8 and int.from_bytes(start[:2], "big") % 31 == 0
    return is_zlib or start[:2] == b"\x1f\x8b"
