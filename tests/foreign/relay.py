"""A loopback relay in front of a server: it forwards every request and counts requests and answers.

An answer that the server has started counts as bought, also if it is cut or never reaches the client.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, web

HOLD_SECONDS = 0.15  #: each answer is held so long: a kill finds rows in flight
_ROW = re.compile(r"\[(r\d+)\]")
_OWN_HEADERS = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-encoding", "date"})


@dataclass(slots=True)
class Asked:
    """One POST. ``status`` is None until the server answers. ``is_whole``: the answer is complete."""

    row: str
    status: int | None = None
    is_whole: bool = False
    is_delivered: bool = False


@dataclass(slots=True)
class Relay:
    """The requests so far. The relay's thread appends, the script reads."""

    url: str
    asked: list[Asked] = field(default_factory=list)

    @property
    def delivered(self) -> int:
        return sum(each.is_delivered and each.status == 200 for each in self.asked)

    def bought(self) -> Counter[str]:
        """How many answers the server made for each row."""
        return Counter(each.row for each in self.asked if each.status == 200)

    def refused(self) -> int:
        return sum(each.status is not None and each.status != 200 for each in self.asked)

    def broken(self) -> int:
        """Answers that were cut."""
        return sum(each.status == 200 and not each.is_whole for each in self.asked)


@contextmanager
def relaying(upstream: str) -> Iterator[Relay]:
    """A relay to ``upstream`` (scheme, host and port) while the block runs."""
    relay, ready, loop = Relay(""), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with ClientSession(timeout=ClientTimeout(total=120), auto_decompress=False) as session:

            async def handle(request: web.Request) -> web.StreamResponse:
                return await _hand_on(request, session, upstream, relay)

            app = web.Application(client_max_size=64 * 1024 * 1024)
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            host, port = runner.addresses[0][:2]
            relay.url = f"http://{host}:{port}"
            ready.set()
            await stop.wait()
            await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait(timeout=30)
    try:
        yield relay
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(timeout=30)
        loop.close()


async def _hand_on(request: web.Request, session: ClientSession, upstream: str, relay: Relay) -> web.StreamResponse:
    body = await request.read()
    asked = Asked(_row_of(body))
    if request.method == "POST":
        relay.asked.append(asked)
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN_HEADERS}
    try:
        async with session.request(
            request.method, upstream + request.path_qs, data=body or None, headers=headers, allow_redirects=False
        ) as answer:
            asked.status = answer.status
            content = await _all_of(answer, asked)
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN_HEADERS}
    except ClientError as error:
        asked.status = 502
        return web.Response(status=502, text=f"the server failed: {type(error).__name__}")
    await asyncio.sleep(HOLD_SECONDS)
    response = web.StreamResponse(status=asked.status, headers=kept)
    if asked.is_whole:
        response.content_length = len(content)
    with suppress(ConnectionError):  # the client was killed
        await response.prepare(request)
        await response.write(content)
        if asked.is_whole:
            await response.write_eof()
        elif request.transport is not None:
            request.transport.close()  # it breaks off for the client, too
        asked.is_delivered = True
    return response


async def _all_of(answer: ClientResponse, asked: Asked) -> bytes:
    """The body, or its part that arrived."""
    content = bytearray()
    try:
        async for piece in answer.content.iter_any():
            content += piece
        asked.is_whole = True
    except ClientError:
        asked.is_whole = False
    return bytes(content)


def _row_of(body: bytes) -> str:
    """The row id: the text in brackets in the last message."""
    try:
        content = json.loads(body)["messages"][-1]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    parts = content if isinstance(content, list) else [{"text": content}]
    found = _ROW.search("".join(str(part.get("text", "")) for part in parts))
    return found[1] if found else ""
