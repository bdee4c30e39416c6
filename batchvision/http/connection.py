"""Connections to one server: one request at a time on each, kept for the next one. The last used is taken first.

Rule: a request is on its way from the moment :meth:`Connection.send` is called, and not before: each failure in
:meth:`Connections.connect` happened before its first byte left. Nothing is ever sent a second time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from aiohappyeyeballs import AddrInfoType, start_connection

from batchvision.http.arrival import Arrival

KEPT_IDLE_SECONDS = 15.0  #: servers drop idle connections, and a request that meets such an end may have been billed
RESOLVED_SECONDS = 10.0  #: how long the addresses of a name are used
_SECOND_ADDRESS_SECONDS = 0.25  #: after which another address is tried beside a silent one (RFC 8305)
_READ_BYTES = 64 * 1024  #: at once, from one connection
_LARGE_BYTES = 64 * 1024  #: a body with an image in it
_MOST_UNREAD_BYTES = 256 * 1024  #: of a body: the socket is read no further until its reader has taken them


class Connection(asyncio.BufferedProtocol):
    """An open connection. ``forget`` is called when it has ended. All connections share one ``buffer``, because
    received bytes are parsed at once."""

    def __init__(self, forget: Callable[[Connection], None], buffer: memoryview) -> None:
        self._buffer = buffer
        self.idle_since = 0.0
        self._forget = forget
        self._arrival: Arrival | None = None
        self._news: asyncio.Future[None] | None = None
        self._is_paused = False
        self._transport: asyncio.Transport

    @property
    def is_usable(self) -> bool:
        """Whether a request may leave on it: it is open, and all of the one before has left."""
        return not self.is_closing and self._transport.get_write_buffer_size() == 0

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def send(self, head: bytes, body: bytes, arrival: Arrival) -> None:
        """Send a request; its response comes to ``arrival``."""
        self._arrival = arrival
        if self.is_closing:
            arrival.hang_up(None)
            return
        if len(body) > _LARGE_BYTES:  # asyncio joins lines before Python 3.12: a copy costs more than a packet
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.writelines((head, body))

    async def news(self) -> None:
        """Return when more of the response has come, or it is over."""
        self._news = asyncio.get_running_loop().create_future()
        await self._news

    def resume(self) -> None:
        """The reader has taken what had come."""
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()

    def finish(self) -> bool:
        """The response is read. Whether the connection may carry another one; otherwise it ends."""
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

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        arrival = self._arrival
        if arrival is None:  # nothing was asked: these bytes cannot be told from the next response
            self._transport.abort()
            return
        arrival.feed(self._buffer[:nbytes])
        if arrival.unread_bytes > _MOST_UNREAD_BYTES and not arrival.is_over:
            self._is_paused = True
            self._transport.pause_reading()
        if arrival.status is not None or arrival.is_over:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._forget(self)
        if self._arrival is not None:
            self._arrival.hang_up(error)
            self._wake()

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Connections:
    """The connections to one host, in the running loop. ``context`` None: plain http. ``server_name`` is verified in
    the certificate. ``most_idle`` connections are kept while they are not used."""

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
        """Whether no request uses a connection or waits for one."""
        return self._in_use == 0

    def take_idle(self) -> Connection | None:
        """A kept connection that a request may leave on at once, or None."""
        oldest = self._loop.time() - KEPT_IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and connection.is_usable:
                self._in_use += 1
                return connection
            connection.close()
        return None

    async def connect(self, timeout_seconds: float) -> Connection:
        """A new connection. Raises OSError (TimeoutError too) or UnicodeError."""
        self._in_use += 1
        try:
            return await self._connect(timeout_seconds)
        except BaseException:
            self._in_use -= 1
            raise

    def give_back(self, connection: Connection) -> None:
        """Its response is read, or is not wanted any more: keep it for the next request, if it can carry one."""
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
        """End the connections that are not used."""
        while self._idle:
            self._idle.pop().close()

    async def close(self, patience_seconds: float) -> None:
        """End them all, and wait until they are gone."""
        self._all_gone = asyncio.Event()
        for connection in tuple(self._open):
            connection.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
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
        """The host's addresses; asked once for all that connect at the same time."""
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
