"""Connections to one server. Each carries one request at a time and is then reused, the last used one first.

Before :meth:`Connection.send` no byte of a request has left. So after a failure in :meth:`ConnectionPool.connect` it
was not sent. No request is sent twice.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import cast

from aiohappyeyeballs import AddrInfoType, start_connection

from batchvision.http.arrival import Arrival

KEPT_IDLE_SECONDS = 15.0  #: Servers close idle connections. A request that meets this close may have been billed.
RESOLVED_SECONDS = 10.0  #: Resolved addresses are used for this time.
PORTS = {"http": 80, "https": 443}  #: the default port of each scheme
#: No connection could be made. OSError covers timeouts, DNS and TLS, and UnicodeError an invalid name.
NO_CONNECTION = (OSError, UnicodeError)
_SECOND_ADDRESS_SECONDS = 0.25  #: Delay before the next address is tried in parallel (RFC 8305).
_LARGE_BYTES = 64 * 1024  #: Larger bodies (images) are written without a copy.
_MAX_UNREAD_BYTES = 256 * 1024  #: With more unread bytes of a body, reading from the socket pauses.


class Connection(asyncio.BufferedProtocol):
    """An open connection. ``forget`` is called at its end. All connections share one ``buffer``, because received bytes
    are parsed immediately."""

    def __init__(self, forget: Callable[[Connection], None], buffer: memoryview) -> None:
        self._buffer = buffer
        self.idle_since = 0.0
        self._forget = forget
        self._arrival: Arrival | None = None
        self._change: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None  #: set while too many bytes wait to be written
        self._is_paused = False
        self._transport: asyncio.Transport

    @property
    def is_usable(self) -> bool:
        """Whether the connection is open, and the previous request has left completely."""
        return not self.is_closing and self._transport.get_write_buffer_size() == 0

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    @property
    def has_unread_bytes(self) -> bool:
        """Whether the server has sent something, or hung up, that the event loop has not read yet."""
        watch = select.poll()
        watch.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(watch.poll(0))

    async def send(self, head: bytes, pieces: AsyncIterator[bytes], arrival: Arrival) -> None:
        """Send a request. ``arrival`` receives its response. If it begins early, the rest of the body is not sent."""
        self._arrival = arrival
        self._send_first(head, await anext(pieces, b""), arrival)
        async for piece in pieces:
            if arrival.status is not None or arrival.is_over:
                arrival.may_be_followed = False
                return
            self._transport.write(piece)
            if self._room is not None:
                await self._room

    def _send_first(self, head: bytes, body: bytes, arrival: Arrival) -> None:
        if self.is_closing:
            arrival.hang_up(None)
            return
        if len(body) > _LARGE_BYTES:  # writelines copies before Python 3.12
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.writelines((head, body))

    async def changed(self) -> None:
        """Wait for more bytes of the response, or for its end."""
        self._change = asyncio.get_running_loop().create_future()
        await self._change

    def resume(self) -> None:
        """Read from the socket again: the received bytes have been taken."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def finish(self) -> bool:
        """End the current request. Returns whether the connection may carry another one; otherwise it is closed."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.let_go()
            if arrival.may_be_followed:
                return True
        self._transport.abort()
        return False

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    # ---------------------------------------------------------------------------- events of the loop

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._room = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        arrival = self._arrival
        if arrival is None:  # bytes without a request would look like the next response
            self._transport.abort()
            return
        arrival.feed(self._buffer[:nbytes])
        if arrival.unread_bytes > _MAX_UNREAD_BYTES and not arrival.is_over:
            self._is_paused = True
            self._transport.pause_reading()
        if arrival.status is not None or arrival.is_over:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._forget(self)
        self.resume_writing()
        if self._arrival is not None:
            self._arrival.hang_up(error)
            self._wake()

    def _wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)


class ConnectionPool:
    """The connections to one host, in the running loop. ``context`` is ``None`` for plain http. The certificate must be
    for ``server_name``. At most ``most_idle`` idle connections are kept."""

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext | None, server_name: str, most_idle: int, buffer: memoryview
    ) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._server_name = server_name
        self._most_idle = most_idle
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._in_use = 0
        self._all_gone: asyncio.Event | None = None
        self._resolving = asyncio.Lock()
        self._addresses: list[AddrInfoType] = []
        self._resolved_until = 0.0
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()

    @property
    def is_idle(self) -> bool:
        """Whether no request uses a connection or waits for a new one."""
        return self._in_use == 0

    def take_idle(self) -> Connection | None:
        """An idle connection that can carry a request now, or ``None``."""
        oldest = self._loop.time() - KEPT_IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and connection.is_usable and not connection.has_unread_bytes:
                self._in_use += 1
                return connection
            connection.close()
        return None

    async def connect(self, timeout_seconds: float) -> Connection:
        """Open a connection. Raises OSError (also TimeoutError) or UnicodeError."""
        self._in_use += 1
        try:
            return await self._connect(timeout_seconds)
        except BaseException:
            self._in_use -= 1
            raise

    def give_back(self, connection: Connection) -> None:
        """End the request of a connection, and keep the connection if it can carry another request."""
        self._in_use -= 1
        if not connection.finish():
            return
        now = self._loop.time()
        if not connection.is_usable or len(self._idle) >= self._most_idle or self._all_gone is not None:
            connection.close()
            return
        connection.idle_since = now
        self._idle.append(connection)
        while self._idle[0].idle_since < now - KEPT_IDLE_SECONDS:
            self._idle.popleft().close()

    def close_idle(self) -> None:
        """Close the idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def close(self, timeout_seconds: float) -> None:
        """Close all connections, and wait for their end."""
        self._all_gone = asyncio.Event()
        for connection in tuple(self._open):
            connection.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self._open:
                    await self._all_gone.wait()

    async def _connect(self, timeout_seconds: float) -> Connection:
        async with asyncio.timeout(timeout_seconds):
            try:
                addresses = await self._resolved()
                channel = await start_connection(
                    addresses, happy_eyeballs_delay=_SECOND_ADDRESS_SECONDS, interleave=1, loop=self._loop
                )
            except OSError:
                self._resolved_until = 0.0
                raise
            _, connection = await self._loop.create_connection(
                lambda: Connection(self._lost, self._buffer),
                sock=channel,
                ssl=self._context,
                server_hostname=None if self._context is None else self._server_name,
            )
        self._open.add(connection)
        if connection.is_closing:
            self._lost(connection)
            raise ConnectionResetError("the server hung up at once")
        return connection

    async def _resolved(self) -> list[AddrInfoType]:
        """The addresses of the host, resolved once for concurrent connections."""
        async with self._resolving:
            if self._loop.time() >= self._resolved_until:
                found = await self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._addresses = list(found)
                self._resolved_until = self._loop.time() + RESOLVED_SECONDS
        return self._addresses

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._all_gone is not None and not self._open:
            self._all_gone.set()
