"""Connections to one server: one request at a time on each, kept for the next, the one used last first.

Rule: a request is on its way from the moment :meth:`Connection.carry` is called, and not a moment before: all that can
go wrong in :meth:`Connections.take` happened before its first byte left. Nothing is ever sent a second time.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from math import inf
from typing import cast

from aiohappyeyeballs import AddrInfoType, start_connection

from batchvision.records import Pieces, as_sent
from batchvision.transport.arrival import Arrival

KEPT_IDLE_SECONDS = 15.0  #: servers drop idle connections, and a request that meets such an end may have been billed
RESOLVED_SECONDS = 10.0  #: how long the addresses of a name are used
_SECOND_ADDRESS_SECONDS = 0.25  #: after which another address is tried beside a silent one (RFC 8305)
_READ_BYTES = 64 * 1024  #: at once, from one connection


class Deadlines:
    """Until when each answer is waited for. One timer watches over all, for hardly any is late: it is set for the
    earliest there was, and looks again then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._until: dict[Connection, float] = {}
        self._next_look = inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, connection: Connection, until: float) -> None:
        self._until[connection] = until
        if until < self._next_look:
            self._look_at(until)

    def forget(self, connection: Connection) -> None:
        del self._until[connection]

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, moment: float) -> None:
        self.close()
        self._next_look = moment
        self._timer = self.loop.call_at(moment, self._look)

    def _look(self) -> None:
        now = self.loop.time()
        for connection, until in self._until.items():
            if until <= now:
                connection.give_up()
        self._next_look = inf
        if later := [until for until in self._until.values() if until > now]:
            self._look_at(min(later))


class Connection(asyncio.BufferedProtocol):
    """An open connection. ``forget`` is told when it has ended. ``buffer``: what has come stands there until it is
    parsed, which is at once, so one will do for all connections. ``plain``: its socket, where nothing is encrypted."""

    def __init__(
        self,
        forget: Callable[[Connection], None],
        buffer: memoryview,
        deadlines: Deadlines,
        plain: socket.socket | None,
    ) -> None:
        self._buffer = buffer
        self._deadlines = deadlines
        self._plain = plain
        self._joins_pieces = False
        self.idle_since = 0.0
        self._forget = forget
        self._arrival: Arrival | None = None
        self._is_over: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport

    @property
    def is_usable(self) -> bool:
        """Whether a request may leave on it: it is open, and all of the one before has left."""
        return not self.is_closing and self._transport.get_write_buffer_size() == 0

    @property
    def is_closing(self) -> bool:
        return self._transport.is_closing()

    async def carry(self, request: Pieces, arrival: Arrival, deadline: float) -> None:
        """Send a request, its head first, and return when its answer is over, whatever that means: ``arrival`` tells.
        ``deadline`` is on the loop's clock. Cancelled, the connection ends."""
        self._arrival, self._is_over = arrival, self._deadlines.loop.create_future()
        self._write(as_sent(request))  # not kept here: what has left is not held until its answer comes
        self._deadlines.watch(self, deadline)
        try:
            await self._is_over
        finally:
            self._deadlines.forget(self)
            self._arrival = None
            arrival.let_go()
            if not arrival.may_be_followed:
                self._transport.abort()

    def _write(self, pieces: list[bytes]) -> None:
        """Where the loop would join the pieces (asyncio's does before Python 3.12, which takes a photo as long as
        encoding it), they are handed to the system one by one; nothing is left to be sent before them."""
        if self._plain is None or not self._joins_pieces:
            self._transport.writelines(pieces)
            return
        sent = 0
        with suppress(OSError):  # no room, or too many pieces; what is broken, the transport finds too
            sent = self._plain.sendmsg(pieces)
        if sent < sum(map(len, pieces)):
            self._transport.writelines(_behind(pieces, sent))

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def give_up(self) -> None:
        """Its answer comes too late."""
        if self._arrival is not None:
            self._arrival.end("too late", is_late=True)
            self._wake()

    # ---------------------------------------------------------------------------- what the loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by what it does, not by its class
        self._joins_pieces = type(self._transport).writelines is asyncio.WriteTransport.writelines

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._arrival is None:  # nothing was asked: what comes now cannot be told from the next answer
            self._transport.abort()
            return
        self._arrival.feed(self._buffer[:nbytes])
        if self._arrival.is_over:
            self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._forget(self)
        if self._arrival is not None:
            self._arrival.hang_up("" if error is None else reason(error))
            self._wake()

    def _wake(self) -> None:
        if self._is_over is not None and not self._is_over.done():
            self._is_over.set_result(None)


class Connections:
    """The connections to one host, in the running loop; ``context`` None: plain http. ``most_idle`` are kept while
    nobody uses them."""

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext | None, most_idle: int, connect_timeout_seconds: float
    ) -> None:
        self._host = host
        self._port = port
        self._context = context
        self._most_idle = most_idle
        self._connect_timeout_seconds = connect_timeout_seconds
        self._idle: deque[Connection] = deque()
        self._open: set[Connection] = set()
        self._all_gone: asyncio.Event | None = None
        self._resolving = asyncio.Lock()
        self._addresses: list[AddrInfoType] = []
        self._resolved_until = 0.0
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self.loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self.loop)

    async def take(self, deadline: float) -> Connection:
        """A connection that a request may leave on at once. Raises OSError (TimeoutError too) or UnicodeError."""
        oldest = self.loop.time() - KEPT_IDLE_SECONDS
        while self._idle:
            connection = self._idle.pop()
            if connection.idle_since >= oldest and connection.is_usable:
                return connection
            connection.close()
        return await self._connect(deadline)

    def give_back(self, connection: Connection) -> None:
        """Keep it for the next request, if it can carry one."""
        now = self.loop.time()
        if not connection.is_usable or len(self._idle) >= self._most_idle or self._all_gone is not None:
            connection.close()
            return
        connection.idle_since = now
        self._idle.append(connection)
        while self._idle[0].idle_since < now - KEPT_IDLE_SECONDS:
            self._idle.popleft().close()

    async def close(self, patience_seconds: float) -> None:
        """End them all, and wait until they are gone."""
        self._all_gone = asyncio.Event()
        self._deadlines.close()
        for connection in tuple(self._open):
            connection.abort()
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_seconds):
                while self._open:
                    await self._all_gone.wait()

    async def _connect(self, deadline: float) -> Connection:
        async with asyncio.timeout_at(min(deadline, self.loop.time() + self._connect_timeout_seconds)):
            try:
                addresses = await self._resolved()
                channel = await start_connection(
                    addresses, happy_eyeballs_delay=_SECOND_ADDRESS_SECONDS, interleave=1, loop=self.loop
                )
            except OSError:
                self._resolved_until = 0.0
                raise
            _, connection = await self.loop.create_connection(
                lambda: Connection(self._lost, self._buffer, self._deadlines, None if self._context else channel),
                sock=channel,
                ssl=self._context,
                server_hostname=None if self._context is None else self._host,
            )
        self._open.add(connection)
        if connection.is_closing:
            self._lost(connection)
            raise ConnectionResetError("the server hung up at once")
        return connection

    async def _resolved(self) -> list[AddrInfoType]:
        """The host's addresses; asked once for all who connect at the same time."""
        async with self._resolving:
            if self.loop.time() >= self._resolved_until:
                found = await self.loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                self._addresses = list(found)
                self._resolved_until = self.loop.time() + RESOLVED_SECONDS
        return self._addresses

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._all_gone is not None and not self._open:
            self._all_gone.set()


def _behind(pieces: list[bytes], sent: int) -> list[memoryview]:
    """What of ``pieces`` comes after the first ``sent`` bytes."""
    rest = []
    for piece in pieces:
        if sent < len(piece):
            rest.append(memoryview(piece)[sent:])
        sent = max(0, sent - len(piece))
    return rest


def reason(error: BaseException) -> str:
    """The innermost cause, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__
