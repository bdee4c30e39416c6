"""httpx's own transport in small pools, for proxies and for ``provider.http = "httpx"``.

httpx's pool compares each request with each connection, and rarely reuses one of more than about 20. So each pool has
at most 16 connections, and no request waits inside a pool. A connection is reused only if no bytes follow the response.

Caution: ``_is_clean`` reads private attributes of httpcore to see these bytes. Where a new version of httpcore renames
them, each connection is closed after one response: slower, and still safe.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

from batchvision.http.connection import KEPT_IDLE_SECONDS
from batchvision.http.library import httpx

CONNECTIONS_A_POOL = 16


class _Pool:
    """One transport of httpx, and the number of its requests in flight."""

    __slots__ = ("in_flight", "transport")

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self.transport = transport
        self.in_flight = 0


class PooledTransport(httpx.AsyncBaseTransport):
    """As many pools as the requests in flight need. ``context`` verifies https servers."""

    def __init__(self, context: ssl.SSLContext, *, proxy: httpx.Proxy | None = None) -> None:
        self._context = context
        self._proxy = proxy
        self._pools: list[_Pool] = []

    def __repr__(self) -> str:
        return f"PooledTransport({'proxy' if self._proxy else 'direct'}, pools={len(self._pools)})"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send the request through a pool with a free connection."""
        pool = next((pool for pool in self._pools if pool.in_flight < CONNECTIONS_A_POOL), None) or self._new_pool()
        pool.in_flight += 1
        try:
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            pool.in_flight -= 1
            raise
        response.stream = _Body(pool, response)
        return response

    async def aclose(self) -> None:
        pools, self._pools = self._pools, []
        for pool in pools:
            await pool.transport.aclose()

    def _new_pool(self) -> _Pool:
        limits = httpx.Limits(
            max_connections=CONNECTIONS_A_POOL,
            max_keepalive_connections=CONNECTIONS_A_POOL,
            keepalive_expiry=KEPT_IDLE_SECONDS,
        )
        transport = httpx.AsyncHTTPTransport(self._context, trust_env=False, limits=limits, proxy=self._proxy)
        self._pools.append(_Pool(transport))
        return self._pools[-1]


class _Body(httpx.AsyncByteStream):
    """The body of a response. Closing it frees its connection in the pool."""

    def __init__(self, pool: _Pool, response: httpx.Response) -> None:
        if not isinstance(response.stream, httpx.AsyncByteStream):
            raise RuntimeError("a transport gave a response without an AsyncByteStream")
        self._pool: _Pool | None = pool
        self._stream = response.stream
        self._network = response.extensions["network_stream"]

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            yield piece

    async def aclose(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            if not _is_clean(self._stream):
                await self._network.aclose()
            await self._stream.aclose()
        finally:
            pool.in_flight -= 1


def _is_clean(stream: httpx.AsyncByteStream) -> bool:
    """Whether no bytes follow the response. httpcore would read them as the response to the next request, and has no
    public interface to them. Where its private names have changed, no connection counts as clean."""
    try:
        parser = stream._httpcore_stream._stream._connection._h11_state  # type: ignore[attr-defined]
        trailing: bytes = parser.trailing_data[0]
    except AttributeError:
        return False
    return not trailing
