"""How bytes leave: whole, or broken as a fault asks for.

Rule: only this module touches the connection. Each function says truthfully whether the whole body was handed to the
network. A broken connection is what was asked for or what the client did; neither is an error here.
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
_LOOK_SECONDS = 0.05  # how often a hanging answer looks whether its client has left


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is to be sent. One piece travels with its Content-Length, several as chunks (a stream)."""

    pieces: tuple[bytes, ...]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    is_stream: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class Delivered(NamedTuple):
    """``status`` as the client saw it; 0: none."""

    response: web.StreamResponse
    status: int
    is_whole: bool


class ResponseDelivery:
    """One connection's answer; ``slow_seconds`` is what slow faults take, ``leaving`` is set when the server stops."""

    def __init__(self, request: web.Request, slow_seconds: float, leaving: asyncio.Event) -> None:
        self._request = request
        self._slow_seconds = slow_seconds
        self._leaving = leaving

    async def send(self, outgoing: Outgoing, fault: FaultKind | None = None) -> Delivered:
        """Send it, broken as ``fault`` says."""
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
        """Sleep, but not longer than the server lives."""
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
        except ConnectionError:  # the client has left
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
        """Half of the body, by hand: no server library would send these bytes."""
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
    """Ten pieces, so that a slow body keeps dripping."""
    size = max(1, -(-len(body) // 10))
    return tuple(body[at : at + size] for at in range(0, len(body), size))
