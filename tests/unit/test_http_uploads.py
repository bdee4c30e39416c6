"""A body that is streamed from a file, and a response that is streamed into one."""

from __future__ import annotations

import gzip
import io
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from batchvision.http import Endpoint, FileUpload, LeanTransport, ProviderClient, httpx
from batchvision.secrets import Secrets

MIB = 1024 * 1024


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async def counted(request: web.Request) -> web.Response:
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        return web.json_response({"bytes": size, "length": request.content_length})

    async def refused(_: web.Request) -> web.Response:
        return web.Response(status=413, text="too large")

    async def large(_: web.Request) -> web.Response:
        body = gzip.compress(b"line\n" * (20 * MIB // 5))
        return web.Response(body=body, headers={"content-encoding": "gzip"})

    app = web.Application(client_max_size=10**9)
    app.router.add_post("/files", counted)
    app.router.add_post("/refused", refused)
    app.router.add_get("/large", large)
    app.router.add_get("/missing", refused)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield str(site.name)
    await runner.cleanup()


@pytest.fixture(params=["lean", "httpx"])
async def client(request: pytest.FixtureRequest, server: str) -> AsyncIterator[ProviderClient]:
    transport = LeanTransport() if request.param == "lean" else httpx.AsyncHTTPTransport()
    async with transport:
        yield ProviderClient(Endpoint(server, {}), transport, Secrets(), max_answer_bytes=MIB)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"x" * (30 * MIB))
    return path


@pytest.mark.anyio
async def test_a_file_is_sent_between_its_head_and_tail_in_constant_memory(client: ProviderClient, file: Path) -> None:
    await client.send("POST", "/files", b"warm", 60)
    tracemalloc.start()
    raw = await client.send("POST", "/files", FileUpload(file, b"head", b"tail"), 60)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert raw.body == b'{"bytes": %d, "length": %d}' % (30 * MIB + 8, 30 * MIB + 8)
    assert peak < 12 * MIB  # the server of this test is in this process too


@pytest.mark.anyio
async def test_an_early_refusal_of_a_long_body_is_an_answer_or_a_cut(client: ProviderClient, file: Path) -> None:
    from batchvision.errors import ConnectionCut

    try:
        raw = await client.send("POST", "/refused", FileUpload(file), 60)
    except ConnectionCut:
        return  # the server closed before it was heard
    assert raw.status == 413
    assert (await client.send("POST", "/files", b"next", 60)).body == b'{"bytes": 4, "length": 4}'


@pytest.mark.anyio
async def test_a_success_goes_to_the_file_without_a_bound_and_a_refusal_does_not(client: ProviderClient) -> None:
    into = io.BytesIO()
    raw = await client.send("GET", "/large", None, 60, into=into)
    assert (raw.status, raw.complete, raw.body) == (200, True, b"")
    assert into.getvalue() == b"line\n" * (20 * MIB // 5)
    into = io.BytesIO()
    raw = await client.send("GET", "/missing", None, 60, into=into)
    assert (raw.status, raw.body, into.getvalue()) == (413, b"too large", b"")


@pytest.mark.anyio
async def test_without_a_file_a_large_body_is_cut(client: ProviderClient) -> None:
    raw = await client.send("GET", "/large", None, 60)
    assert not raw.complete
