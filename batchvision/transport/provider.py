"""Bytes to a provider and back, under one deadline. Only this folder imports httpx and aiohttp clients.

Rule: it is always known whether a request may have been billed.

- Nothing of it left this machine: ConnectFailed.
- It left, and no status line came: RequestTimedOut or ConnectionCut (maybe billed).
- A status line came: a RawAnswer, ``complete=False`` if its body ended early, for whatever reason.

A request goes straight into httpx's transport over aiohttp: httpx's own pool is quadratic in its connections, and a
client on top of it only costs time. What the exceptions of that stack are called is never trusted (a connection that
the server drops after the request is mapped to ConnectTimeout): a trace tells whether the headers were handed out.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from types import TracebackType
from typing import Any, NamedTuple, Self, cast
from urllib.parse import urlsplit

import aiohttp
import anyio
import httpx
from httpx_aiohttp import AiohttpTransport
from multidict import CIMultiDict

from batchvision import __version__
from batchvision.errors import BatchvisionError, ConnectFailed, ConnectionCut, JobInvalid, RequestTimedOut
from batchvision.records import RawAnswer
from batchvision.secrets import Secrets
from batchvision.transport.body import Body

CONNECT_TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_CLOSE_SECONDS = 2.0
_KEPT_HEADERS = frozenset(
    b"content-type date x-request-id x-generation-id retry-after retry-after-ms x-should-retry".split()
)
_WIRE_ERRORS = (httpx.TransportError, aiohttp.ClientError, OSError)  # TimeoutError is an OSError
_OWN_HEADERS = {"accept-encoding": "gzip, deflate", "user-agent": f"batchvision/{__version__}"}


@dataclass(slots=True, eq=False)
class _Attempt:
    """What is known of one request so far."""

    has_left: bool = False
    status: int | None = None
    headers: Mapping[str, str] | None = None
    body: Body | None = None
    is_whole: bool = False


class _Outgoing(NamedTuple):
    """What httpx's transport reads of a request. An ``httpx.Request`` would copy and complete the headers each time."""

    method: str
    url: httpx.URL
    headers: CIMultiDict[str]
    content: bytes
    extensions: dict[str, Any]


_ATTEMPT: ContextVar[_Attempt | None] = ContextVar("batchvision_attempt", default=None)


class HttpTransport:
    """One provider's endpoint. ``connections`` bounds the requests on the wire; the caller keeps to it.

    ``headers`` go with every request (they hold the key; ``secrets`` hides it in messages). Raises JobInvalid for a
    base URL or a header that cannot be right.
    """

    def __init__(
        self,
        base_url: str,
        headers: Mapping[str, str],
        connections: int,
        secrets: Secrets,
        *,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        allow_plain_http: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        check_base_url(base_url, allow_plain_http)
        _check_headers(headers)
        self._base_url = base_url.rstrip("/")
        self._shown = secrets.mask(self._base_url)
        self._headers = httpx.Headers({**_OWN_HEADERS, **headers})
        self._url_of = lru_cache(maxsize=8)(self._join)  # almost all requests go to one path: parse its URL once
        self._connections = connections
        self._secrets = secrets
        self._max_answer_bytes = max_answer_bytes
        self._outgoing_headers = CIMultiDict(self._headers)
        self._extensions: dict[str, Any] = {"timeout": {"connect": connect_timeout_seconds}}
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._wire: AiohttpTransport | None = None

    def __repr__(self) -> str:
        return f"HttpTransport({self._shown!r}, connections={self._connections})"

    async def __aenter__(self) -> Self:
        context = _tls_context() if self._base_url.startswith("https") else None
        self._session = _session(self._connections, context)
        # the context goes to both: without one the transport would load the certificates a second time
        self._wire = AiohttpTransport(verify=context or _unused_context(), client=self._session)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> RawAnswer:
        """One request, one answer. ``timeout_seconds`` spans all of it: connecting, sending, waiting, reading.
        ``headers``: of this request, over those of all.

        Raises ConnectFailed, RequestTimedOut or ConnectionCut, only where no status line came.
        """
        request = _Outgoing(method, self._url_of(path), self._with(headers), body or b"", self._extensions)
        attempt = _Attempt()
        mark = _ATTEMPT.set(attempt)
        try:
            with anyio.move_on_after(timeout_seconds):
                await self._carry(request, attempt)
        finally:
            _ATTEMPT.reset(mark)
        if attempt.status is None or attempt.headers is None or attempt.body is None:
            raise self._timed_out(attempt, timeout_seconds)
        return RawAnswer(
            status=attempt.status,
            headers=attempt.headers,
            body=attempt.body.content(),
            received_at=self._clock(),
            complete=attempt.is_whole and attempt.body.is_readable,
        )

    def _with(self, headers: Mapping[str, str] | None) -> CIMultiDict[str]:
        if not headers:
            return self._outgoing_headers
        own = self._outgoing_headers.copy()
        own.update(headers)
        return own

    def _join(self, path: str) -> httpx.URL:
        return httpx.URL(f"{self._base_url}/{path.lstrip('/')}")

    async def _carry(self, request: _Outgoing, attempt: _Attempt) -> None:
        assert self._wire is not None, "HttpTransport is used as `async with HttpTransport(...)`"
        try:
            response = await self._wire.handle_async_request(request)  # type: ignore[arg-type]  # what it reads of one
        except _WIRE_ERRORS as error:
            raise self._without_status(attempt, error) from None  # the cause may show headers
        attempt.status = response.status_code
        attempt.headers = _useful_headers(response.headers.raw)
        attempt.body = Body(response.headers.get("content-encoding", ""), self._max_answer_bytes)
        try:
            with suppress(*_WIRE_ERRORS):
                attempt.is_whole = await _read(response, attempt.body)
        finally:
            if attempt.is_whole:  # at its end the connection has gone back already
                await response.aclose()
            else:
                await _close(response)

    def _without_status(self, attempt: _Attempt, error: BaseException) -> BatchvisionError:
        reason = self._secrets.mask(_reason(error))
        if attempt.has_left:
            return ConnectionCut(f"the connection to {self._shown} ended before an answer began: {reason}")
        return ConnectFailed(f"no connection to {self._shown}: {reason}")

    def _timed_out(self, attempt: _Attempt, timeout_seconds: float) -> BatchvisionError:
        if attempt.has_left:
            return RequestTimedOut(f"no answer from {self._shown} within {timeout_seconds:g} s")
        return ConnectFailed(f"no connection to {self._shown} within {timeout_seconds:g} s")


# ---------------------------------------------------------------------------------- checks at construction


def check_base_url(base_url: str, allow_plain_http: bool) -> None:
    """Raises JobInvalid for what is no URL of an API, and for plain http to another machine."""
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise JobInvalid(f"provider.base_url is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise JobInvalid("provider.base_url must look like https://api.example.com/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise JobInvalid(
            "provider.base_url must not hold a user name, a ? or a #: name the key by provider.api_key_env instead"
        )
    if parts.scheme == "http" and not allow_plain_http and not is_loopback(host):
        raise JobInvalid(
            f"provider.base_url is plain http to {host}: the key and the images would travel readable. "
            "Use https://, reach it through a tunnel that ends at http://localhost, or, in a network of your own, set "
            "provider.allow_plain_http = true"
        )


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_headers(headers: Mapping[str, str]) -> None:
    for name, value in headers.items():
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in name + value) or not value.isascii():
            raise JobInvalid(
                f"the request header {name!r} holds a line break or a character headers cannot hold: "
                "check provider.headers and the API key (a key file may hold one line only)"
            )


# ---------------------------------------------------------------------------------- the wire


def _session(connections: int, context: ssl.SSLContext | None) -> aiohttp.ClientSession:
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=connections, ssl=True if context is None else context),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        trust_env=False,
        request_class=_Departing,
    )
    # aiohttp repeats a GET by itself when a kept connection breaks; a ticket can be read only once
    session._retry_connection = False
    return session


class _Departing(aiohttp.ClientRequest):
    """Notes the moment before its first byte is written."""

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        attempt = _ATTEMPT.get()
        if attempt is not None:
            attempt.has_left = True
        return await super().send(conn)


def _tls_context() -> ssl.SSLContext:
    """Verified, with certifi's roots or those SSL_CERT_FILE and SSL_CERT_DIR name."""
    return httpx.create_ssl_context()


def _unused_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _close(response: httpx.Response) -> None:
    """Closes the connection with what is left unread; also when cancelled."""
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        with suppress(*_WIRE_ERRORS):  # it broke while it was closed: what had arrived is kept
            await response.aclose()


async def _read(response: httpx.Response, body: Body) -> bool:
    """Whether the transfer reached its announced end."""
    chunks = cast("AsyncGenerator[bytes]", aiter(cast(httpx.AsyncByteStream, response.stream)))
    async with aclosing(chunks):
        async for chunk in chunks:
            body.feed(chunk)
            if not body.wants_more:
                return False
    return True


def _useful_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    useful: dict[str, str] = {}
    for name, value in raw:
        lower = name.lower()
        if lower in _KEPT_HEADERS or b"ratelimit" in lower or lower.startswith(b"x-openrouter-cache"):
            useful[lower.decode("ascii", "replace")] = value.decode("utf-8", "replace")
    return useful


def _reason(error: BaseException) -> str:
    """The innermost cause, on one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300] or type(error).__name__
