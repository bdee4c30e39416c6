"""The lean transport: direct HTTP/1.1 connections over httptools, behind httpx's transport interface.

It costs about as much as a bare aiohttp loop. It follows no redirects, keeps no cookies, uses no proxy, and never sends
a request twice: a one-time answer is read by one request only.

Rule: ConnectError and ConnectTimeout mean that no byte of the request left; any other error means that it may have.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import NamedTuple

import anyio

from batchvision.http.arrival import Arrival, reason
from batchvision.http.connection import Connection, Connections
from batchvision.http.library import httpx
from batchvision.http.tls import default_context

CONNECT_TIMEOUT_SECONDS = 10.0
#: Idle connections are kept for so many servers. Images can lie on thousands of hosts.
MOST_ORIGINS = 64
_READ_BYTES = 64 * 1024
_CLOSE_SECONDS = 2.0
_PORTS = {"http": 80, "https": 443}
_NO_CONNECTION = (OSError, UnicodeError)  # TimeoutError, gaierror and SSLError are OSErrors; a host may be no name


class Origin(NamedTuple):
    """One server. ``name``: the host name its certificate must be for."""

    scheme: str
    host: str
    port: int
    name: str


class LeanTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 to any number of servers. ``most_idle`` connections to each are kept while they are not used.

    ``context`` verifies https servers. Its default is :func:`batchvision.http.tls.default_context`. A request may have
    these extensions:

    - ``timeout``: its ``connect`` alone. The caller bounds the rest by cancelling.
    - ``sni_hostname``: the name that the certificate must be for.
    - ``target``: path and query as they are sent, in place of the URL's own.
    - ``trace``: is called with ``connection.connect_tcp.started`` (nothing has left yet) and
      ``http11.send_request_headers.started`` (the request leaves now).
    """

    def __init__(self, context: ssl.SSLContext | None = None, *, most_idle: int = 64) -> None:
        self._context = context
        self._most_idle = most_idle
        self._origins: OrderedDict[Origin, Connections] = OrderedDict()
        self._buffer = memoryview(bytearray(_READ_BYTES))

    def __repr__(self) -> str:
        return f"LeanTransport(most_idle={self._most_idle})"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request and return its response when the head is there; the body is read from its stream."""
        if not isinstance(request.stream, httpx.AsyncByteStream):
            raise RuntimeError("the body of a request must be an AsyncByteStream")
        connections, head = self._connections_to(_origin(request)), _head(request)
        connection = connections.take_idle() or await _connected(connections, request)
        arrival = Arrival()
        try:
            body = b"".join([piece async for piece in request.stream])
            await _trace(request, "http11.send_request_headers.started")
            connection.send(head, body, arrival)
            del body  # what has left is not held until the response comes
            while arrival.status is None and not arrival.is_over:
                await connection.news()
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

    def _connections_to(self, origin: Origin) -> Connections:
        connections = self._origins.get(origin)
        if connections is None:
            context = self._verifying() if origin.scheme == "https" else None
            connections = Connections(origin.host, origin.port, context, origin.name, self._most_idle, self._buffer)
            self._origins[origin] = connections
            self._forget_one()
        elif len(self._origins) > 1:
            self._origins.move_to_end(origin)
        return connections

    def _forget_one(self) -> None:
        """The server not used for longest, if no request is on its way to it."""
        if len(self._origins) > MOST_ORIGINS:
            oldest, connections = next(iter(self._origins.items()))
            if connections.is_idle:
                del self._origins[oldest]
                connections.close_idle()

    def _verifying(self) -> ssl.SSLContext:
        if self._context is None:
            self._context = default_context()
        return self._context


class _Body(httpx.AsyncByteStream):
    """The body of a response, still encoded as sent. Its connection is given back when it is closed."""

    def __init__(self, connections: Connections, connection: Connection, arrival: Arrival) -> None:
        self._connections = connections
        self._connection: Connection | None = connection
        self._arrival = arrival

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Raises ReadError or RemoteProtocolError where the body ends early, after all that has come of it."""
        arrival = self._arrival
        while True:
            for piece in arrival.take():
                yield piece
            if arrival.is_over and not arrival.unread_bytes:
                break
            if self._connection is None:
                raise RuntimeError("the body was read after it was closed")
            self._connection.resume()
            if not arrival.unread_bytes and not arrival.is_over:
                await self._connection.news()
        if not arrival.is_whole:
            if arrival.error is None:
                raise RuntimeError("an answer ended early without an error")
            raise arrival.error

    async def aclose(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._connections.give_back(connection)


def _origin(request: httpx.Request) -> Origin:
    url = request.url
    host = url.raw_host.decode("ascii")
    port = url.port or _PORTS.get(url.scheme)
    if port is None or not host:
        raise httpx.UnsupportedProtocol("only http:// and https:// URLs can be asked")
    return Origin(url.scheme, host, port, request.extensions.get("sni_hostname") or host)


async def _trace(request: httpx.Request, event: str) -> None:
    trace = request.extensions.get("trace")
    if trace is not None:
        await trace(event, {"request": request})


async def _connected(connections: Connections, request: httpx.Request) -> Connection:
    """A new connection. Raises ConnectTimeout or ConnectError."""
    await _trace(request, "connection.connect_tcp.started")
    seconds = request.extensions.get("timeout", {}).get("connect") or CONNECT_TIMEOUT_SECONDS
    try:
        return await connections.connect(seconds)
    except TimeoutError as error:
        raise httpx.ConnectTimeout(f"no connection within {seconds:g} s") from error
    except _NO_CONNECTION as error:
        raise httpx.ConnectError(reason(error)) from error


def _head(request: httpx.Request) -> bytes:
    """The request line and the header lines. Raises LocalProtocolError for a header with a line break."""
    lines = [b"%b: %b\r\n" % header for header in request.headers.raw]
    head = b"".join(lines)
    if head.count(b"\n") != len(lines) or head.count(b"\r") != len(lines):
        raise httpx.LocalProtocolError("a request header holds a line break")
    target = request.extensions.get("target", request.url.raw_path)
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode("ascii"), target, head)
