"""One answer as it arrives on a connection, HTTP/1.1 parsed by llhttp. Sans-IO: bytes in, what they say out.

Rule: nothing is guessed. ``status`` is set when the answer's head is whole, ``is_whole`` when its body has reached the
end that was announced, and ``may_be_followed`` only where another answer can come after it on the same connection.
"""

from __future__ import annotations

from functools import lru_cache

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from batchvision.transport.body import Body

#: Of a head, or of trailers: without a byte of a body in between, so much and no more is read.
MOST_HEAD_BYTES = 64 * 1024
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_READ_HEADERS = _FRAMING | {
    *("content-encoding", "content-type", "date", "x-request-id", "x-generation-id"),
    *("retry-after", "retry-after-ms", "x-should-retry"),
}


@lru_cache(maxsize=256)  # answer after answer has the same
def _known(name: bytes) -> str | None:
    """A header's name in lower case, where what it says is read; None of all others."""
    known = name.lower().decode("ascii", "replace")
    is_read = known in _READ_HEADERS or "ratelimit" in known or known.startswith("x-openrouter-cache")
    return known if is_read else None


class Arrival:
    """Of one answer, so far: ``status`` None: no head yet. ``fault``: why it ended early, in words."""

    __slots__ = (
        "_encoding",
        "_headless_bytes",
        "_is_framed",
        "_max_bytes",
        "_parser",
        "body",
        "fault",
        "headers",
        "is_late",
        "is_over",
        "is_whole",
        "may_be_followed",
        "status",
    )

    def __init__(self, max_bytes: int) -> None:
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = Body("", max_bytes)
        self.is_over = False  #: nothing more of it is wanted, or can come
        self.is_whole = False
        self.is_late = False
        self.may_be_followed = False
        self.fault = ""
        self._max_bytes = max_bytes
        self._headless_bytes = 0
        self._encoding = ""
        self._is_framed = False  # the head says where the body ends; otherwise the connection's end is its end
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        # an odd character in some header is no reason to lose an answer that was paid for; framing stays strict
        self._parser.set_dangerous_leniencies(lenient_headers=True)

    # ---------------------------------------------------------------------------- what happens on the connection

    def feed(self, came: bytes | memoryview) -> None:
        """Bytes have come. None of them is kept as it is."""
        assert self._parser is not None, "it is over"
        self._headless_bytes += len(came)
        try:
            self._parser.feed_data(came)
        except HttpParserUpgrade:
            self.end("it changes the protocol")
        except HttpParserError as error:
            self.end(f"what came is no HTTP answer ({error})")
        if self._headless_bytes > MOST_HEAD_BYTES:
            self.end("its head is too long")

    def hang_up(self, fault: str) -> None:
        """The connection has ended: in order (``fault`` empty), or broken."""
        if self.status is not None and not self._is_framed and not fault and not self.is_over:
            self.is_whole = True
        self.end(fault or "the server hung up")

    def end(self, fault: str, *, is_late: bool = False) -> None:
        """Nothing more is read of it. What is over stays as it is, but nothing may follow it any more."""
        self.may_be_followed = False
        if not self.is_over:
            self.is_over, self.fault, self.is_late = True, fault, is_late

    def let_go(self) -> None:
        """The parser and this object hold each other."""
        self._parser = None

    # ---------------------------------------------------------------------------- what the parser says

    def on_message_begin(self) -> None:
        if self.is_over:  # bytes behind the end that nobody asked for
            self.may_be_followed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status is not None:  # a trailer
            return
        known = _known(name)
        if known is None:
            return
        if known in _FRAMING:
            self._is_framed = True
        elif known == "content-encoding":
            self._encoding = value.decode("latin-1")
        else:
            self.headers[known] = value.decode("utf-8", "replace")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self.is_over:
            return
        if status < 200:  # an interim answer: the real one is still to come
            self.headers, self._encoding, self._is_framed = {}, "", False
            return
        self.status = status
        if self._encoding:
            self.body = Body(self._encoding, self._max_bytes)

    def on_body(self, piece: bytes) -> None:
        self._headless_bytes = 0
        if self.is_over:
            return
        self.body.feed(piece)
        if not self.body.wants_more:
            self.end("its body is damaged, or too long")

    def on_message_complete(self) -> None:
        if self.status is None or self.is_over:
            return
        assert self._parser is not None
        self.is_whole = self.is_over = True
        self._headless_bytes = 0
        self.may_be_followed = self._parser.should_keep_alive()
