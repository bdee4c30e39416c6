"""Over real loopback sockets: it is always known whether a request may have been billed, and nothing leaks."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from aiohttp import web
from loopback_peers import HEADERS, KEY, client, raw_server, read_request, saying, server_of

from batchvision.errors import ConnectFailed, ConnectionCut, JobInvalid, RequestTimedOut
from batchvision.http import Endpoint, ProviderClient
from batchvision.http.body import KEPT_OF_TOO_LONG

pytestmark = pytest.mark.anyio


# ---------------------------------------------------------------------------------- whole answers


async def test_a_request_arrives_as_it_was_built_and_its_answer_comes_back_whole() -> None:
    seen: list[tuple[str, str, bytes, str]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.path, await request.read(), request.headers["authorization"]))
        return web.json_response({"ok": True}, headers={"X-Request-Id": "r-1", "Server-Timing": "noise"})

    async with server_of(answer) as url, client(url) as wire:
        raw = await wire.send("POST", "/chat/completions", b'{"model": "m"}', 5)
    assert seen == [("POST", "/v1/chat/completions", b'{"model": "m"}', f"Bearer {KEY}")]
    assert (raw.status, raw.body, raw.complete) == (200, b'{"ok": true}', True)
    assert raw.received_at.tzinfo is not None
    assert raw.headers["x-request-id"] == "r-1"
    assert "server-timing" not in raw.headers


async def test_a_request_may_have_headers_of_its_own_which_win_and_do_not_stay() -> None:
    seen: list[tuple[str | None, str | None, str]] = []

    async def answer(request: web.Request) -> web.Response:
        got = request.headers
        seen.append((got.get("x-grok-conv-id"), got.get("user-agent"), got["authorization"]))
        return web.json_response({})

    async with server_of(answer) as url, client(url) as wire:
        await wire.send("POST", "/x", b"{}", 5, {"x-grok-conv-id": "c-1", "User-Agent": "own"})
        await wire.send("POST", "/x", b"{}", 5)
    assert seen[0] == ("c-1", "own", f"Bearer {KEY}")
    assert seen[1][0] is None
    assert seen[1][1] != "own"


async def test_the_useful_headers_are_kept_in_lower_case() -> None:
    sent = {
        "Content-Type": "application/json; charset=utf-8",
        "Retry-After": "3",
        "retry-after-ms": "2500",
        "X-Should-Retry": "false",
        "X-RateLimit-Limit-Requests": "8300",
        "anthropic-ratelimit-tokens-remaining": "7",
        "X-Generation-Id": "gen-1",
        "X-OpenRouter-Cache-Status": "HIT",
        "Set-Cookie": "session=1",
    }

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=429, body=b"{}", headers=sent)

    async with server_of(answer) as url, client(url) as wire:
        raw = await wire.send("POST", "/x", b"{}", 5)
    assert {name for name in raw.headers if name != "date"} == {name.lower() for name in sent} - {"set-cookie"}


async def test_redirects_are_answers_and_cookies_are_not_kept() -> None:
    cookies: list[str | None] = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("cookie"))
        return web.Response(status=302, headers={"location": "https://elsewhere.example/", "set-cookie": "a=b"})

    async with server_of(answer) as url, client(url) as wire:
        first = await wire.send("POST", "/x", b"{}", 5)
        await wire.send("POST", "/x", b"{}", 5)
    assert first.status == 302
    assert cookies == [None, None]


@pytest.mark.parametrize(
    ("coding", "encode"),
    [
        ("gzip", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
        ("gzip", lambda body: gzip.compress(body[:100]) + gzip.compress(body[100:])),
        ("identity", bytes),
    ],
)
async def test_compressed_answers_are_decoded(coding: str, encode: Callable[[bytes], bytes]) -> None:
    body = b'{"text": "' + b"many words " * 500 + b'"}'

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=encode(body), headers={"content-encoding": coding})

    async with server_of(answer) as url, client(url) as wire:
        raw = await wire.send("GET", "/x", None, 5)
    assert (raw.body, raw.complete) == (body, True)


# ---------------------------------------------------------------------------------- bodies that are not whole


@pytest.mark.parametrize(
    "pieces",
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", b'{"half":'),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b'8\r\n{"half":\r\n'),
    ],
    ids=["shorter than announced", "chunked without its end"],
)
async def test_a_body_that_ends_early_is_kept_and_marked(pieces: tuple[bytes, ...]) -> None:
    async with raw_server(saying(*pieces)) as url, client(url) as wire:
        raw = await wire.send("POST", "/x", b"{}", 5)
    assert (raw.status, raw.complete) == (200, False)
    assert raw.body in (b'{"half":', b"")


async def test_chunks_that_make_no_sense_are_no_whole_answer() -> None:
    head, broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\n{}\r\nzz\r\n"
    async with raw_server(saying(head + broken)) as url, client(url) as wire:
        try:
            assert not (await wire.send("POST", "/x", b"{}", 5)).complete
        except ConnectionCut as cut:  # the parser may see all of it before it gives the status line out
            assert "\n" not in cut.message


async def test_a_gzip_body_without_its_end_is_not_complete() -> None:
    packed = gzip.compress(b'{"text": "whole"}' * 50)[:-10]
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
    async with raw_server(saying(head, packed)) as url, client(url) as wire:
        raw = await wire.send("POST", "/x", b"{}", 5)
    assert not raw.complete
    assert raw.body.startswith(b'{"text": "whole"}')


async def test_a_gzip_bomb_stops_at_the_cap() -> None:
    bomb = gzip.compress(bytes(50_000_000))

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=bomb, headers={"content-encoding": "gzip"})

    async with server_of(answer) as url, client(url, max_answer_bytes=1_000_000) as wire:
        raw = await wire.send("POST", "/x", b"{}", 5)
    assert (raw.status, raw.complete, len(raw.body)) == (200, False, KEPT_OF_TOO_LONG)


async def test_a_body_that_never_ends_stops_at_the_deadline_with_what_came() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await reader.read()  # until the client goes

    async with raw_server(peer) as url, client(url) as wire:
        raw = await wire.send("POST", "/x", b"{}", 0.3)
    assert (raw.status, raw.body, raw.complete) == (200, b"first", False)


# ---------------------------------------------------------------------------------- no status line


async def test_a_refused_connection_never_left() -> None:
    async with raw_server(saying()) as url:
        pass
    async with client(url) as wire:
        with pytest.raises(ConnectFailed, match="no connection to"):
            await wire.send("POST", "/x", b"{}", 5)


async def test_a_name_that_does_not_exist_never_left() -> None:
    async with client("https://no-such-host.invalid/v1") as wire:
        with pytest.raises(ConnectFailed):
            await wire.send("POST", "/x", b"{}", 5)


async def test_a_handshake_that_hangs_never_left() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(peer) as url, client(url.replace("http:", "https:")) as wire:
        with pytest.raises(ConnectFailed, match=r"within 0\.2 s"):
            await wire.send("POST", "/x", b"{}", 0.2)


async def test_a_server_that_hangs_up_after_the_request_may_have_billed_it() -> None:
    async with raw_server(saying()) as url, client(url) as wire:
        with pytest.raises(ConnectionCut) as caught:
            await wire.send("POST", "/x", b"{}", 5)
    assert caught.value.maybe_billed


async def test_an_answer_that_is_no_http_may_have_been_billed() -> None:
    async with raw_server(saying(b"SSH-2.0-OpenSSH_9.9\r\n\r\n")) as url, client(url) as wire:
        with pytest.raises(ConnectionCut):
            await wire.send("POST", "/x", b"{}", 5)


async def test_no_status_line_before_the_deadline_may_have_been_billed() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(peer) as url, client(url) as wire:
        with pytest.raises(RequestTimedOut, match=r"within 0\.2 s"):
            await wire.send("POST", "/x", b"{}", 0.2)


async def test_each_deadline_holds_beside_earlier_and_later_ones() -> None:
    """One timer watches over all of them: one for a later moment, for an earlier one, and one that has just rung."""
    late: list[float] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw_server(peer) as url, client(url) as wire, anyio.create_task_group() as group:

        async def wait(seconds: float) -> None:
            with pytest.raises(RequestTimedOut):
                await wire.send("POST", "/x", b"{}", seconds)
            late.append(seconds)

        for seconds in (0.3, 0.1, 0.2, 0.4, 0.1):
            group.start_soon(wait, seconds)
        await wait(0.15)
        await wait(0.05)
    assert sorted(late) == [0.05, 0.1, 0.1, 0.15, 0.2, 0.3, 0.4]


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_request_on_a_broken_kept_connection_is_reported_and_not_repeated(method: str) -> None:
    requests: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await read_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        requests.append(await read_request(reader))  # the second one is read, and never answered

    async with raw_server(peer) as url, client(url) as wire:
        body = b"{}" if method == "POST" else None
        assert (await wire.send(method, "/x", body, 5)).complete
        with pytest.raises(ConnectionCut):
            await wire.send(method, "/x", body, 5)
    assert len(requests) == 2


async def test_errors_do_not_show_the_key() -> None:
    async with client(f"https://{KEY}.invalid/v1") as wire:
        with pytest.raises(ConnectFailed) as caught:
            await wire.send("POST", "/x", b"{}", 5)
    assert caught.value.__cause__ is None
    assert KEY not in repr(wire) + str(caught.value)


# ---------------------------------------------------------------------------------- TLS


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_a_certificate_that_cannot_be_verified_gets_no_byte_of_the_request(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    heard: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read())

    async with raw_server(peer, context) as url, client(url) as wire:
        with pytest.raises(ConnectFailed, match="certificate"):
            await wire.send("POST", "/x", b"{}", 5)
    assert b"".join(heard) == b""


# ---------------------------------------------------------------------------------- cancellation, many at once


async def test_a_cancelled_request_closes_its_connection() -> None:
    asked, gone = anyio.Event(), anyio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        await writer.drain()
        asked.set()
        await reader.read()
        gone.set()

    async with raw_server(peer) as url, client(url) as wire:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wire.send, "POST", "/x", b"{}", 30)
            await asked.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(5):
            await gone.wait()


async def test_requests_travel_side_by_side_up_to_the_connections_there_are() -> None:
    arrived = 0
    all_here = anyio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived == 8:
            all_here.set()
        await all_here.wait()
        return web.Response(body=await request.read())

    answers: dict[int, bytes] = {}

    async def ask(wire: ProviderClient, number: int) -> None:
        answers[number] = (await wire.send("POST", "/x", b"%d" % number, 10)).body

    async with server_of(answer) as url, client(url) as wire, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(ask, wire, number)
    assert answers == {number: b"%d" % number for number in range(8)}


# ---------------------------------------------------------------------------------- what cannot be right


@pytest.mark.parametrize(
    ("base_url", "says"),
    [
        ("http://api.example.com/v1", "plain http"),
        ("http://10.0.0.7/v1", "plain http"),
        ("ftp://api.example.com", "must look like https://"),
        ("api.example.com/v1", "must look like https://"),
        ("https://user:pw@api.example.com/v1", "api_key_env"),
        ("https://api.example.com/v1#key", "api_key_env"),
        ("https://api.example.com:port/v1", "not a URL"),
        ("https://\u3002/v1", "not a URL"),
    ],
)
def test_an_invalid_base_url_is_refused_with_the_next_step(base_url: str, says: str) -> None:
    with pytest.raises(JobInvalid, match=says) as caught:
        Endpoint(base_url, HEADERS)
    assert "pw" not in caught.value.message


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.0.1", "[::1]"])
def test_plain_http_is_for_loopback(host: str) -> None:
    assert Endpoint(f"http://{host}:8000/v1", HEADERS).base_url == f"http://{host}:8000/v1"


def test_plain_http_to_another_machine_needs_a_setting() -> None:
    Endpoint("http://vllm.internal:8000/v1", HEADERS, allow_plain_http=True)


def test_a_key_that_ends_in_a_newline_is_refused_without_being_shown() -> None:
    with pytest.raises(JobInvalid, match="line break") as caught:
        Endpoint("https://api.example.com", {"authorization": f"Bearer {KEY}\n"})
    assert KEY not in caught.value.message


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/batches", "https://api.example.com/v1/batches?api-version=2"),
        ("/batches?limit=100&after=a%3Db", "https://api.example.com/v1/batches?limit=100&after=a%3Db&api-version=2"),
    ],
)
def test_the_query_of_the_base_url_follows_that_of_the_path(path: str, url: str) -> None:
    endpoint = Endpoint("https://api.example.com/v1?api-version=2", HEADERS)
    assert str(endpoint.request("GET", path, None, None, {}).url) == url
