"""Providers in memory, as transports: what they answer or raise in batchvision's words becomes httpx's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

import httpx

from batchvision.errors import ConnectFailed, RequestTimedOut, Transient
from batchvision.records import RawAnswer

#: On every request; a fake is shown the others.
_ALWAYS = frozenset(
    {"host", "accept", "accept-encoding", "user-agent", "authorization", "content-type", "content-length"}
)


class InMemoryProvider(httpx.AsyncBaseTransport):
    """Answers by :meth:`send`, which raises ConnectFailed, RequestTimedOut or ConnectionCut as a network would."""

    async def send(
        self, method: str, path: str, body: bytes, timeout_seconds: float, headers: Mapping[str, str]
    ) -> RawAnswer:
        raise NotImplementedError

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        timeout = request.extensions["timeout"]["read"]
        own = {name: value for name, value in request.headers.items() if name not in _ALWAYS}
        try:
            raw = await self.send(request.method, request.url.raw_path.decode(), body, timeout, own)
        except Transient as error:
            raise _as_network(error) from None
        return httpx.Response(raw.status, headers=dict(raw.headers), stream=_Body(raw))


class _Body(httpx.AsyncByteStream):
    def __init__(self, raw: RawAnswer) -> None:
        self._raw = raw

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._raw.body
        if not self._raw.complete:
            raise httpx.ReadError("the body ended early")


def _as_network(error: Transient) -> httpx.TransportError:
    match error:
        case ConnectFailed():
            return httpx.ConnectError(str(error))
        case RequestTimedOut():
            return httpx.ReadTimeout(str(error))
        case _:
            return httpx.RemoteProtocolError(str(error))
