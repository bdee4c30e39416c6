"""Send requests to a provider over an httpx transport, each under one deadline.

The result shows whether a request may have been billed:

- No byte of it left this machine: ConnectFailed.
- It left, and no status line came: RequestTimedOut or ConnectionCut (maybe billed).
- A status line came: a RawAnswer. ``complete`` is false if its body ended early.

The transport is used directly, without an ``AsyncClient``: no redirects, no cookies, no queue, no repetition.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

import anyio

from batchvision.errors import BatchvisionError, ConnectFailed, ConnectionCut, RequestTimedOut
from batchvision.http.arrival import reason
from batchvision.http.body import Body
from batchvision.http.endpoint import Endpoint
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
#: After these errors no byte of the request has left. After any other error the request may have left.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


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
        body: bytes | None,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> RawAnswer:
        """Send one request and return its answer. ``timeout_seconds`` bounds connecting, sending, waiting and reading
        together. ``headers`` replace those of the endpoint.

        Raises ConnectFailed, RequestTimedOut or ConnectionCut, only where no status line came. Raises NoWayToProvider
        where no request can succeed until a setting changes.
        """
        progress = _Progress(timeout_seconds, self._connect_timeout_seconds)
        connect = progress.connect_seconds
        timeouts = {"connect": connect, "pool": connect, "read": timeout_seconds, "write": timeout_seconds}
        outgoing = None if body is None else (_Outgoing(body), len(body))
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
        elif event == "http11.send_request_headers.started" and not _is_connect(info.get("request")):
            self.may_have_left = True
            self._set_deadline(self.timeout_seconds)

    def _set_deadline(self, seconds: float) -> None:
        self._timer.cancel()
        self._timer = self._loop.call_at(self._began_at + seconds, self._pass)

    def _pass(self) -> None:
        self._timer = self._loop.call_later(GRACE_SECONDS, self.scope.cancel)

    def end(self) -> None:
        self._timer.cancel()


def _is_connect(request: object) -> bool:
    """Whether the request asks a proxy for a tunnel."""
    return getattr(request, "method", None) == b"CONNECT"


class _Outgoing(httpx.AsyncByteStream):
    """A request's body, released when it has left: requests that wait for an answer hold it no longer."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        body, self._body = self._body, b""
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
