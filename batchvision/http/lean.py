"""The lean transport: direct HTTP/1.1 connections over httptools, behind httpx's transport interface.

It follows no redirects, keeps no cookies, uses no proxy, and never sends a request twice: an answer that can be read
once only is read by one request. After ConnectError and ConnectTimeout no byte of the request has left. After any other
error the request may have left.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import NamedTuple

import anyio

from batchvision.http.arrival import Arrival, reason
from batchvision.http.connection import NO_CONNECTION, PORTS, Connection, ConnectionPool
from batchvision.http.library import httpx
from batchvision.http.tls import default_context

CONNECT_TIMEOUT_SECONDS = 10.0
#: Idle connections are kept for at most this number of servers. Images may be on thousands of hosts.
MOST_ORIGINS = 64
_READ_BYTES = 64 * 1024
_CLOSE_SECONDS = 2.0


class Origin(NamedTuple):
    """One server. Its certificate must be for ``name``."""

    scheme: str
    host: str
    port: int
    name: str


class LeanTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 to any number of servers. At most ``most_idle`` idle connections to each are kept.

    ``context`` verifies https servers. Its default is :func:`batchvision.http.tls.default_context`. A request may have
    these extensions:

    - ``timeout``: only ``connect`` is used. The caller bounds the rest by cancellation.
    - ``sni_hostname``: the host name for the certificate.
    - ``target``: path and query as sent, instead of those of the URL.
    - ``trace``: called with ``connection.connect_tcp.started`` before the connection, and with
      ``http11.send_request_headers.started`` immediately before the request leaves.
    """

    def __init__(self, context: ssl.SSLContext | None = None, *, most_idle: int = 64) -> None:
        self._context = context
        self._most_idle = most_idle
        self._origins: OrderedDict[Origin, ConnectionPool] = OrderedDict()
        self._buffer = memoryview(bytearray(_READ_BYTES))

    def __repr__(self) -> str:
        return f"LeanTransport(most_idle={self._most_idle})"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request, wait for the head of the response, and return it with its body as a stream."""
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise RuntimeError("the body of a request must be an AsyncByteStream")
        connections, head = self._connections_to(_origin(request)), _head(request)
        connection = connections.take_idle() or await _connected(connections, request)
        arrival = Arrival()
        try:
            await _trace(request, "http11.send_request_headers.started")
            await connection.send(head, aiter(request.stream), arrival)
            while arrival.status is None and not arrival.is_over:
                await connection.changed()
            if arrival.status is None:
                if arrival.error is None:
                    raise RuntimeError("an answer ended early without an error")
                raise arrival.error
        except BaseException:
            arrival.may_be_followed = False
            connections.give_back(connection)
            raise
        return httpx.Response(arrival.status, headers=arrival.headers, stream=_Body(connections, connection, arrival))

    async def aclose(self) -> None:
        """End all connections."""
        with anyio.CancelScope(shield=True):
            while self._origins:
                _, connections = self._origins.popitem()
                await connections.close(_CLOSE_SECONDS)

    def _connections_to(self, origin: Origin) -> ConnectionPool:
        connections = self._origins.get(origin)
        if connections is None:
            if origin.scheme == "https" and self._context is None:
                self._context = default_context()
            context = self._context if origin.scheme == "https" else None
            connections = ConnectionPool(origin.host, origin.port, context, origin.name, self._most_idle, self._buffer)
            self._origins[origin] = connections
            if len(self._origins) > MOST_ORIGINS:  # forget the least recently used one, if it has no request in flight
                oldest, unused = next(iter(self._origins.items()))
                if unused.is_idle:
                    del self._origins[oldest]
                    unused.close_idle()
        elif len(self._origins) > 1:
            self._origins.move_to_end(origin)
        return connections


@dataclass(eq=False, repr=False)
class _Body(httpx.AsyncByteStream):
    """The body of a response, encoded as sent. Closing it gives its connection back."""

    connections: ConnectionPool
    connection: Connection | None
    arrival: Arrival

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the body. Raises ReadError or RemoteProtocolError at the end of an incomplete body."""
        arrival = self.arrival
        while True:
            for piece in arrival.take():
                yield piece
            if arrival.is_over and not arrival.unread_bytes:
                break
            if self.connection is None:
                raise RuntimeError("the body was read after it was closed")
            self.connection.resume()
            if not arrival.unread_bytes and not arrival.is_over:
                await self.connection.changed()
        if not arrival.is_whole:
            if arrival.error is None:
                raise RuntimeError("an answer ended early without an error")
            raise arrival.error

    async def aclose(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            self.connections.give_back(connection)


def _origin(request: httpx.Request) -> Origin:
    url = request.url
    host = url.raw_host.decode("ascii")
    port = url.port or PORTS.get(url.scheme)
    if port is None or not host:
        raise httpx.UnsupportedProtocol("only http:// and https:// URLs can be asked")
    return Origin(url.scheme, host, port, request.extensions.get("sni_hostname") or host)


async def _trace(request: httpx.Request, event: str) -> None:
    trace = request.extensions.get("trace")
    if trace is not None:
        await trace(event, {"request": request})


async def _connected(connections: ConnectionPool, request: httpx.Request) -> Connection:
    """Open a connection. Raises ConnectTimeout or ConnectError."""
    await _trace(request, "connection.connect_tcp.started")
    seconds = request.extensions.get("timeout", {}).get("connect") or CONNECT_TIMEOUT_SECONDS
    try:
        return await connections.connect(seconds)
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"no connection within {seconds:g} s") from error
    except NO_CONNECTION as error:
        raise httpx.ConnectError(reason(error)) from error


def _head(request: httpx.Request) -> bytes:
    """The request line and the header lines. Raises LocalProtocolError for a header with a line break."""
    lines = [b"%b: %b\r\n" % header for header in request.headers.raw]
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        raise httpx.LocalProtocolError("a request header holds a line break")
    target = request.extensions.get("target", request.url.raw_path)
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode("ascii"), target, head)
