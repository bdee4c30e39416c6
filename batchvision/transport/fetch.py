"""Downloads images for the rows that name URLs, from public addresses only.

Rule: the address is judged where the socket is made, after every way a name can be resolved (redirects, rebinding,
decimal and octal forms, literal addresses), so that no way leads around it.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from types import TracebackType
from typing import Any, Self

import aiohttp
import anyio
from yarl import URL

from batchvision import __version__
from batchvision.errors import ImageForbidden, ImageTooLarge, ImageUnreachable, RowFault
from batchvision.images import redact_url
from batchvision.transport.body import Body

TIMEOUT_SECONDS = 60.0
CONNECT_TIMEOUT_SECONDS = 10.0
MAX_REDIRECTS = 5
RETRIES = 2
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
_CONNECTIONS = 64
_CONNECTIONS_PER_HOST = 8
_CHUNK_BYTES = 64 * 1024
_HEADERS = {
    "accept": "image/jpeg, image/png, image/webp, image/*;q=0.8, */*;q=0.1",
    "accept-encoding": "identity",
    "user-agent": f"batchvision/{__version__}",
}
_NAT64 = ip_network("64:ff9b::/96")
_CLOUD_SERVICES = frozenset({ip_address("168.63.129.16")})  # Azure's own services, at a public address


class _AddressRefused(OSError):
    """The address is not public."""


class _TryAgain(Exception):
    """This try failed in a way another may not."""

    def __init__(self, reason: str, delay_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.delay_seconds = delay_seconds


@dataclass(slots=True)
class _Addresses:
    """The addresses that were refused on the way of one download."""

    refused: list[str] = field(default_factory=list)


_ON_THE_WAY: ContextVar[_Addresses | None] = ContextVar("batchvision_download", default=None)


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
    ) -> None:
        self._allow_private_hosts = allow_private_hosts
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._sleep = sleep
        self._jitter = jitter
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=_CONNECTIONS,
                limit_per_host=_CONNECTIONS_PER_HOST,
                socket_factory=_any_socket if self._allow_private_hosts else _public_socket,
            ),
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

    async def fetch(self, url: str, max_bytes: int) -> bytes:
        """The content at ``url``, at most ``max_bytes`` of it, tries and redirects included within one deadline.

        Raises ImageUnreachable, ImageForbidden or ImageTooLarge.
        """
        with anyio.move_on_after(self._timeout_seconds):
            return await self._fetch_with_retries(url, max_bytes)
        raise ImageUnreachable(f"{redact_url(url)} was not downloaded within {self._timeout_seconds:g} s")

    async def _fetch_with_retries(self, url: str, max_bytes: int) -> bytes:
        retried = 0
        while True:
            try:
                return await self._fetch_once(url, max_bytes)
            except _TryAgain as failure:
                if retried >= self._retries:
                    tries = f"{retried + 1} tries" if retried else "1 try"
                    raise ImageUnreachable(f"{redact_url(url)}: {failure} ({tries})") from None
                delay = failure.delay_seconds
            own = FIRST_DELAY_SECONDS * 2**retried * (0.5 + self._jitter())
            await self._sleep(min(MAX_DELAY_SECONDS, own if delay is None else delay))
            retried += 1

    async def _fetch_once(self, url: str, max_bytes: int) -> bytes:
        assert self._session is not None, "HttpFetcher is used as `async with HttpFetcher(...)`"
        addresses = _Addresses()
        mark = _ON_THE_WAY.set(addresses)
        try:
            async with self._session.get(_as_written(url), max_redirects=MAX_REDIRECTS + 1) as response:
                _check_status(url, response)
                return await _read(url, response, max_bytes)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _fault(url, addresses, error) from None  # the cause shows the URL in full
        finally:
            _ON_THE_WAY.reset(mark)


# ---------------------------------------------------------------------------------- the address rule


def is_public(address: str) -> bool:
    """Whether an address may be downloaded from: no loopback, private, link-local, metadata or special range."""
    try:
        found = _innermost(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved) and found not in _CLOUD_SERVICES


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address an IPv6 one leads to (mapped, NAT64, 6to4), or itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, where = info
    if not is_public(str(where[0])):
        addresses = _ON_THE_WAY.get()
        if addresses is not None:
            addresses.refused.append(str(where[0]))
        raise _AddressRefused(f"{where[0]} is not a public address")
    return socket.socket(family, kind, protocol)


def _any_socket(info: tuple[Any, ...]) -> socket.socket:
    return socket.socket(info[0], info[1], info[2])


# ---------------------------------------------------------------------------------- one answer


def _as_written(url: str) -> URL:
    """Presigned URLs are signed as they are written: ASCII ones are not encoded again."""
    return URL(url, encoded=url.isascii())


def _check_status(url: str, response: aiohttp.ClientResponse) -> None:
    status = response.status
    if status == 200:
        return
    if status in (408, 425, 429) or status >= 500:
        raise _TryAgain(f"HTTP {status}", _retry_after_seconds(response))
    raise ImageUnreachable(f"{redact_url(url)}: HTTP {status} {response.reason or ''}".rstrip())


def _retry_after_seconds(response: aiohttp.ClientResponse) -> float | None:
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() and value.isascii() else None


async def _read(url: str, response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    announced = response.content_length
    if announced is not None and announced > max_bytes:
        raise _too_large(url, max_bytes)
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


def _too_large(url: str, max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"{redact_url(url)} has more than the {max_bytes:,} bytes that are read")


def _fault(url: str, addresses: _Addresses, error: Exception) -> RowFault | _TryAgain:
    shown = redact_url(url)
    if addresses.refused:
        return ImageForbidden(
            f"{shown} leads to {addresses.refused[-1]}, which is not a public address "
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
