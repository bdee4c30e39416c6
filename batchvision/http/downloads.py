"""The downloading of images, begun when the first one is asked for.

Rule: a run whose images travel as URLs, or lie on a disk, neither waits for aiohttp to be imported nor holds it.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Self

from batchvision.images import Reserve

if TYPE_CHECKING:
    from batchvision.http.fetch import HttpFetcher


class FetchesOnDemand:
    """As ``fetch.HttpFetcher``, which it becomes."""

    def __init__(self, allow_private_hosts: bool = False) -> None:
        self._allow_private_hosts = allow_private_hosts
        self._fetcher: HttpFetcher | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def fetch(self, url: str, max_bytes: int, reserve: Reserve | None = None) -> bytes:
        if self._fetcher is None:
            from batchvision.http.fetch import HttpFetcher

            self._fetcher = HttpFetcher(self._allow_private_hosts)
            await self._stack.enter_async_context(self._fetcher)  # it waits for nothing: no second one can come between
        return await self._fetcher.fetch(url, max_bytes, reserve)
