"""Kept connections over real loopback sockets: used again where that is safe, and never where it is not."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections import deque
from pathlib import Path

import anyio
import pytest
from loopback_peers import HEADERS, client, raw_server, read_request, saying

from batchvision.errors import ConnectionCut, JobInvalid
from batchvision.http import LeanTransport
from batchvision.http import connection as connections

pytestmark = pytest.mark.anyio

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Counting:
    """A peer that answers every request on every connection, and counts the connections."""

    def __init__(self, answer: bytes = GOOD) -> None:
        self.answer = answer
        self.connections = 0
        self.heads: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            self.heads.append(await read_request(reader))
            writer.write(self.answer)
            await writer.drain()


async def test_one_connection_serves_request_after_request() -> None:
    peer = Counting()
    async with raw_server(peer) as url, client(url) as wire:
        for _ in range(5):
            assert (await wire.send("POST", "/x", b"{}", 5)).complete
    assert (peer.connections, len(peer.heads)) == (1, 5)


@pytest.mark.parametrize(
    "answer",
    [GOOD.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"), GOOD + GOOD, GOOD + b"more"],
    ids=["the last one", "two answers", "garbage behind"],
)
async def test_a_connection_whose_state_is_in_doubt_is_not_used_again(answer: bytes) -> None:
    peer = Counting(answer)
    async with raw_server(peer) as url, client(url) as wire:
        for _ in range(3):
            raw = await wire.send("POST", "/x", b"{}", 5)
            assert (raw.body, raw.complete) == (b"{}", True)
    assert peer.connections == 3


async def test_an_idle_connection_that_the_server_closed_is_replaced_before_anything_leaves() -> None:
    closed = asyncio.Event()
    requests = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await read_request(reader)
        requests += 1
        writer.write(GOOD)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        closed.set()

    async with raw_server(peer) as url, client(url) as wire:
        for _ in range(3):
            assert (await wire.send("POST", "/x", b"{}", 5)).complete
            await closed.wait()
            closed.clear()
            await asyncio.sleep(0)  # the loop hears of it
            await asyncio.sleep(0)
    assert requests == 3


async def test_a_connection_with_unrequested_bytes_is_not_used_again() -> None:
    spoken = asyncio.Event()
    seen = 0

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        await read_request(reader)
        writer.write(GOOD)
        await asyncio.sleep(0)
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        spoken.set()
        await reader.read()

    async with raw_server(peer) as url, client(url) as wire:
        for _ in range(2):
            assert (await wire.send("POST", "/x", b"{}", 5)).status == 200
            await spoken.wait()
            spoken.clear()
            await anyio.wait_all_tasks_blocked()
    assert seen == 2


async def test_a_connection_left_idle_for_long_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = Counting()
    async with raw_server(peer) as url, client(url) as wire:
        await wire.send("POST", "/x", b"{}", 5)
        monkeypatch.setattr(connections, "KEPT_IDLE_SECONDS", 0.0)
        given_back_at = anyio.current_time()
        while anyio.current_time() == given_back_at:
            await anyio.lowlevel.checkpoint()
        await wire.send("POST", "/x", b"{}", 5)
    assert peer.connections == 2


async def test_an_answer_that_comes_before_the_request_has_left_ends_the_connection() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        await asyncio.Event().wait()

    lean = LeanTransport()
    async with raw_server(peer) as url, client(url, lean) as wire:
        raw = await wire.send("POST", "/x", bytes(30_000_000), 5)
        assert (raw.status, raw.complete) == (413, True)
        assert [connections._idle for connections in lean._origins.values()] == [deque()]


async def test_a_large_body_arrives_whole() -> None:
    body = bytes(range(256)) * 20_000

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await read_request(reader)
        writer.write(GOOD if got.endswith(body) else b"HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")

    async with raw_server(peer) as url, client(url) as wire:
        assert (await wire.send("POST", "/x", body, 5)).status == 200


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with raw_server(saying(b"HTTP/1.1 200 OK\r\n\r\n", b"{}")) as url, client(url) as wire:
        raw = await wire.send("GET", "/x", None, 5)
    assert (raw.body, raw.complete) == (b"{}", True)


async def test_a_head_without_end_is_cut_off() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"a" * 65536)
            await writer.drain()

    async with raw_server(peer) as url, client(url) as wire:
        with pytest.raises(ConnectionCut, match="head is too long"):
            await wire.send("POST", "/x", b"{}", 5)


async def test_requests_are_written_as_http_requires() -> None:
    peer = Counting()
    async with raw_server(peer) as url, client(url) as wire:
        await wire.send("POST", "/chat/completions", b"{}", 5, {"X-Own": "1", "Content-Type": "text/plain"})
        await wire.send("GET", "/deferred/a%2Fb%20c", None, 5)
    address = url.removeprefix("http://").removesuffix("/v1").encode()
    post, get = (head.lower().split(b"\r\n\r\n")[0].split(b"\r\n") for head in peer.heads)
    assert post[:2] == [b"post /v1/chat/completions http/1.1", b"host: " + address]
    assert get[0] == b"get /v1/deferred/a%2fb%20c http/1.1"
    assert {b"content-length: 2", b"content-type: text/plain", b"x-own: 1"} <= set(post)
    assert not any(line.startswith((b"content-length", b"transfer-encoding")) for line in get)
    assert len({line.split(b":")[0] for line in post}) == len(post)


@pytest.mark.parametrize("name", ["x\r\ny", "x y", ""])
async def test_a_header_of_one_request_cannot_break_out_either(name: str) -> None:
    async with raw_server(Counting()) as url, client(url) as wire:
        with pytest.raises(JobInvalid):
            await wire.send("POST", "/x", b"{}", 5, {name: "1"})
        with pytest.raises(JobInvalid):
            await wire.send("POST", "/x", b"{}", 5, {"x": "1\r\ny: 2"})


def _has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_ipv6_literals_are_connected_to_and_named_in_brackets() -> None:
    peer = Counting()
    async with raw_server(peer, host="[::1]") as url, client(url) as wire:
        assert (await wire.send("POST", "/x", b"{}", 5)).complete
    address = url.removeprefix("http://").removesuffix("/v1").encode()
    assert b"host: " + address + b"\r\n" in peer.heads[0]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_over_tls_a_certificate_that_is_trusted_is_enough_and_its_connection_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run([*command, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    peer = Counting()
    async with raw_server(peer, context) as url, client(url.replace("127.0.0.1", "localhost")) as wire:
        for _ in range(3):
            assert (await wire.send("POST", "/x", bytes(200_000), 5)).complete
    assert peer.connections == 1
    assert HEADERS["authorization"].encode() in peer.heads[0]


@pytest.mark.parametrize(
    "body",
    [b"{" + b"x" * 300_000 + b"}", b"".join(bytes([number]) * 3_000_000 for number in range(5))],
    ids=["a photo", "more than the socket takes at once"],
)
async def test_every_byte_of_a_request_arrives_once_and_in_order(body: bytes) -> None:
    came: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.02)  # what has left by now fills the socket
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            came.append(await reader.readexactly(length))
            writer.write(GOOD)

    async with raw_server(peer) as url, client(url) as wire:
        for _ in range(2):
            assert (await wire.send("POST", "/x", body, 20)).complete
    assert came == [body] * 2
