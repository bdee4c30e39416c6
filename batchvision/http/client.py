"""Bytes to a provider and back, under one deadline, over any httpx transport.

Rule: it is always known whether a request may have been billed.

- Nothing of it left this machine: ConnectFailed.
- It left, and no status line came: RequestTimedOut or ConnectionCut (maybe billed).
- A status line came: a RawAnswer, ``complete=False`` if its body ended early, for whatever reason.

Requests go straight into the transport: no AsyncClient, no redirects, no cookies, no queue, and nothing is repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import TracebackType
from typing import Self

from batchvision.errors import BatchvisionError, ConnectFailed, ConnectionCut, RequestTimedOut
from batchvision.http.arrival import reason
from batchvision.http.body import Body
from batchvision.http.deadlines import Deadline, Deadlines
from batchvision.http.endpoint import Endpoint
from batchvision.http.lean import CONNECT_TIMEOUT_SECONDS
from batchvision.http.library import httpx
from batchvision.http.network import Network
from batchvision.http.no_way import (
    PROXY_AUTHENTICATION_REQUIRED,
    no_way,
    probed,
    proxy_wants_password,
    says_tls_is_wanted,
)
from batchvision.records import RawAnswer
from batchvision.secrets import Secrets

MAX_ANSWER_BYTES = 64 * 1024 * 1024
_READ_HEADERS = frozenset(
    {
        *("content-type", "date", "location", "x-request-id", "x-generation-id", "x-litellm-response-cost"),
        *("retry-after", "retry-after-ms", "x-should-retry"),
    }
)
#: No byte of the request has left. Any other error means that it may have.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


class ProviderClient:
    """One provider's endpoint over ``transport``, which the caller opens and closes.

    The caller bounds the requests on the wire. ``secrets`` hides the key in messages. ``network``: how the transport
    reaches the provider. It is None where the caller brings a transport. Messages about lasting faults name it.
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
        self._deadlines: Deadlines

    def __repr__(self) -> str:
        return f"ProviderClient({self._shown!r}, {type(self._transport).__name__})"

    async def __aenter__(self) -> Self:
        self._deadlines = Deadlines()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadlines.close()

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

        Raises ConnectFailed, RequestTimedOut or ConnectionCut, only where no status line came; and NoWayToProvider
        where none can come until a setting changes.
        """
        progress = _Progress(self._deadlines, timeout_seconds, self._connect_timeout_seconds)
        request = self._request(method, path, body, headers, progress)
        del body  # the request releases it when it has left
        response: httpx.Response | None = None
        content, is_whole = Body("", 0), False
        try:
            with progress.deadline.scope:
                response = await self._transport.handle_async_request(request)
                if response.status_code < 200:
                    await response.aclose()
                    raise httpx.RemoteProtocolError("the server changes the protocol")
                content = Body(response.headers.get("content-encoding", ""), self._max_answer_bytes)
                is_whole = await _read(response, content)
        except (httpx.TransportError, OSError) as error:
            raise await self._failure(error, progress) from None  # the cause may show the key
        finally:
            progress.end()
        if response is None:
            raise self._too_late(progress, may_have_left=progress.may_have_left)
        raw = RawAnswer(
            status=response.status_code,
            headers=_kept(response.headers),
            body=content.content(),
            received_at=self._clock(),
            complete=is_whole and content.is_readable,
        )
        self._check_it_is_the_providers(raw)
        return raw

    def _request(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str] | None, progress: _Progress
    ) -> httpx.Request:
        extensions: dict[str, object] = {"timeout": progress.timeouts(), "trace": progress}
        outgoing = None if body is None else (_Outgoing(body), len(body))
        return self._endpoint.request(method, path, outgoing, headers, extensions)

    # ---------------------------------------------------------------------------- no answer

    def _check_it_is_the_providers(self, raw: RawAnswer) -> None:
        """Raise NoWayToProvider where a proxy, or the port of another scheme, answered in the provider's place."""
        if self._network is not None:
            if raw.status == PROXY_AUTHENTICATION_REQUIRED:
                raise proxy_wants_password(self._network)
            if not self._has_answered and (mix_up := says_tls_is_wanted(raw.status, raw.body, self._network)):
                raise mix_up
        self._has_answered = True

    async def _failure(self, error: Exception, progress: _Progress) -> BatchvisionError:
        if found := await self._no_way(error):
            return found
        is_unsent = isinstance(error, _NOT_SENT)
        if isinstance(error, httpx.TimeoutException):
            return self._too_late(progress, may_have_left=not is_unsent)
        said = self._secrets.mask(reason(error))
        if is_unsent:
            return ConnectFailed(f"no connection to {self._where}: {said}")
        return ConnectionCut(f"the connection to {self._shown} ended before an answer began: {said}")

    async def _no_way(self, error: Exception) -> BatchvisionError | None:
        """The lasting fault behind ``error``, if any. After the provider's first answer only a proxy's counts."""
        if self._network is None or (self._has_answered and not isinstance(error, httpx.ProxyError)):
            return None
        found = no_way(error, self._network)
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
    """How far one request has come, from the transport's trace events, and the deadline that follows from it.

    A transport without trace events is taken to have sent the request.
    """

    __slots__ = ("_deadlines", "_until", "connect_seconds", "deadline", "may_have_left", "timeout_seconds")

    def __init__(self, deadlines: Deadlines, timeout_seconds: float, connect_seconds: float) -> None:
        self._deadlines = deadlines
        self._until = asyncio.get_running_loop().time() + timeout_seconds
        self.timeout_seconds = timeout_seconds
        self.connect_seconds = min(connect_seconds, timeout_seconds)
        self.may_have_left = True
        self.deadline = Deadline(self._until)
        deadlines.watch(self.deadline)

    def timeouts(self) -> dict[str, float]:
        """For the transport. A read or write is also bounded by the deadline that spans all of them."""
        connect = self.connect_seconds
        return {"connect": connect, "pool": connect, "read": self.timeout_seconds, "write": self.timeout_seconds}

    async def __call__(self, event: str, info: Mapping[str, object]) -> None:
        """A trace event (an extension of httpx's requests)."""
        if event == "connection.connect_tcp.started":
            self.may_have_left = False
            self._deadlines.move(
                self.deadline, min(self._until, self._until - self.timeout_seconds + self.connect_seconds)
            )
        elif event == "http11.send_request_headers.started" and not _is_connect(info.get("request")):
            self.may_have_left = True
            self._deadlines.move(self.deadline, self._until)

    def end(self) -> None:
        self._deadlines.forget(self.deadline)


def _is_connect(request: object) -> bool:
    """Whether it asks a proxy for a tunnel."""
    return getattr(request, "method", None) == b"CONNECT"


class _Outgoing(httpx.AsyncByteStream):
    """A request's body, released when it has left: requests that wait for an answer hold it no longer."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, self._body = self._body, b""
        yield body


async def _read(response: httpx.Response, content: Body) -> bool:
    """The response's body into ``content``. Whether it reached its end."""
    stream = response.stream
    if not isinstance(stream, httpx.AsyncByteStream):
        raise RuntimeError("a transport gave a response without an AsyncByteStream")
    try:
        async for piece in stream:
            content.feed(piece)
            if not content.wants_more:
                return False
    except (httpx.TransportError, OSError):
        return False
    finally:
        await stream.aclose()
    return True


@lru_cache(maxsize=256)  # answer after answer has the same
def _known(name: bytes) -> str | None:
    """A header's name in lower case, or None where its value is not read."""
    known = name.lower().decode("ascii", "replace")
    is_read = known in _READ_HEADERS or "ratelimit" in known or known.startswith("x-openrouter-cache")
    return known if is_read else None


def _kept(headers: httpx.Headers) -> dict[str, str]:
    return {known: value.decode("utf-8", "replace") for name, value in headers.raw if (known := _known(name))}
