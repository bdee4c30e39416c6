"""Send requests to a provider over an httpx transport, each under one deadline.

Base URL and headers are checked once, before a run begins. No message shows a key.

The result shows whether a request may have been billed:

- No byte of it left this machine: ConnectFailed.
- It left, and no status line came: RequestTimedOut or ConnectionCut (maybe billed).
- A status line came: a RawAnswer. ``complete`` is false if its body ended early.

The transport is used directly, without an ``AsyncClient``: no redirects, no cookies, no queue, no repetition.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from typing import BinaryIO
from urllib.parse import quote, urlsplit

import anyio

from batchvision import __version__
from batchvision.errors import BatchvisionError, ConnectFailed, ConnectionCut, JobInvalid, RequestTimedOut
from batchvision.http.arrival import reason
from batchvision.http.body import Body
from batchvision.http.lasting_faults import (
    PROXY_AUTHENTICATION_REQUIRED,
    lasting_fault,
    plain_http_refused,
    probed,
    proxy_needs_password,
)
from batchvision.http.lean import CONNECT_TIMEOUT_SECONDS
from batchvision.http.library import httpx
from batchvision.http.network import Network
from batchvision.http.upload import FileUpload
from batchvision.records import RawAnswer
from batchvision.secrets import Secrets

MAX_ANSWER_BYTES = 64 * 1024 * 1024
GRACE_SECONDS = 0.1
_READ_HEADERS = frozenset(
    {
        *("content-type", "date", "location", "x-request-id", "x-generation-id", "x-litellm-response-cost"),
        *("retry-after", "retry-after-ms", "x-should-retry"),
    }
)
_OWN_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "user-agent": f"batchvision/{__version__}",
}
_OF_PATHS = "/?#[]@!$&'()*+,;=:%"  # characters of a path and its query; a literal one is quoted already
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT_FOR_HEADERS = re.compile(r"[^\x20-\x7e]")
#: After these errors no byte of the request has left. After any other error the request may have left.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

HeaderLine = tuple[bytes, bytes]


class Endpoint:
    """Makes the requests to one provider. Raises JobInvalid for an invalid base URL or header.

    ``headers`` are sent with every request. One of them holds the key.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], *, allow_plain_http: bool = False) -> None:
        check_base_url(base_url, allow_plain_http)
        self.base_url = base_url.rstrip("/")
        self._base = httpx.URL(self.base_url)
        self._headers = {"host": (b"host", self._base.netloc), **_lines({**_OWN_HEADERS, **headers})}
        self._url = lru_cache(maxsize=8)(self._joined_url)  # nearly all requests have one path
        self._lines_with = lru_cache(maxsize=1024)(self._joined_lines)  # and many have the same headers

    @property
    def is_https(self) -> bool:
        return self._base.scheme == "https"

    def request(
        self,
        method: str,
        path: str,
        body: tuple[httpx.AsyncByteStream, int] | None,
        headers: Mapping[str, str] | None,
        extensions: dict[str, object],
    ) -> httpx.Request:
        """A request to ``path`` below the base URL. ``body`` is a stream and its length. ``headers`` replace those of
        the endpoint."""
        lines = self._lines_with(tuple(headers.items()) if headers else ())
        if body is None:
            return httpx.Request(method, self._url(path), headers=lines, extensions=extensions)
        stream, length = body
        lines = [*lines, (b"content-length", b"%d" % length)]
        return httpx.Request(method, self._url(path), headers=lines, stream=stream, extensions=extensions)

    def _joined_lines(self, headers: tuple[tuple[str, str], ...]) -> list[HeaderLine]:
        return list({**self._headers, **_lines(dict(headers))}.values())

    def _joined_url(self, path: str) -> httpx.URL:
        """The base URL's path, then ``path`` with its query, then the base URL's query."""
        base, _, query = self._base.raw_path.decode("ascii").partition("?")
        whole = f"{base.rstrip('/')}/{path.lstrip('/')}"
        if query:
            whole += ("&" if "?" in path else "?") + query
        return self._base.copy_with(raw_path=quote(whole, safe=_OF_PATHS).encode("ascii"))


class ProviderClient:
    """One provider's endpoint over ``transport``, which the caller opens and closes.

    The caller bounds the requests in flight. ``secrets`` hides the key in messages. ``network`` describes the way of
    the transport, for messages about lasting faults. It is ``None`` for a transport of the caller.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        transport: httpx.AsyncBaseTransport,
        secrets: Secrets,
        *,
        network: Network | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._endpoint = endpoint
        self._transport = transport
        self._shown = secrets.mask(endpoint.base_url)
        self._secrets = secrets
        self._network = network
        self._has_answered = False
        self._has_probed = False
        self._max_answer_bytes = max_answer_bytes
        self._connect_timeout_seconds = connect_timeout_seconds
        self._clock = clock

    def __repr__(self) -> str:
        return f"ProviderClient({self._shown!r}, {type(self._transport).__name__})"

    async def send(
        self,
        method: str,
        path: str,
        body: bytes | FileUpload | None,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
        into: BinaryIO | None = None,
    ) -> RawAnswer:
        """Send one request and return its answer. ``timeout_seconds`` bounds connecting, sending, waiting and reading
        together. ``headers`` replace those of the endpoint. The body of a success goes to the file ``into``, if there
        is one: then it has no bound, and the answer has none.

        Raises ConnectFailed, RequestTimedOut or ConnectionCut, only where no status line came. Raises NoWayToProvider
        where no request can succeed until a setting changes.
        """
        progress = _Progress(timeout_seconds, self._connect_timeout_seconds)
        connect = progress.connect_seconds
        timeouts = {"connect": connect, "pool": connect, "read": timeout_seconds, "write": timeout_seconds}
        outgoing: tuple[httpx.AsyncByteStream, int] | None = None
        if body is not None:
            outgoing = (_Outgoing(body) if isinstance(body, bytes) else body), len(body)
        del body  # the request releases it when it has left
        request = self._endpoint.request(method, path, outgoing, headers, {"timeout": timeouts, "trace": progress})
        response: httpx.Response | None = None
        content, is_whole = Body("", 0), False
        try:
            with progress.scope:
                response = await self._transport.handle_async_request(request)
                if response.status_code < 200:
                    await response.aclose()
                    raise httpx.RemoteProtocolError("the server changes the protocol")
                sink = None if into is None or not 200 <= response.status_code < 300 else into.write
                content = Body(response.headers.get("content-encoding", ""), self._max_answer_bytes, sink)
                is_whole = await _read(response, content)
        except (httpx.TransportError, OSError) as error:
            raise await self._failure(error, progress) from None  # the cause may show the key
        finally:
            progress.end()
        if response is None:
            raise self._too_late(progress, may_have_left=progress.may_have_left)
        raw = RawAnswer(
            status=response.status_code,
            headers={
                known: value.decode("utf-8", "replace")
                for name, value in response.headers.raw
                if (known := _known(name))
            },
            body=content.content(),
            received_at=self._clock(),
            complete=is_whole and content.is_readable,
        )
        self._reject_foreign(raw)
        return raw

    # ---------------------------------------------------------------------------- no answer

    def _reject_foreign(self, raw: RawAnswer) -> None:
        """Raise NoWayToProvider where a proxy, or the port of another scheme, answered instead of the provider."""
        if self._network is not None:
            if raw.status == PROXY_AUTHENTICATION_REQUIRED:
                raise proxy_needs_password(self._network)
            if not self._has_answered and (mix_up := plain_http_refused(raw.status, raw.body, self._network)):
                raise mix_up
        self._has_answered = True

    async def _failure(self, error: Exception, progress: _Progress) -> BatchvisionError:
        if found := await self._lasting_fault(error):
            return found
        is_unsent = isinstance(error, _NOT_SENT)
        if isinstance(error, httpx.TimeoutException):
            return self._too_late(progress, may_have_left=not is_unsent)
        said = self._secrets.mask(reason(error))
        if is_unsent:
            return ConnectFailed(f"no connection to {self._where}: {said}")
        return ConnectionCut(f"the connection to {self._shown} ended before an answer began: {said}")

    async def _lasting_fault(self, error: Exception) -> BatchvisionError | None:
        """The lasting fault behind ``error``. After the first answer of the provider only a fault of a proxy counts."""
        if self._network is None or (self._has_answered and not isinstance(error, httpx.ProxyError)):
            return None
        found = lasting_fault(error, self._network)
        if found is None and isinstance(error, httpx.RemoteProtocolError | httpx.ReadError) and not self._has_probed:
            self._has_probed = True
            found = await probed(self._network)
        return found

    @property
    def _where(self) -> str:
        proxy = None if self._network is None else self._network.proxy
        return self._shown if proxy is None else f"{self._shown} through {proxy}"

    def _too_late(self, progress: _Progress, *, may_have_left: bool) -> BatchvisionError:
        if may_have_left:
            return RequestTimedOut(f"no answer from {self._shown} within {progress.timeout_seconds:g} s")
        return ConnectFailed(f"no connection to {self._where} within {progress.connect_seconds:g} s")


class _Progress:
    """Progress of one request, from the transport's trace events, and its deadline.

    Without trace events the request counts as sent. ``GRACE_SECONDS`` after a deadline the request is cancelled. In
    this time the loop reads bytes that have arrived: a suspended process resumes with deadlines passed and answers
    waiting.
    """

    def __init__(self, timeout_seconds: float, connect_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self.connect_seconds = min(connect_seconds, timeout_seconds)
        self.may_have_left = True
        self.scope = anyio.CancelScope()
        self._loop = asyncio.get_running_loop()
        self._began_at = self._loop.time()
        self._timer = self._loop.call_at(self._began_at + timeout_seconds, self._pass)

    async def __call__(self, event: str, info: Mapping[str, object]) -> None:
        """Receive a trace event (an extension of httpx's requests)."""
        if event == "connection.connect_tcp.started":
            self.may_have_left = False
            self._set_deadline(self.connect_seconds)
        elif event == "http11.send_request_headers.started":
            if getattr(info.get("request"), "method", None) == b"CONNECT":  # it asks a proxy for a tunnel
                return
            self.may_have_left = True
            self._set_deadline(self.timeout_seconds)

    def _set_deadline(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(self._began_at + seconds, self._pass)

    def _pass(self) -> None:
        self._timer = self._loop.call_later(GRACE_SECONDS, self.scope.cancel)

    def end(self) -> None:
        self._timer.cancel()


@dataclass(eq=False, repr=False)
class _Outgoing(httpx.AsyncByteStream):
    """A request's body, released when it has left: requests that wait for an answer hold it no longer."""

    body: bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, self.body = self.body, b""
        yield body


async def _read(response: httpx.Response, content: Body) -> bool:
    """Read the body of the response into ``content``. Returns whether the transfer was complete."""
    stream = response.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        raise RuntimeError("a transport gave a response without an AsyncByteStream")
    try:
        async for piece in stream:
            if not content.feed(piece):
                return False
    except (httpx.TransportError, OSError):
        return False
    finally:
        await stream.aclose()
    return True


@lru_cache(maxsize=256)  # most answers have the same headers
def _known(name: bytes) -> str | None:
    """The name of a header in lower case; ``None`` for a header that is not kept."""
    known = name.lower().decode("ascii", "replace")
    is_read = known in _READ_HEADERS or "ratelimit" in known or known.startswith("x-openrouter-cache")
    return known if is_read else None


# ---------------------------------------------------------------------------------- checks of the endpoint


def check_base_url(base_url: str, allow_plain_http: bool) -> None:
    """Raise JobInvalid for an invalid URL, and for plain http to another machine."""
    try:
        parts = urlsplit(base_url)
        host, _, _ = parts.hostname, parts.port, httpx.URL(base_url)
    except (ValueError, httpx.InvalidURL) as error:
        raise JobInvalid(f"provider.base_url is not a URL: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise JobInvalid("provider.base_url must look like https://api.example.com/v1")
    if parts.username is not None or parts.fragment:
        raise JobInvalid(
            "provider.base_url must not hold a user name or a #: name the key by provider.api_key_env instead"
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


def _lines(headers: Mapping[str, str]) -> dict[str, HeaderLine]:
    """Header lines by lower-case name. Raises JobInvalid for an invalid header."""
    lines: dict[str, HeaderLine] = {}
    for name, value in headers.items():
        if _UNFIT_FOR_HEADERS.search(value) or not _HEADER_NAME.fullmatch(name):
            raise JobInvalid(
                f"the request header {name!r} holds a line break or a character headers cannot hold: "
                "check provider.headers and the API key (a key file may hold one line only)"
            )
        lines[name.lower()] = (name.encode("ascii"), value.encode("ascii"))
    return lines
