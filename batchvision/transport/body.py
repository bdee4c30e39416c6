"""A body as it arrives: decoded piece by piece, and never more of it than allowed. Sans-IO.

Rule: the cap is on *decoded* bytes, so that 200 KB of gzip cannot become 200 MB.
"""

from __future__ import annotations

import zlib

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_RAW_DEFLATE = -zlib.MAX_WBITS
#: Of a body over the cap so much is kept: enough to see what it was.
KEPT_OF_TOO_LONG = 64 * 1024


class Body:
    """Collects one body. ``encoding`` is the content-encoding header; others than gzip and deflate are kept as sent."""

    def __init__(self, encoding: str, max_bytes: int) -> None:
        self._coding = encoding.strip().lower()
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []
        self._size = 0
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
        while chunk and self.wants_more:
            if self._inflater.eof:  # gzip members may follow each other
                self._inflater = zlib.decompressobj(_GZIP_OR_ZLIB)
            self._keep(self._inflate(self._inflater, chunk))
            chunk = self._inflater.unconsumed_tail or self._inflater.unused_data
        return None

    def _inflate(self, inflater: zlib._Decompress, chunk: bytes) -> bytes:
        allowed = self._max_bytes - self._size + 1  # one more byte shows that there is more
        try:
            return inflater.decompress(chunk, allowed)
        except zlib.error:
            if self._coding != "deflate" or self._size:
                raise
            self._inflater = zlib.decompressobj(_RAW_DEFLATE)  # some servers mean the raw form by "deflate"
            return self._inflater.decompress(chunk, allowed)

    def _keep(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._size += len(piece)
        self.is_too_long = self._size > self._max_bytes
