"""Known traps of httpx and its transports do not reach a run: keys in messages, timeouts, proxies, short bodies."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable

import anyio
import httpx
import pytest
from loopback_peers import KEY, client, raw_server, read_request, saying
from wire_faults import client_context

from batchvision.errors import AnswerCutShort, ConnectFailed, ConnectionCut
from batchvision.http import LeanTransport
from batchvision.http.pooled import CONNECTIONS_A_POOL, PooledTransport
from batchvision.providers import dialect

pytestmark = pytest.mark.anyio

Make = Callable[[], httpx.AsyncBaseTransport]
each_transport = pytest.mark.parametrize(
    "make", [LeanTransport, lambda: PooledTransport(client_context())], ids=["lean", "httpx"]
)
GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@each_transport
async def test_a_body_that_drips_is_cut_at_the_deadline_of_the_whole_request(make: Make) -> None:
    """httpx's timeouts are for one read each: every drop would begin a new one."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async with raw_server(peer) as url, client(url, make()) as wire:
        with anyio.fail_after(60):
            raw = await wire.send("POST", "/x", b"{}", 0.3)
    assert (raw.status, raw.complete) == (200, False)
    assert 0 < len(raw.body) < 1000


@each_transport
async def test_an_answer_that_waited_while_the_process_was_stopped_is_read_before_its_deadline_counts(
    make: Make,
) -> None:
    """It takes more than one turn of the loop to read all of it."""
    body = bytes(1_000_000)

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.6)  # the whole process stands still, past the deadline

    async with raw_server(peer) as url, client(url, make()) as wire:
        raw = await wire.send("POST", "/x", b"{}", 0.3)
    assert (raw.status, raw.body == body, raw.complete) == (200, True, True)


@each_transport
async def test_httpx_does_not_use_proxies_of_the_environment_by_itself(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with raw_server(saying(GOOD)) as url, client(url, make()) as wire:
        assert (await wire.send("POST", "/x", b"{}", 20)).complete


@each_transport
async def test_half_a_body_without_a_length_is_no_answer(make: Make) -> None:
    """Nothing on the wire shows that it is short; its JSON does."""
    half = b'{"id": "c1", "choices": [{"message": {"content": "a red sh'
    async with raw_server(saying(b"HTTP/1.1 200 OK\r\n\r\n" + half)) as url, client(url, make()) as wire:
        raw = await wire.send("POST", "/x", b"{}", 20)
    error = dialect("openai").read(raw).error
    assert isinstance(error, AnswerCutShort)
    assert error.maybe_billed


async def test_a_transport_that_shows_the_key_in_its_error_is_not_repeated() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.LocalProtocolError(f"Illegal header value {request.headers['authorization']!r}")

    async with client("https://api.example/v1", httpx.MockTransport(answer)) as wire:
        with pytest.raises(ConnectionCut) as caught:
            await wire.send("POST", "/x", b"{}", 20)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_any_transport_of_httpx_can_answer() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.content == b'{"a": 1}'
        return httpx.Response(200, json={"path": request.url.path}, headers={"X-Request-Id": "r-1"})

    async with client("https://api.example/v1", httpx.MockTransport(answer)) as wire:
        raw = await wire.send("POST", "/chat/completions", b'{"a": 1}', 20)
    assert (raw.status, raw.body, raw.complete) == (200, b'{"path":"/v1/chat/completions"}', True)
    assert raw.headers["x-request-id"] == "r-1"


async def test_no_request_waits_inside_a_pool() -> None:
    count = 2 * CONNECTIONS_A_POOL + 3
    here, all_here = 0, asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal here
        while True:
            await read_request(reader)
            here += 1
            if here >= count:
                all_here.set()
            await all_here.wait()
            writer.write(GOOD)

    pooled = PooledTransport(client_context())
    async with raw_server(peer) as url, client(url, pooled) as wire:
        for _ in range(2):
            async with anyio.create_task_group() as requests:
                for _ in range(count):
                    requests.start_soon(wire.send, "POST", "/x", b"{}", 60)
        assert [pool.in_flight for pool in pooled._pools] == [0, 0, 0]
    assert here == 2 * count


async def test_a_proxy_that_never_answers_has_sent_nothing_on() -> None:
    """A hung CONNECT ends with the time for connecting, and not with the deadline of the request."""
    asked: list[bytes] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n"))
        await reader.read()

    async with raw_server(peer) as proxy:
        pooled = PooledTransport(client_context(), proxy=httpx.Proxy(proxy.removesuffix("/v1")))
        async with client("https://api.example/v1", pooled, connect_timeout_seconds=0.3) as wire:
            with pytest.raises(ConnectFailed, match=r"within 0\.3 s"):
                await wire.send("POST", "/x", b"{}", 600)
    assert asked == [b"CONNECT api.example:443 HTTP/1.1\r\n"]


async def test_a_cancelled_request_frees_its_connection_in_the_pool() -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfi")
        await writer.drain()
        asked.set()
        await reader.read()
        gone.set()

    pooled = PooledTransport(client_context())
    async with raw_server(peer) as url, client(url, pooled) as wire:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wire.send, "POST", "/x", b"{}", 60)
            await asked.wait()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(60):
            await gone.wait()
        assert [pool.in_flight for pool in pooled._pools] == [0]


_ON_HTTPX2 = """
import asyncio, ssl, sys
sys.modules["httpx"] = None  # as if it were not installed
from batchvision.http import Endpoint, LeanTransport, ProviderClient, httpx
from batchvision.http.pooled import PooledTransport
from batchvision.secrets import Secrets

connections = 0

async def talk(reader, writer):
    global connections
    connections += 1
    while (await reader.read(65536)):
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
    writer.close()

async def main():
    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    for transport in (LeanTransport(), PooledTransport(ssl.create_default_context())):
        async with transport:
            client = ProviderClient(Endpoint(url, {}), transport, Secrets())
            for _ in range(3):
                assert (await client.send("GET", "/x", None, 60)).complete
    server.close()

asyncio.run(main())
print(httpx.__name__, connections)
"""


def test_both_transports_work_with_httpx2_alone() -> None:
    pytest.importorskip("httpx2")
    done = subprocess.run([sys.executable, "-c", _ON_HTTPX2], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout) == (0, "httpx2 2\n"), done.stderr
