"""Send the bytes of an answer, whole or broken by a fault. Only this module touches the connection.

Each function returns whether the whole body was handed to the network. A broken connection is not an error here: a
fault or the client broke it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from aiohttp import web

from batchvision.emulator.faults import FaultKind
from batchvision.emulator.refusals import page

_LINGER_NONE = struct.pack("ii", 1, 0)  # closing sends RST
_LOOK_SECONDS = 0.05  # interval at which a hanging response checks its client


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A response. One piece is sent with Content-Length, several pieces as chunks (a stream)."""

    pieces: tuple[bytes, ...]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    is_stream: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class Delivered(NamedTuple):
    """The result of sending. ``status`` is 0 for a broken connection."""

    response: web.StreamResponse
    status: int
    is_whole: bool


class ResponseDelivery:
    """The response of one connection. Slow faults take ``slow_seconds``. ``leaving`` is set when the server stops."""

    def __init__(self, request: web.Request, slow_seconds: float, leaving: asyncio.Event) -> None:
        self._request = request
        self._slow_seconds = slow_seconds
        self._leaving = leaving

    async def send(self, outgoing: Outgoing, fault: FaultKind | None = None) -> Delivered:
        """Send the response, broken as ``fault`` demands."""
        match fault:
            case FaultKind.RESET_BEFORE | FaultKind.RESET_AFTER | FaultKind.SUBMIT_RESET:
                return self._reset()
            case FaultKind.HANG:
                return await self._hang()
            case FaultKind.HALF_BODY | FaultKind.CUT_CHUNKED | FaultKind.SILENT_CUT:
                return self._cut(outgoing, fault)
            case FaultKind.HTML:
                shown = Outgoing((page("Please wait"),), headers={"Content-Type": "text/html; charset=utf-8"})
                return (await self._whole(shown))._replace(is_whole=False)
            case FaultKind.SLOW_START:
                await self.wait(self._slow_seconds)
                return await self._whole(outgoing)
            case FaultKind.SLOW_BODY:
                return await self._whole(outgoing, self._slow_seconds)
            case FaultKind.STREAM_CUT | FaultKind.STREAM_ERROR:
                return (await self._whole(outgoing))._replace(is_whole=False)
            case _:
                return await self._whole(outgoing)

    async def wait(self, seconds: float) -> None:
        """Sleep, at most until the server stops."""
        if seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._leaving.wait()
            except TimeoutError:
                pass

    async def _whole(self, outgoing: Outgoing, slow_seconds: float = 0.0) -> Delivered:
        if len(outgoing.pieces) == 1 and not slow_seconds:
            response: web.StreamResponse = web.Response(
                body=outgoing.pieces[0], status=outgoing.status, headers=outgoing.headers
            )
        else:
            response = web.StreamResponse(status=outgoing.status, headers=outgoing.headers)
            if not outgoing.is_stream:
                response.content_length = len(outgoing.body)
        try:
            await response.prepare(self._request)
            if not isinstance(response, web.Response):
                pieces = outgoing.pieces if outgoing.is_stream else _slices(outgoing.body)
                for piece in pieces:
                    await response.write(piece)
                    await self.wait(slow_seconds / len(pieces))
            await response.write_eof()
        except ConnectionError:  # the client closed the connection
            return Delivered(response, outgoing.status, False)
        return Delivered(response, outgoing.status, True)

    def _reset(self) -> Delivered:
        transport = self._request.transport
        if transport is not None:
            connection: socket.socket | None = transport.get_extra_info("socket")
            if connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NONE)
            transport.abort()
        return Delivered(web.Response(), 0, False)

    async def _hang(self) -> Delivered:
        while not self._leaving.is_set() and not self._has_left():
            await self.wait(_LOOK_SECONDS)
        return self._reset()

    def _has_left(self) -> bool:
        transport = self._request.transport
        return transport is None or transport.is_closing()

    def _cut(self, outgoing: Outgoing, fault: FaultKind) -> Delivered:
        """Write half of the body by hand, because no server library sends these bytes."""
        body = outgoing.body
        half = body[: len(body) // 2]
        kind = outgoing.headers.get("Content-Type", "application/json")
        head = f"HTTP/1.1 {outgoing.status} OK\r\nContent-Type: {kind}\r\n"
        match fault:
            case FaultKind.HALF_BODY:
                sent = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + half
            case FaultKind.CUT_CHUNKED:
                sent = f"{head}Transfer-Encoding: chunked\r\n\r\n{len(half):x}\r\n".encode() + half + b"\r\n"
            case _:
                sent = f"{head}Connection: close\r\n\r\n".encode() + half
        transport = self._request.transport
        if transport is not None:
            transport.write(sent)
            transport.close()
        return Delivered(web.Response(), outgoing.status, False)


def _slices(body: bytes) -> tuple[bytes, ...]:
    """Ten pieces, for a slow body."""
    size = max(1, -(-len(body) // 10))
    return tuple(body[at : at + size] for at in range(0, len(body), size))
