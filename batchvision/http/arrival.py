"""One HTTP/1.1 response as it arrives, parsed by llhttp. Sans-IO.

``status`` is set when the head is complete, and ``is_whole`` when the body has reached its announced end.
``may_be_followed`` is set only where the same connection can carry another response.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from batchvision.http.library import httpx

#: A longer head, or longer trailers, end the response.
MAX_HEAD_BYTES = 64 * 1024
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class Arrival:
    """One response so far. ``status`` is ``None`` before the head. ``error`` is the cause of an early end."""

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
        self.is_over = False  #: no further bytes belong to this response
        self.is_whole = False
        self.may_be_followed = False
        self.error: httpx.TransportError | None = None
        self.unread_bytes = 0  #: bytes of the body for :meth:`take`
        self._chunks: list[bytes] = []
        self._headless_bytes = 0
        self._is_framed = False  # the head gives the length; otherwise the body ends with the connection
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        # an odd character in a header must not lose a paid answer; framing stays strict
        self._parser.set_dangerous_leniencies(lenient_headers=True)

    def take(self) -> list[bytes]:
        """The new pieces of the body since the last call, encoded as sent."""
        chunks, self._chunks, self.unread_bytes = self._chunks, [], 0
        return chunks

    # ---------------------------------------------------------------------------- events of the connection

    def feed(self, came: bytes | memoryview) -> None:
        """Parse received bytes. The caller may reuse their buffer."""
        if self._parser is None:
            raise RuntimeError("bytes were fed to an answer that is over")
        self._headless_bytes += len(came)
        try:
            self._parser.feed_data(came)
        except HttpParserUpgrade:
            self.end(httpx.RemoteProtocolError("the server changes the protocol"))
        except HttpParserError as error:
            self.end(httpx.RemoteProtocolError(f"what came is no HTTP response ({error})"))
        if self._headless_bytes > MAX_HEAD_BYTES:
            self.end(httpx.RemoteProtocolError("the response's head is too long"))

    def hang_up(self, error: Exception | None) -> None:
        """Handle the end of the connection: orderly without ``error``, otherwise broken."""
        if error is not None:
            broken = httpx.ReadError(reason(error))
            broken.__cause__ = error
            self.end(broken)
            return
        if self.status is not None and not self._is_framed and not self.is_over:
            self.is_whole = True
        self.end(httpx.RemoteProtocolError("the server hung up"))

    def end(self, error: httpx.TransportError) -> None:
        """End the response. A complete response stays complete, but no further response may follow."""
        self.may_be_followed = False
        if not self.is_over:
            self.is_over, self.error = True, error

    def let_go(self) -> None:
        """Break the reference cycle with the parser."""
        self._parser = None

    # ---------------------------------------------------------------------------- callbacks of the parser

    def on_message_begin(self) -> None:
        if self.is_over:  # bytes after the end of the response
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
        if status < 200:  # an interim response: the final one follows
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
