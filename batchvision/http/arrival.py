"""One response as it arrives on a connection, HTTP/1.1 parsed by llhttp. Sans-IO: bytes in, events out.

Rule: nothing is guessed. ``status`` is set when the head is whole, ``is_whole`` when the body has reached its announced
end, and ``may_be_followed`` only where another response can come after it on the same connection.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from batchvision.http.library import httpx

#: A head, or trailers, may have so many bytes without a byte of a body in between.
MOST_HEAD_BYTES = 64 * 1024
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Arrival:
    """One response so far. ``status`` None: no head yet. ``error``: why it ended early."""

    __slots__ = (
        "_chunks",
        "_headless_bytes",
        "_is_framed",
        "_parser",
        "error",
        "headers",
        "is_over",
        "is_whole",
        "may_be_followed",
        "status",
        "unread_bytes",
    )

    def __init__(self) -> None:
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_over = False  #: nothing more of it can come
        self.is_whole = False
        self.may_be_followed = False
        self.error: httpx.TransportError | None = None
        self.unread_bytes = 0  #: of the body, waiting in :meth:`take`
        self._chunks: list[bytes] = []
        self._headless_bytes = 0
        self._is_framed = False  # the head says where the body ends; otherwise the connection's end is its end
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        # an odd character in some header is no reason to lose an answer that was paid for; framing stays strict
        self._parser.set_dangerous_leniencies(lenient_headers=True)

    def take(self) -> list[bytes]:
        """The pieces of the body that have come since the last call, still encoded as sent."""
        chunks, self._chunks, self.unread_bytes = self._chunks, [], 0
        return chunks

    # ---------------------------------------------------------------------------- events of the connection

    def feed(self, came: bytes | memoryview) -> None:
        """Parse bytes that have come. None of them is kept as it is."""
        if self._parser is None:
            raise RuntimeError("bytes were fed to an answer that is over")
        self._headless_bytes += len(came)
        try:
            self._parser.feed_data(came)
        except HttpParserUpgrade:
            self.end(httpx.RemoteProtocolError("the server changes the protocol"))
        except HttpParserError as error:
            self.end(httpx.RemoteProtocolError(f"what came is no HTTP response ({error})"))
        if self._headless_bytes > MOST_HEAD_BYTES:
            self.end(httpx.RemoteProtocolError("the response's head is too long"))

    def hang_up(self, error: Exception | None) -> None:
        """The connection has ended: in order (``error`` None), or broken."""
        if error is not None:
            broken = httpx.ReadError(reason(error))
            broken.__cause__ = error
            self.end(broken)
            return
        if self.status is not None and not self._is_framed and not self.is_over:
            self.is_whole = True
        self.end(httpx.RemoteProtocolError("the server hung up"))

    def end(self, error: httpx.TransportError) -> None:
        """Read no more of it. A response that is over already stays whole, but no other one may follow it."""
        self.may_be_followed = False
        if not self.is_over:
            self.is_over, self.error = True, error

    def let_go(self) -> None:
        """Break the reference cycle with the parser."""
        self._parser = None

    # ---------------------------------------------------------------------------- callbacks of the parser

    def on_message_begin(self) -> None:
        if self.is_over:  # bytes behind the end that were not asked for
            self.may_be_followed = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status is not None:  # a trailer
            return
        if name.lower() in _FRAMING:
            self._is_framed = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._parser is None:
            raise RuntimeError("an answer that is over was parsed")
        if self.is_over:
            return
        status = self._parser.get_status_code()
        if status < 200:  # an interim response: the real one is still to come
            self.headers, self._is_framed = [], False
            return
        self.status = status

    def on_body(self, piece: bytes) -> None:
        self._headless_bytes = 0
        if not self.is_over:
            self._chunks.append(piece)
            self.unread_bytes += len(piece)

    def on_message_complete(self) -> None:
        if self.status is None or self.is_over:
            return
        if self._parser is None:
            raise RuntimeError("an answer that is over was parsed")
        self.is_whole = self.is_over = True
        self._headless_bytes = 0
        self.may_be_followed = self._parser.should_keep_alive()


def innermost(error: BaseException) -> BaseException:
    """The first cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def reason(error: BaseException) -> str:
    """The first cause of an error, on one line."""
    cause = innermost(error)
    return " ".join(str(cause).split())[:300] or type(cause).__name__
