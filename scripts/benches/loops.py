"""The loops beside batchvision: workers over one iterator of rows, nothing durable, nothing checked.

Each loop is careful code for its library, with bodies made by hand where the library takes bytes.
"""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode as plain_b64encode
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

Spec = dict[str, Any]
Send = Callable[[str], Awaitable[None]]

MODEL = "grok-4.3"
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer bench-key-0000"}
SYSTEM = "You write captions of photographs for a shop. " * 16
QUESTION = "Describe what is sold here, in one sentence."


def url_of(number: int) -> str:
    return f"https://images.example.com/catalogue/2026/photo-{number:08d}.jpg"


def rows_of(spec: Spec) -> Iterator[str]:
    """The image of every row: a URL, or a file's path."""
    files = spec.get("files")
    return (files[n % len(files)] if files else url_of(n) for n in range(spec["rows"]))


def _prefix_and_suffix() -> tuple[bytes, bytes]:
    messages = [
        {"role": "system", "content": SYSTEM},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": QUESTION},
                {"type": "image_url", "image_url": {"url": "<image>", "detail": "auto"}},
            ],
        },
    ]
    prefix, suffix = json.dumps({"model": MODEL, "messages": messages}).encode().split(b"<image>")
    return prefix, suffix


@cache
def _encoder() -> Callable[[bytes], bytes]:
    with suppress(ImportError):
        import pybase64

        encode: Callable[[bytes], bytes] = pybase64.b64encode
        return encode
    return plain_b64encode


PREFIX, SUFFIX = _prefix_and_suffix()


def body_of(image: str) -> bytes:
    """A request's body by hand: URLs as they are, files as base64."""
    if image.startswith("https://"):
        return PREFIX + image.encode() + SUFFIX
    return b"".join((PREFIX, b"data:image/jpeg;base64,", _encoder()(Path(image).read_bytes()), SUFFIX))


async def with_aiohttp(spec: Spec) -> int:
    import aiohttp

    limiter = _limiter(spec)
    address = f"{spec['url']}/v1/chat/completions"
    connector = aiohttp.TCPConnector(limit=spec["in_flight"])
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def send(image: str) -> None:
            if limiter is not None:
                await limiter.acquire()
            async with session.post(address, data=body_of(image)) as response:
                await response.read()

        return await _by_workers(spec, send)


def _limiter(spec: Spec) -> Any:
    if not spec.get("limiter"):
        return None
    from aiolimiter import AsyncLimiter

    return AsyncLimiter(*spec["limiter"])


async def with_httpx(spec: Spec) -> int:
    import httpx

    count = spec["in_flight"]
    limits = httpx.Limits(max_connections=count, max_keepalive_connections=count)
    address = f"{spec['url']}/v1/chat/completions"
    async with httpx.AsyncClient(limits=limits, timeout=600, headers=HEADERS) as client:

        async def send(image: str) -> None:
            (await client.post(address, content=body_of(image))).read()

        return await _by_workers(spec, send)


async def with_transport(spec: Spec) -> int:
    """batchvision's client and its lean transport alone."""
    from batchvision.http import Endpoint, LeanTransport, ProviderClient
    from batchvision.secrets import Secret, Secrets

    endpoint = Endpoint(f"{spec['url']}/v1", HEADERS)
    secrets = Secrets(Secret("bench-key-0000"))
    async with LeanTransport(most_idle=spec["in_flight"]) as lean:
        client = ProviderClient(endpoint, lean, secrets)

        async def send(image: str) -> None:
            await client.send("POST", "/chat/completions", body_of(image), 600)

        return await _by_workers(spec, send)


async def with_openai(spec: Spec) -> int:
    from openai import APIStatusError, AsyncOpenAI

    def messages_of(image: str) -> Any:
        if not image.startswith("https://"):
            image = "data:image/jpeg;base64," + _encoder()(Path(image).read_bytes()).decode()
        content = [
            {"type": "text", "text": QUESTION},
            {"type": "image_url", "image_url": {"url": image, "detail": "auto"}},
        ]
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]

    async with AsyncOpenAI(base_url=f"{spec['url']}/v1", api_key="bench-key-0000") as client:

        async def send(image: str) -> None:
            with suppress(APIStatusError):  # its own retries are over
                await client.chat.completions.create(model=MODEL, messages=messages_of(image))

        return await _by_workers(spec, send)


async def read_objects(spec: Spec) -> int:
    """Read each image of a manifest in a bucket, and send nothing."""
    import obstore
    import pyarrow.parquet as pq

    from batchvision.object_store import open_store

    bucket, _, key = spec["manifest"].rpartition("/")
    store = open_store(bucket)
    names = pq.read_table(BytesIO(obstore.get(store, key).bytes()))["image"].to_pylist()

    async def read(name: str) -> None:
        await (await obstore.get_async(store, name)).bytes_async()

    return await _by_workers({**spec, "files": names}, read)


async def _by_workers(spec: Spec, send: Send) -> int:
    """All rows by ``in_flight`` workers, or as many as ``seconds`` allow. How many were sent."""
    images = rows_of(spec)
    until = time.monotonic() + spec.get("seconds", 1e9)
    sent = 0

    async def work() -> None:
        nonlocal sent
        for image in images:
            if time.monotonic() >= until:
                return
            await send(image)
            sent += 1

    async with asyncio.TaskGroup() as workers:
        for _ in range(spec["in_flight"]):
            workers.create_task(work())
    return sent
