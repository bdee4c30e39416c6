"""Download images for rows that name URLs, from public addresses only and politely.

Each hop is resolved, its address is checked, and the connection is made to that very address. So redirects, DNS
rebinding and odd forms of addresses lead nowhere else. Only a proxy that the job names resolves names itself.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from types import TracebackType
from typing import Any, Self

import anyio

from batchvision import __version__
from batchvision.errors import ImageTooLarge, ImageUnreachable
from batchvision.http.arrival import innermost, reason
from batchvision.http.body import Body
from batchvision.http.connection import NO_CONNECTION
from batchvision.http.hops import Addresses, Hop, Resolver, hop_to, redirected, resolve
from batchvision.http.hosts import CONNECTIONS, Hosts
from batchvision.http.lean import CONNECT_TIMEOUT_SECONDS, LeanTransport
from batchvision.http.library import httpx
from batchvision.images import ReserveBytes, check_host, redact_url
from batchvision.providers import wait_seconds

TIMEOUT_SECONDS = 60.0
#: The connect timeout of an address that is not the last one of its host.
NEXT_ADDRESS_SECONDS = 2.0
MAX_REDIRECTS = 5
RETRIES = 2
FIRST_DELAY_SECONDS = 0.5
MAX_DELAY_SECONDS = 10.0
_MAX_CONNECTIONS = 64
_HEADERS = {
    "accept": "image/jpeg, image/png, image/webp, image/*;q=0.8, */*;q=0.1",
    "accept-encoding": "identity",
    "user-agent": f"batchvision/{__version__}",
}

#: Header names and values by host: ``img.example.com``, or ``img.example.com:8443`` for one port alone.
HeadersByHost = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class DownloadRules:
    """The settings of a job for downloads. Each host receives only its own ``headers``.

    ``is_proxied``: the transport leads to a proxy, which resolves names itself.
    """

    allow_private_hosts: bool = False
    headers: HeadersByHost = field(default_factory=dict, repr=False)
    is_proxied: bool = False
    timeout_seconds: float = TIMEOUT_SECONDS
    retries: int = RETRIES


class _TryAgain(Exception):
    """This try failed, and another one may succeed."""

    def __init__(self, message: str, delay_seconds: float | None = None) -> None:
        super().__init__(message)
        self.delay_seconds = delay_seconds


@dataclass(slots=True, eq=False)
class _Download:
    """One download: its deadline, its byte budget, and whether its first URL is https."""

    scope: anyio.CancelScope
    reserve: ReserveBytes | None
    is_https: bool

    @contextmanager
    def deadline_paused(self) -> Iterator[None]:
        """Leave the time of this block out of the deadline: our own limits cause the wait."""
        left = self.scope.deadline - anyio.current_time()
        self.scope.deadline = inf
        try:
            yield
        finally:
            self.scope.deadline = anyio.current_time() + left


class HttpFetcher:
    """Downloads with its own retries. Each failure is a fault of the row that named the URL.

    ``transport`` is made at the first download. Its default connects directly.
    """

    def __init__(
        self,
        rules: DownloadRules,
        *,
        transport: Callable[[], httpx.AsyncBaseTransport] = lambda: LeanTransport(most_idle=CONNECTIONS),
        resolver: Resolver = resolve,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._rules = rules
        self._headers = {host.lower().rstrip("."): dict(values) for host, values in rules.headers.items()}
        self._new_transport = transport
        self._transport: httpx.AsyncBaseTransport | None = None
        self._addresses = Addresses(rules.allow_private_hosts, resolver)
        self._sleep = sleep
        self._jitter = jitter
        self._hosts = Hosts(sleep, clock)
        self._connections = anyio.CapacityLimiter(_MAX_CONNECTIONS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.aclose()

    async def fetch(self, url: str, max_bytes: int, reserve: ReserveBytes | None = None) -> bytes:
        """Return the content at ``url``, of at most ``max_bytes``. One deadline spans all tries and redirects.

        ``reserve`` is awaited before the bytes of a response are held. Raises ImageUnreachable, ImageForbidden or
        ImageTooLarge.
        """
        first = hop_to(url)
        with anyio.move_on_after(self._rules.timeout_seconds) as scope:
            return await self._fetch_with_retries(first, max_bytes, _Download(scope, reserve, first.is_https))
        raise ImageUnreachable(f"{redact_url(url)} was not downloaded within {self._rules.timeout_seconds:g} s")

    async def _fetch_with_retries(self, first: Hop, max_bytes: int, download: _Download) -> bytes:
        slots = self._hosts[first.host].slots
        retried = 0
        while True:
            with download.deadline_paused():
                await slots.acquire_on_behalf_of(download)
            try:
                return await self._fetch_once(first, max_bytes, download)
            except _TryAgain as failure:
                if retried >= self._rules.retries:
                    tries = f"{retried + 1} tries" if retried else "1 try"
                    raise ImageUnreachable(f"{redact_url(first.url)}: {failure} ({tries})") from None
                is_paused = failure.delay_seconds is not None
            finally:
                slots.release_on_behalf_of(download)
            if not is_paused:  # otherwise the next try waits for the host's pause
                await self._sleep(min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2**retried * (0.5 + self._jitter())))
            retried += 1

    async def _fetch_once(self, first: Hop, max_bytes: int, download: _Download) -> bytes:
        hop = first
        for _ in range(MAX_REDIRECTS + 1):
            with download.deadline_paused():
                await self._connections.acquire_on_behalf_of(download)
            try:
                response = await self._asked(hop, download)
                try:
                    after = redirected(hop, response)
                    if after is None:
                        _check_status(first.url, response)
                        return await _read(first.url, response, max_bytes, download)
                finally:
                    await response.aclose()
            except (httpx.TransportError, httpx.InvalidURL) as error:
                raise _TryAgain(f"the download broke off ({type(error).__name__})") from None
            finally:
                self._connections.release_on_behalf_of(download)
            hop = after
        raise ImageUnreachable(f"{redact_url(first.url)}: more than {MAX_REDIRECTS} redirects")

    # ---------------------------------------------------------------------------- one hop

    async def _asked(self, hop: Hop, download: _Download) -> httpx.Response:
        """The response, its body unread. Raises ImageForbidden, ImageUnreachable, _TryAgain or TransportError."""
        host = self._hosts[hop.host]
        with download.deadline_paused():
            await host.wait()
        if not self._rules.is_proxied:
            response = await self._directly(hop, download)
        else:
            if not self._rules.allow_private_hosts:
                check_host(hop.url)
            response = await self._sent(hop, hop.host, CONNECT_TIMEOUT_SECONDS, download)
        if _is_busy(response.status_code):
            host.pause(wait_seconds(response.headers.get("retry-after"), datetime.now(UTC)) or 0.0)
        return response

    async def _directly(self, hop: Hop, download: _Download) -> httpx.Response:
        """Ask the first address of the host that accepts a connection."""
        try:
            addresses = await self._addresses.of(hop.host, hop.port, redact_url(hop.url))
        except NO_CONNECTION as error:
            raise _no_connection(hop, error) from None
        for address in addresses:
            is_last = address == addresses[-1]
            try:
                response = await self._sent(
                    hop, address, CONNECT_TIMEOUT_SECONDS if is_last else NEXT_ADDRESS_SECONDS, download
                )
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                if is_last:
                    self._addresses.forget(hop.host, hop.port)
                    raise _no_connection(hop, error) from None
            else:
                self._addresses.prefer(hop.host, hop.port, address)
                return response
        raise _TryAgain(f"no connection to {hop.host}: it has no address")

    async def _sent(self, hop: Hop, address: str, connect_seconds: float, download: _Download) -> httpx.Response:
        extensions: dict[str, Any] = {
            "sni_hostname": hop.host,
            "timeout": {"connect": connect_seconds, "read": None, "write": None, "pool": None},
        }
        url = httpx.URL(scheme=hop.scheme, host=address.partition("%")[0], port=hop.port)
        if self._rules.is_proxied:
            url = url.copy_with(
                raw_path=hop.target
            )  # with the extension httpx would ask the proxy itself for the target
        else:
            extensions["target"] = hop.target
        headers = {**_HEADERS, "host": hop.host_header, **self._headers_for(hop, download)}
        request = httpx.Request("GET", url, headers=headers, extensions=extensions)
        if self._transport is None:
            self._transport = self._new_transport()
        try:
            return await self._transport.handle_async_request(request)
        except httpx.ProxyError as error:
            raise _TryAgain(f"the proxy of images.proxy refuses it: {reason(error)}") from None
        except httpx.ConnectError as error:
            if isinstance(innermost(error), ssl.SSLCertVerificationError):
                raise ImageUnreachable(f"{redact_url(hop.url)}: the server's certificate cannot be verified") from None
            raise

    def _headers_for(self, hop: Hop, download: _Download) -> dict[str, str]:
        """The headers for the host of the hop. After a redirect from https to http the job's headers are left out."""
        own = {} if hop.authorization is None else {"authorization": hop.authorization}
        if hop.is_https or not download.is_https:
            host = hop.host.rstrip(".")
            for name in (host, f"{host}:{hop.port}"):
                own.update({header.lower(): value for header, value in self._headers.get(name, {}).items()})
        return own


# ---------------------------------------------------------------------------------- one answer


def _no_connection(hop: Hop, error: Exception) -> _TryAgain:
    cause = innermost(error)
    if isinstance(cause, TimeoutError):
        return _TryAgain(f"no connection to {hop.host} within {CONNECT_TIMEOUT_SECONDS:g} s")
    said = cause.strerror if isinstance(cause, OSError) else None
    return _TryAgain(f"no connection to {hop.host}: {said or reason(cause)}")


def _is_busy(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500


def _check_status(url: str, response: httpx.Response) -> None:
    status = response.status_code
    if status == 200:
        return
    if _is_busy(status):
        raise _TryAgain(f"HTTP {status}", wait_seconds(response.headers.get("retry-after"), datetime.now(UTC)))
    raise ImageUnreachable(f"{redact_url(url)}: HTTP {status} {response.reason_phrase}".rstrip())


async def _read(url: str, response: httpx.Response, max_bytes: int, download: _Download) -> bytes:
    said = response.headers.get("content-length", "")
    announced = int(said[:18]) if said.isascii() and said.isdecimal() else None
    encoding = response.headers.get("content-encoding", "")
    if announced is not None and announced > max_bytes:
        raise _too_large(url, max_bytes)
    if download.reserve is not None:
        is_packed = encoding.lower() not in ("", "identity")
        with download.deadline_paused():
            await download.reserve(max_bytes if announced is None or is_packed else announced)
    body = Body(encoding, max_bytes)
    if not isinstance(response.stream, httpx.AsyncByteStream):
        raise RuntimeError("a transport gave a response without an AsyncByteStream")
    async for piece in response.stream:
        if not body.feed(piece):
            break
    if body.is_too_long:
        raise _too_large(url, max_bytes)
    if not body.is_readable:
        raise _TryAgain("its content-encoding cannot be read")
    return body.content()


def _too_large(url: str, max_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"{redact_url(url)} has more than the {max_bytes:,} bytes that are read")
