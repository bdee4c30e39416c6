"""Servers on a loopback socket that say exactly what a test tells them to, and a transport to speak to them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from batchvision.http import Endpoint, LeanTransport, ProviderClient, httpx
from batchvision.secrets import Secret, Secrets

KEY = "sk-canary-0123456789"
HEADERS = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def client(
    base_url: str, transport: httpx.AsyncBaseTransport | None = None, **options: Any
) -> AsyncIterator[ProviderClient]:
    """A client of ``base_url``, over the lean transport or the one given."""
    endpoint = Endpoint(base_url, HEADERS, allow_plain_http=options.pop("allow_plain_http", False))
    async with transport or LeanTransport() as wire:
        yield ProviderClient(endpoint, wire, Secrets(Secret(KEY)), **options)


@asynccontextmanager
async def server_of(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    """An aiohttp server; gives its base URL."""
    application = web.Application()
    application.router.add_route("*", "/v1/{tail:.*}", answer)
    runner = web.AppRunner(application, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(peer: Peer, context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A server that says exactly the bytes it is told to; gives its base URL."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(talk, host.strip("[]"), 0, ssl=context)
    try:
        scheme = "http" if context is None else "https"
        yield f"{scheme}://{host}:{server.sockets[0].getsockname()[1]}/v1"
    finally:
        server.close()
        await server.wait_closed()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


def saying(*pieces: bytes) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return peer
