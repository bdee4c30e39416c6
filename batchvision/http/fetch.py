"""Downloads images for the rows that name URLs, from public addresses only and politely.

Rule: the address is judged where the socket is made, after every way a name can be resolved (redirects, rebinding,
decimal and octal forms, literal addresses), so that no way leads around it.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import inf
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio
from yarl import URL

from batchvision import __version__
from batchvision.errors import ImageForbidden, ImageTooLarge, ImageUnreachable, RowFault
from batchvision.http.body import Body
from batchvision.http.hosts import CONNECTIONS, Hosts
from batchvision.images import Reserve, is_public, redact_url

TIMEOUT_SECONDS = 60.0
CONNECT_TIMEOUT_SECONDS = 10.0
MAX_REDIRECTS = 5
RETRIES = 2
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
_CONNECTIONS = 64
_CHUNK_BYTES = 64 * 1024
_HEADERS = {
    "accept": "image/jpeg, image/png, image/webp, image/*;q=0.8, */*;q=0.1",
    "accept-encoding": "identity",
    "user-agent": f"batchvision/{__version__}",
}


class _AddressRefused(OSError):
    """The address is not public."""


class _TryAgain(Exception):
    """This try failed in a way another may not."""

    def __init__(self, reason: str, delay_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.delay_seconds = delay_seconds


@dataclass(slots=True, eq=False)
class _Way:
    """One download: its deadline, its room, and the addresses that were refused on its way."""

    scope: anyio.CancelScope
    reserve: Reserve | None
    refused: list[str] = field(default_factory=list)

    @contextmanager
    def our_own_wait(self) -> Iterator[None]:
        """Time that the deadline does not count: we wait for our own sake."""
        left = self.scope.deadline - anyio.current_time()
        self.scope.deadline = inf
        try:
            yield
        finally:
            self.scope.deadline = anyio.current_time() + left


_ON_THE_WAY: ContextVar[_Way | None] = ContextVar("batchvision_download", default=None)


class HttpFetcher:
    """Downloads with its own retries; every failure is a fault of the row that named the URL."""

    def __init__(
        self,
        allow_private_hosts: bool = False,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: int = RETRIES,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._allow_private_hosts = allow_private_hosts
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._sleep = sleep
        self._jitter = jitter
        self._hosts = Hosts(sleep, clock)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS,
                limit_per_host=CONNECTIONS,
                socket_factory=_any_socket if self._allow_private_hosts else _public_socket,
            ),
            middlewares=(self._ask_politely,),  # once for each hop of a redirect
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_SECONDS),
            trust_env=False,  # a proxy would connect for us, wherever it likes
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await self._session.close()

    async def fetch(self, url: str, max_bytes: int, reserve: Reserve | None = None) -> bytes:
        """The content at ``url``, at most ``max_bytes`` of it, tries and redirects included within one deadline.

        ``reserve`` is awaited before the bytes of an answer are held. Raises ImageUnreachable, ImageForbidden or
        ImageTooLarge.
        """
        with anyio.move_on_after(self._timeout_seconds) as scope:
            way = _Way(scope, reserve)
            mark = _ON_THE_WAY.set(way)
            try:
                return await self._fetch_with_retries(url, max_bytes, way)
            finally:
                _ON_THE_WAY.reset(mark)
        raise ImageUnreachable(f"{redact_url(url)} was not downloaded within {self._timeout_seconds:g} s")

    async def _fetch_with_retries(self, url: str, max_bytes: int, way: _Way) -> bytes:
        slots = self._hosts[_host_of(url)].slots
        retried = 0
        while True:
            with way.our_own_wait():
                await slots.acquire_on_behalf_of(way)
            try:
                return await self._fetch_once(url, max_bytes, way)
            except _TryAgain as failure:
                if retried >= self._retries:
                    tries = f"{retried + 1} tries" if retried else "1 try"
                    raise ImageUnreachable(f"{redact_url(url)}: {failure} ({tries})") from None
                is_paused = failure.delay_seconds is not None
            finally:
                slots.release_on_behalf_of(way)
            if not is_paused:  # otherwise the host's pause is waited for with the next try
                await self._sleep(min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**retried * (0.5 + self._jitter())))
            retried += 1

    async def _fetch_once(self, url: str, max_bytes: int, way: _Way) -> bytes:
        if self._session is None:
            raise RuntimeError("HttpFetcher is used as `async with HttpFetcher(...)`")
        try:
            async with self._session.get(_as_written(url), max_redirects=MAX_REDIRECTS + 1) as response:
                _check_status(url, response)
                return await _read(url, response, max_bytes, way)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _fault(url, way.refused, error) from None  # the cause shows the URL in full

    async def _ask_politely(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        host, way = self._hosts[request.url.host], _ON_THE_WAY.get()
        if way is None:
            raise RuntimeError("downloads go through fetch()")
        with way.our_own_wait():
            await host.turn()
        response = await handler(request)
        delay = _retry_after_seconds(response) if _is_busy(response.status) else None
        if delay is not None:
            host.pause(delay)
        return response


# ---------------------------------------------------------------------------------- the address rule


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, where = info
    if not is_public(str(where[0])):
        way = _ON_THE_WAY.get()
        if way is not None:
            way.refused.append(str(where[0]))
        raise _AddressRefused(f"{where[0]} is not a public address")
    return socket.socket(family, kind, protocol)


def _any_socket(info: tuple[Any, ...]) -> socket.socket:
    return socket.socket(info[0], info[1], info[2])


# ---------------------------------------------------------------------------------- one answer


def _as_written(url: str) -> URL:
    """Presigned URLs are signed as they are written: ASCII ones are not encoded again."""
    return URL(url, encoded=url.isascii())


def _host_of(url: str) -> str | None:
    try:
        return _as_written(url).host
    except ValueError:
        return None


def _is_busy(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500


def _check_status(url: str, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200:
        return
    if _is_busy(status):
        raise _TryAgain(f"HTTP {status}", _retry_after_seconds(response))
    raise ImageUnreachable(f"{redact_url(url)}: HTTP {status} {response.reason or ''}".rstrip())


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float | None:
    """Seconds or an HTTP date; None for anything else."""
    value = response.headers.get("retry-after", "")[:80]
    if value.isdecimal() and value.isascii():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - datetime.now(UTC)).total_seconds())


async def _read(url: str, response: aiohttp.ClientResponse, max_bytes: int, way: _Way) -> bytes:
    announced = response.content_length
    if announced is not None and announced > max_bytes:
        raise _too_large(url, max_bytes)
    if way.reserve is not None:
        with way.our_own_wait():
            await way.reserve(max_bytes if announced is None or _is_packed(response) else announced)
    body = Body(response.headers.get("content-encoding", ""), max_bytes)
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body.feed(chunk)
        if not body.wants_more:
            break
    if body.is_too_long:
        raise _too_large(url, max_bytes)
    if not body.is_readable:
        raise _TryAgain("its content-encoding cannot be read")
    return body.content()


def _is_packed(response: aiohttp.ClientResponse) -> bool:
    return response.headers.get("content-encoding", "identity").lower() not in ("", "identity")


def _too_large(url: str, max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"{redact_url(url)} has more than the {max_bytes:,} bytes that are read")


def _fault(url: str, refused: list[str], error: Exception) -> RowFault | _TryAgain:
    shown = redact_url(url)
    if refused:
        return ImageForbidden(
            f"{shown} leads to {refused[-1]}, which is not a public address "
            "(set images.allow_private_hosts = true to allow your own network)"
        )
    match error:
        case aiohttp.NonHttpUrlClientError():
            return ImageForbidden(f"{shown} leads away from http and https")
        case aiohttp.TooManyRedirects():
            return ImageUnreachable(f"{shown}: more than {MAX_REDIRECTS} redirects")
        case aiohttp.InvalidURL() | ValueError():
            return ImageUnreachable(f"{shown}: not a usable URL, or redirected to one")
        case aiohttp.ClientConnectorCertificateError():
            return ImageUnreachable(f"{shown}: the server's certificate cannot be verified")
        case aiohttp.ClientConnectorError():
            return _TryAgain(f"no connection to {error.host}: {error.os_error.strerror or 'refused'}")
        case _:
            return _TryAgain(f"the download broke off ({type(error).__name__})")
