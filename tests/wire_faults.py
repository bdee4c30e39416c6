"""Every fault on the wire that a transport must report alike: a peer, what is sent to it, and what the client must see.

Each fault lists the results that are right for each request in turn. The first is the exact one. Those after it assume
that more was billed, or keep less of an answer that is no whole one.
"""

from __future__ import annotations

import asyncio
import gzip
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import httpx
import trustme
from loopback_peers import client, raw_server, read_request

from batchvision.errors import BatchvisionError, ConnectFailed, ConnectionCut, RequestTimedOut
from batchvision.http import ProviderClient

MOST_BYTES = 1_000_000
OK = b"HTTP/1.1 200 OK\r\n"
GOOD = OK + b"Content-Length: 2\r\n\r\n{}"
SECOND = OK + b"Content-Length: 3\r\n\r\n[2]"


class Seen(NamedTuple):
    """What a request came to: an answer, or the class of an error."""

    status: int | None
    body: bytes = b""
    complete: bool = False
    error: type[BatchvisionError] | None = None


WHOLE = Seen(200, b"{}", True)
CUT = Seen(None, error=ConnectionCut)
LATE = Seen(None, error=RequestTimedOut)
UNSENT = Seen(None, error=ConnectFailed)

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter


class Server:
    """What the peer of a fault has counted."""

    def __init__(self) -> None:
        self.connections = 0
        self.requests = 0

    async def hear(self, reader: Reader) -> bytes:
        request = await read_request(reader)
        self.requests += 1
        return request


Peer = Callable[[Server, Reader, Writer], Any]


@dataclass(frozen=True)
class Fault:
    """``requests``: how many the peer must have read. ``connections``: how many it must have accepted, if that
    matters. ``wanted``: what is right for each request sent."""

    name: str
    peer: Peer
    wanted: tuple[tuple[Seen, ...], ...]
    requests: int | None = None
    connections: int | None = None
    method: str = "POST"
    timeout_seconds: float = 20.0
    url: Callable[[str], str] = lambda url: url
    tls: bool = False
    trusted: bool = True
    body: bytes = field(default=b"{}", repr=False)


def saying(*pieces: bytes, resets: bool = False) -> Peer:
    """Reads one request, sends the pieces, and hangs up."""

    async def peer(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if resets:
            _reset(writer)

    return peer


def answering(*answers: bytes, ends: bool = False) -> Peer:
    """Answers one request after the other on each connection. ``ends``: reads one more request, and hangs up."""

    async def peer(server: Server, reader: Reader, writer: Writer) -> None:
        for answer in answers:
            await server.hear(reader)
            writer.write(answer)
            await writer.drain()
        if ends:
            await server.hear(reader)
        else:
            await reader.read()

    return peer


def holding(*pieces: bytes) -> Peer:
    """Reads one request, sends the pieces, and then waits until the client goes."""

    async def peer(server: Server, reader: Reader, writer: Writer) -> None:
        await server.hear(reader)
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await reader.read()

    return peer


async def _hang_up_at_once(server: Server, reader: Reader, writer: Writer) -> None:
    _reset(writer)


async def _hold_the_handshake(server: Server, reader: Reader, writer: Writer) -> None:
    await reader.read()


async def _answer_without_reading(server: Server, reader: Reader, writer: Writer) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
    await writer.drain()


async def _endless_head(server: Server, reader: Reader, writer: Writer) -> None:
    await server.hear(reader)
    writer.write(OK + b"X: ")
    while True:
        writer.write(b"a" * 65536)
        await writer.drain()


async def _endless_body(server: Server, reader: Reader, writer: Writer) -> None:
    await server.hear(reader)
    writer.write(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"10000\r\n" + b"a" * 65536 + b"\r\n")
        await writer.drain()


async def _speak_unasked(server: Server, reader: Reader, writer: Writer) -> None:
    await server.hear(reader)
    writer.write(GOOD)
    await writer.drain()
    await asyncio.sleep(0)
    writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()
    await reader.read()


def _reset(writer: Writer) -> None:
    """End the connection by a reset, in place of an orderly end."""
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# ---------------------------------------------------------------------------------- the faults

_PACKED = gzip.compress(b'{"text": "whole"}' * 50)
_UNPACKED = zlib.decompressobj(47).decompress(_PACKED[:-10])
_DAMAGED = _PACKED[:30] + bytes(10) + _PACKED[40:]
_BOMB = gzip.compress(bytes(50_000_000))


def _gzip(content: bytes) -> bytes:
    return OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(content) + content


def _garbage() -> tuple[Fault, ...]:
    said = {
        "no HTTP": b"SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "a TLS alert": b"\x15\x03\x01\x00\x02\x02\x46",
        "a status that is no number": b"HTTP/1.1 2x0 OK\r\n\r\n",
        "two lengths": OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        "a negative length": OK + b"Content-Length: -1\r\n\r\n",
        "a header without a colon": OK + b"no colon\r\n\r\n",
        "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    }
    return tuple(Fault(f"garbage: {name}", saying(content), ((CUT,),), 1) for name, content in said.items())


FAULTS: tuple[Fault, ...] = (
    Fault("a whole answer", answering(GOOD), ((WHOLE,),), 1),
    Fault("the name does not exist", saying(), ((UNSENT,),), 0, url=lambda url: "https://no-such-host.invalid/v1"),
    Fault("hangs up at once", _hang_up_at_once, ((CUT, UNSENT),), 0),
    Fault("hangs up after the request", saying(), ((CUT,),), 1),
    Fault("hangs up after the request, a GET", saying(), ((CUT,),), 1, method="GET"),
    Fault("resets after the request", saying(resets=True), ((CUT,),), 1),
    Fault("half a head", saying(OK + b"Content-Le"), ((CUT,),), 1),
    Fault("half a status line", saying(b"HTTP/1."), ((CUT,),), 1),
    Fault("resets after the head", saying(OK + b"Content-Length: 9\r\n\r\n", resets=True), ((Seen(200), CUT),), 1),
    Fault("half a body", saying(OK + b"Content-Length: 100\r\n\r\n", b'{"half":'), ((Seen(200, b'{"half":'),),), 1),
    Fault("half a body without a length", saying(OK + b"\r\n", b'{"half":'), ((Seen(200, b'{"half":', True),),), 1),
    Fault(
        "half a body without a length, reset",
        saying(OK + b"\r\n", b'{"half":', resets=True),
        ((Seen(200, b'{"half":'), Seen(200), CUT),),
        1,
    ),
    Fault("a whole body without a length", saying(OK + b"\r\n", b"{}"), ((WHOLE,),), 1),
    Fault(
        "chunks without their end",
        saying(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\n{}\r\n"),
        ((Seen(200, b"{}"),),),
        1,
    ),
    Fault(
        "chunks that make no sense",
        saying(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\nzz\r\n"),
        ((Seen(200, b"{}"), CUT),),
        1,
    ),
    Fault("gzip without its end", saying(_gzip(_PACKED[:-10])), ((Seen(200, _UNPACKED),),), 1),
    Fault("gzip that is damaged", saying(_gzip(_DAMAGED)), ((Seen(200),),), 1),
    Fault(
        "an unknown encoding",
        answering(OK + b"Content-Encoding: br\r\nContent-Length: 2\r\n\r\n{}"),
        ((Seen(200, b"{}"),),),
        1,
    ),
    Fault("no head before the deadline", holding(), ((LATE,),), 1, timeout_seconds=0.3),
    Fault("half a head before the deadline", holding(OK), ((LATE,),), 1, timeout_seconds=0.3),
    Fault(
        "no whole body before the deadline",
        holding(OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"),
        ((Seen(200, b"first"),),),
        1,
        timeout_seconds=0.3,
    ),
    *_garbage(),
    Fault("an unknown version", saying(b"HTTP/9.9 200 OK\r\n\r\n"), ((CUT, Seen(200, b"", True)),), 1),
    Fault(
        "a length and chunks",
        saying(OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
        ((CUT, WHOLE),),
        1,
    ),
    Fault(
        "interim responses",
        answering(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nA: b\r\n\r\n" + GOOD),
        ((WHOLE,),),
        1,
    ),
    Fault("a head without end", _endless_head, ((CUT,),), 1),
    Fault("a body without end", _endless_body, ((Seen(200, b"a" * 65536),),), 1),
    Fault("a gzip bomb", answering(_gzip(_BOMB)), ((Seen(200, bytes(65536)),),), 1),
    Fault("no content", answering(b"HTTP/1.1 204 No Content\r\n\r\n"), ((Seen(204, b"", True),),), 1),
    Fault(
        "a redirect",
        answering(b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/\r\nContent-Length: 0\r\n\r\n"),
        ((Seen(302, b"", True),),),
        1,
    ),
    Fault(
        "answers before the request has left",
        _answer_without_reading,
        ((Seen(413, b"{}", True), CUT, LATE),),
        body=bytes(3_000_000),
    ),
    # -- connections that are used again
    Fault("two requests on one connection", answering(GOOD, SECOND), ((WHOLE,), (Seen(200, b"[2]", True),)), 2, 1),
    Fault(
        "the last answer of a connection",
        saying(GOOD.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")),
        ((WHOLE,), (WHOLE,)),
        2,
        2,
    ),
    Fault("an answer of HTTP/1.0", saying(GOOD.replace(b"1.1", b"1.0")), ((WHOLE,), (WHOLE,)), 2, 2),
    Fault("a reused connection ends while a POST is sent", answering(GOOD, ends=True), ((WHOLE,), (CUT,)), 2, 1),
    Fault("a ticket is read on a stale connection", answering(GOOD, ends=True), ((WHOLE,), (CUT,)), 2, 1, method="GET"),
    Fault("two answers to one request", answering(GOOD + SECOND), ((WHOLE,), (WHOLE,)), 2, 2),
    Fault("garbage behind an answer", answering(GOOD + b"more"), ((WHOLE,), (WHOLE,)), 2, 2),
    # -- TLS
    Fault("a whole answer over TLS", answering(GOOD, SECOND), ((WHOLE,), (Seen(200, b"[2]", True),)), 2, 1, tls=True),
    Fault("half a body over TLS", saying(OK + b"Content-Length: 9\r\n\r\n{}"), ((Seen(200, b"{}"),),), 1, tls=True),
    Fault("hangs up after the request over TLS", saying(), ((CUT,),), 1, tls=True),
    Fault("an unknown certificate", answering(GOOD), ((UNSENT,),), 0, tls=True, trusted=False),
    Fault(
        "a certificate of another name",
        answering(GOOD),
        ((UNSENT,),),
        0,
        tls=True,
        url=lambda url: url.replace("localhost", "127.0.0.1"),
    ),
    Fault(
        "a handshake that hangs",
        _hold_the_handshake,
        ((UNSENT,),),
        0,
        timeout_seconds=0.3,
        url=lambda url: url.replace("http:", "https:"),
    ),
    Fault("https to an http port", saying(GOOD), ((UNSENT,),), 0, url=lambda url: url.replace("http:", "https:")),
    Fault(
        "http to an https port", answering(GOOD), ((CUT,),), 0, tls=True, url=lambda url: url.replace("https:", "http:")
    ),
)


# ---------------------------------------------------------------------------------- running them


@cache
def _authority() -> trustme.CA:
    return trustme.CA()


def client_context(*, trusted: bool = True) -> ssl.SSLContext:
    """Trusts the authority of the servers here, and no other."""
    context = ssl.create_default_context()
    if trusted:
        _authority().configure_trust(context)
    return context


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _authority().issue_cert("localhost").configure_cert(context)
    return context


@asynccontextmanager
async def _met(fault: Fault, server: Server) -> AsyncIterator[str]:
    """The URL of the fault's peer."""

    async def talk(reader: Reader, writer: Writer) -> None:
        server.connections += 1
        await fault.peer(server, reader, writer)

    async with raw_server(talk, _server_context() if fault.tls else None) as url:
        yield fault.url(url.replace("127.0.0.1", "localhost") if fault.tls else url)


async def meet(fault: Fault, make: Callable[[ssl.SSLContext], httpx.AsyncBaseTransport]) -> list[str]:
    """What is wrong with how a transport reports ``fault``; empty where all is right."""
    server, wrong = Server(), list[str]()
    async with _met(fault, server) as url:
        transport = make(client_context(trusted=fault.trusted))
        async with client(url, transport, max_answer_bytes=MOST_BYTES) as wire:
            for number, wanted in enumerate(fault.wanted, start=1):
                seen = await _sent(wire, fault)
                if seen not in wanted:
                    wrong.append(f"request {number}: {_short(seen)} in place of {' or '.join(map(_short, wanted))}")
                for _ in range(20):  # the loop hears of what a peer does behind its answer
                    await asyncio.sleep(0.001)
    if fault.requests is not None and server.requests != fault.requests:
        wrong.append(f"the peer read {server.requests} requests, and {fault.requests} were sent")
    if fault.connections is not None and server.connections != fault.connections:
        wrong.append(f"{server.connections} connections, and {fault.connections} are right")
    return wrong


async def _sent(wire: ProviderClient, fault: Fault) -> Seen:
    body = fault.body if fault.method == "POST" else None
    try:
        raw = await wire.send(fault.method, "/x", body, fault.timeout_seconds)
    except BatchvisionError as error:
        return Seen(None, error=type(error))
    return Seen(raw.status, raw.body, raw.complete)


def _short(seen: Seen) -> str:
    if seen.error is not None:
        return seen.error.__name__
    return f"{seen.status} {seen.body[:20]!r} {'whole' if seen.complete else 'not whole'}"
