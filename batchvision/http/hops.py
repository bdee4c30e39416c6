"""One hop of a download: the request of a URL, the addresses of its host, and the target of a redirect.

A URL is sent as it is written, because a signature covers this form. Only characters outside ASCII are encoded. An
address is checked after all ways of resolution (decimal and octal forms, literal addresses, DNS), and the connection is
made to the checked address. A name that is resolved again later is checked again.
"""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from batchvision.errors import ImageForbidden, ImageUnreachable
from batchvision.http.connection import PORTS, RESOLVED_SECONDS
from batchvision.http.library import httpx
from batchvision.images import is_public, redact_url

_ASCII = "".join(map(chr, range(0x21, 0x7F)))
REDIRECTS = frozenset({301, 302, 303, 307, 308})
_NAMES_KEPT = 1024

#: Resolves a host and port to addresses, best first. Raises OSError or UnicodeError.
Resolver = Callable[[str, int], Awaitable[list[str]]]


class Hop(NamedTuple):
    """One request of a download. ``host`` is in the lower-case form of DNS, ``target`` holds path and query as sent."""

    url: str
    scheme: str
    host: str
    port: int
    target: bytes
    authorization: str | None = None  #: from the user and password in the URL

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_https(self) -> bool:
        return self.scheme == "https"


def hop_to(url: str) -> Hop:
    """Raises ImageUnreachable for an unusable URL, ImageForbidden for a scheme other than http and https."""
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
        if scheme not in PORTS:
            raise ImageForbidden(f"{redact_url(url)} leads away from http and https")
        host = parts.hostname or ""
        if ":" not in host:  # a name, in the form of DNS
            host = host.lower() if host.isascii() else httpx.URL(scheme="http", host=host).raw_host.decode("ascii")
    except (ValueError, httpx.InvalidURL):
        host, port = "", None
    if not host or port == 0:
        raise ImageUnreachable(f"{redact_url(url)}: not a usable URL, or redirected to one")
    target = quote(parts.path or "/", safe=_ASCII) + (f"?{quote(parts.query, safe=_ASCII)}" if parts.query else "")
    authorization = None
    if parts.username is not None or parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = "Basic " + b64encode(pair.encode()).decode("ascii")
    return Hop(url, scheme, host, port or PORTS[scheme], target.encode("ascii"), authorization)


def redirected(hop: Hop, response: httpx.Response) -> Hop | None:
    """The target of a redirect; ``None`` for any other response. Raises ImageUnreachable or ImageForbidden."""
    if response.status_code not in REDIRECTS:
        return None
    raw = next((value for name, value in response.headers.raw if name.lower() == b"location"), None)
    if raw is None:
        return None
    try:
        location = raw.decode("utf-8")
    except UnicodeDecodeError:
        location = raw.decode("latin-1")
    try:
        url = urljoin(hop.url, location.strip().replace(" ", "%20"))
    except ValueError:
        raise ImageUnreachable(f"{redact_url(hop.url)}: not a usable URL, or redirected to one") from None
    return hop_to(url.partition("#")[0])


# ---------------------------------------------------------------------------------- addresses


async def resolve(host: str, port: int) -> list[str]:
    """Resolve by the system."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Known(NamedTuple):
    addresses: tuple[str, ...]
    until: float


class Addresses:
    """The checked addresses of hosts. With ``allow_private_hosts`` no address is checked."""

    def __init__(self, allow_private_hosts: bool, resolver: Resolver = resolve) -> None:
        self._allow_private_hosts = allow_private_hosts
        self._resolve = resolver
        self._known: OrderedDict[tuple[str, int], _Known] = OrderedDict()

    async def of(self, host: str, port: int, shown: str) -> tuple[str, ...]:
        """The permitted addresses of a host, best first. ``shown`` is the URL for messages.

        Raises OSError or UnicodeError, and ImageForbidden for a host without a permitted address.
        """
        now = asyncio.get_running_loop().time()
        known = self._known.get((host, port))
        if known is not None and known.until > now:
            return known.addresses
        found = await self._resolve(host, port)
        allowed = tuple(found) if self._allow_private_hosts else tuple(filter(is_public, found))
        if not allowed:
            where = found[-1] if found else "no address"
            raise ImageForbidden(
                f"{shown} leads to {where}, which is not a public address "
                "(set images.allow_private_hosts = true to allow your own network)"
            )
        self._known[host, port] = _Known(allowed, asyncio.get_running_loop().time() + RESOLVED_SECONDS)
        self._known.move_to_end((host, port))
        if len(self._known) > _NAMES_KEPT:
            self._known.popitem(last=False)
        return allowed

    def prefer(self, host: str, port: int, address: str) -> None:
        """Put ``address``, which has answered, first."""
        known = self._known.get((host, port))
        if known is not None and known.addresses[0] != address and address in known.addresses:
            rest = [each for each in known.addresses if each != address]
            self._known[host, port] = known._replace(addresses=(address, *rest))

    def forget(self, host: str, port: int) -> None:
        """Forget the addresses of a host: no address has answered."""
        self._known.pop((host, port), None)
