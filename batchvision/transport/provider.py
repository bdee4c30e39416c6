"""Bytes to a provider and back, under one deadline. Only this folder speaks HTTP as a client.

Rule: it is always known whether a request may have been billed.

- Nothing of it left this machine: ConnectFailed.
- It left, and no status line came: RequestTimedOut or ConnectionCut (maybe billed).
- A status line came: a RawAnswer, ``complete=False`` if its body ended early, for whatever reason.

The way is short on purpose (see CONTRIBUTING, "Dependencies"): connection (sockets, kept and new) and arrival (an
answer as it comes in). No redirects, no cookies, no proxies, and nothing is ever repeated: a ticket is read only once.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from ipaddress import ip_address
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlsplit

import anyio
import certifi
from yarl import URL

from batchvision import __version__
from batchvision.errors import BatchvisionError, ConnectFailed, ConnectionCut, JobInvalid, RequestTimedOut
from batchvision.eventloop import others_first
from batchvision.records import Pieces, RawAnswer
from batchvision.secrets import Secrets
from batchvision.transport.arrival import Arrival
from batchvision.transport.connection import Connection, Connections, reason

CONNECT_TIMEOUT_SECONDS = 10.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
_CLOSE_SECONDS = 2.0
_LARGE_BYTES = 64 * 1024  #: a body with an image in it
_NO_CONNECTION = (OSError, UnicodeError)  # TimeoutError and gaierror are OSErrors; a host may be no name at all
_OWN_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "user-agent": f"batchvision/{__version__}",
}
_OF_PATHS = "/?#[]@!$&'()*+,;=:%"  # what a path and its query are made of, quoted already where it means itself
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT_FOR_HEADERS = re.compile(r"[^\x20-\x7e]")


class HttpTransport:
    """One provider's endpoint. So many ``connections`` are kept; the caller bounds the requests on the wire.

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
        self._url = URL(base_url.rstrip("/"))
        self._shown = secrets.mask(base_url.rstrip("/"))
        self._headers = _lines({**_OWN_HEADERS, **headers})
        self._start_of = lru_cache(maxsize=8)(self._start)  # almost all requests go to one path
        self._lines_with = lru_cache(maxsize=1024)(self._joined)  # and hundreds say the same
        self._connections_kept = connections
        self._secrets = secrets
        self._max_answer_bytes = max_answer_bytes
        self._connect_timeout_seconds = connect_timeout_seconds
        self._clock = clock
        self._connections: Connections | None = None

    def __repr__(self) -> str:
        return f"HttpTransport({self._shown!r}, connections={self._connections_kept})"

    async def __aenter__(self) -> Self:
        host, port = self._url.raw_host, self._url.port
        assert host is not None
        assert port is not None
        context = _tls_context() if self._url.scheme == "https" else None
        self._connections = Connections(host, port, context, self._connections_kept, self._connect_timeout_seconds)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connections is not None:
            with anyio.CancelScope(shield=True):
                await self._connections.close(_CLOSE_SECONDS)

    async def send(
        self,
        method: str,
        path: str,
        body: Pieces | None,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> RawAnswer:
        """One request, one answer. ``timeout_seconds`` spans all of it: connecting, sending, waiting, reading.
        ``headers``: of this request, over those of all.

        Raises ConnectFailed, RequestTimedOut or ConnectionCut, only where no status line came.
        """
        assert self._connections is not None, "HttpTransport is used as `async with HttpTransport(...)`"
        deadline = self._connections.loop.time() + timeout_seconds
        length = None if body is None else sum(map(len, body))
        head = self._head(method, path, length, headers)
        if length is not None and length > _LARGE_BYTES:
            await others_first()
        connection = await self._take(self._connections, deadline, timeout_seconds)
        arrival = Arrival(self._max_answer_bytes)
        await connection.carry((head, *(body or ())), arrival, deadline)
        if arrival.may_be_followed:
            self._connections.give_back(connection)
        if arrival.status is None:
            raise self._without_status(arrival, timeout_seconds)
        return RawAnswer(
            status=arrival.status,
            headers=arrival.headers,
            body=arrival.body.content(),
            received_at=self._clock(),
            complete=arrival.is_whole and arrival.body.is_readable,
        )

    # ---------------------------------------------------------------------------- a request's head

    def _head(self, method: str, path: str, length: int | None, headers: Mapping[str, str] | None) -> bytes:
        lines = self._lines_with(tuple(headers.items()) if headers else ())
        of_body = b"" if length is None else b"content-length: %d\r\n" % length
        return b"%b%b%b\r\n" % (self._start_of(method, path), lines, of_body)

    def _joined(self, headers: tuple[tuple[str, str], ...]) -> bytes:
        return b"".join({**self._headers, **_lines(dict(headers))}.values())

    def _start(self, method: str, path: str) -> bytes:
        way = f"{self._url.raw_path.rstrip('/')}/{quote(path.lstrip('/'), safe=_OF_PATHS)}"
        return f"{method} {way} HTTP/1.1\r\nhost: {self._url.host_port_subcomponent}\r\n".encode("ascii")

    # ---------------------------------------------------------------------------- no answer

    async def _take(self, connections: Connections, deadline: float, timeout_seconds: float) -> Connection:
        try:
            return await connections.take(deadline)
        except TimeoutError:
            seconds = min(timeout_seconds, self._connect_timeout_seconds)
            raise ConnectFailed(f"no connection to {self._shown} within {seconds:g} s") from None
        except _NO_CONNECTION as error:
            raise ConnectFailed(f"no connection to {self._shown}: {self._secrets.mask(reason(error))}") from None

    def _without_status(self, arrival: Arrival, timeout_seconds: float) -> BatchvisionError:
        if arrival.is_late:
            return RequestTimedOut(f"no answer from {self._shown} within {timeout_seconds:g} s")
        said = self._secrets.mask(arrival.fault)
        return ConnectionCut(f"the connection to {self._shown} ended before an answer began: {said}")


# ---------------------------------------------------------------------------------- checks at construction


def check_base_url(base_url: str, allow_plain_http: bool) -> None:
    """Raises JobInvalid for what is no URL of an API, and for plain http to another machine."""
    try:
        parts = urlsplit(base_url)
        host, _, _ = parts.hostname, parts.port, URL(base_url)
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


def _lines(headers: Mapping[str, str]) -> dict[str, bytes]:
    """The lines of a head, by lower-case name. Raises JobInvalid for what no header can hold."""
    lines: dict[str, bytes] = {}
    for name, value in headers.items():
        line = f"{name}: {value}"
        if _UNFIT_FOR_HEADERS.search(line) or not _HEADER_NAME.fullmatch(name):
            raise JobInvalid(
                f"the request header {name!r} holds a line break or a character headers cannot hold: "
                "check provider.headers and the API key (a key file may hold one line only)"
            )
        lines[name.lower()] = line.encode("ascii") + b"\r\n"
    return lines


def _tls_context() -> ssl.SSLContext:
    """Verified, with certifi's roots or those that SSL_CERT_FILE and SSL_CERT_DIR name."""
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    own = ssl.create_default_context(cafile=file, capath=folder) if file or folder else None
    context = own or ssl.create_default_context(cafile=certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context
