"""An HTTP proxy on a loopback socket: CONNECT tunnels and forwarded requests, with or without a password."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_WANTS_PASSWORD = (
    b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
    b"Content-Length: 6\r\nConnection: close\r\n\r\nwho?\r\n"
)


class LoopbackProxy:
    """``asked``: the request lines that came to it. ``refuses``: a status line in place of a tunnel."""

    def __init__(self, user: str = "", password: str = "", refuses: bytes = b"") -> None:
        self._wanted = b"Basic " + b64encode(f"{user}:{password}".encode()) if user else b""
        self._refuses = refuses
        self.asked: list[bytes] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def running(self) -> AsyncIterator[LoopbackProxy]:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line, *headers = head.split(b"\r\n")
        self.asked.append(line)
        given = next((h.partition(b":")[2].strip() for h in headers if h.lower().startswith(b"proxy-auth")), b"")
        if given != self._wanted:
            writer.write(_WANTS_PASSWORD)
        elif self._refuses:
            writer.write(b"HTTP/1.1 " + self._refuses + b"\r\nContent-Length: 0\r\n\r\n")
        else:
            await self._pass_on(line, head, reader, writer)

    async def _pass_on(
        self, line: bytes, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        method, target, _ = line.split(b" ")
        is_tunnel = method == b"CONNECT"
        parts = urlsplit(("//" if is_tunnel else "") + target.decode())
        to_server, from_us = await asyncio.open_connection(parts.hostname, parts.port)
        if is_tunnel:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            from_us.write(head)
        await asyncio.gather(_copy(reader, from_us), _copy(to_server, writer))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()
