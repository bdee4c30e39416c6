"""Idle connections are looked at before they carry another request."""

from __future__ import annotations

import asyncio
import select
import socket

import pytest

from batchvision.http.connection import ConnectionPool

pytestmark = pytest.mark.anyio


async def test_a_connection_that_the_server_has_closed_carries_no_request() -> None:
    """The loop has had no chance to see the end: the pool must look at the socket itself."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = ConnectionPool("127.0.0.1", listener.getsockname()[1], None, "", 8, memoryview(bytearray(4096)))
        connection = await pool.connect(10)
        accepted, _ = listener.accept()
        connection.idle_since = asyncio.get_running_loop().time()
        pool._idle.append(connection)
        assert pool.take_idle() is connection, "an open connection is used again"
        pool._idle.append(connection)
        accepted.close()
        closed = select.poll()
        closed.register(connection._transport.get_extra_info("socket").fileno(), select.POLLIN)
        assert closed.poll(10_000), "the end has arrived at this machine"
        assert connection.is_usable, "the event loop does not know it yet"
        assert pool.take_idle() is None
        await pool.close(10)
