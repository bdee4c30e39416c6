"""One hop of a download: what a URL says of its server and of what to ask there, and where a redirect leads. Pure.

Rule: a URL leaves as it is written, for presigned ones are signed so; only what is not ASCII is encoded.
"""

from __future__ import annotations

from base64 import b64encode
from typing import NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

from batchvision.errors import ImageForbidden, ImageUnreachable
from batchvision.http.library import httpx
from batchvision.images import redact_url

_PORTS = {"http": 80, "https": 443}
_ASCII = "".join(map(chr, range(0x21, 0x7F)))
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class Hop(NamedTuple):
    """One request of a download. ``host``: in lower case, as DNS knows it; ``target``: path and query as sent."""

    url: str
    scheme: str
    host: str
    port: int
    target: bytes
    authorization: str | None = None  #: of a user and a password in the URL

    @property
    def host_header(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_https(self) -> bool:
        return self.scheme == "https"


def hop_to(url: str) -> Hop:
    """Raises ImageUnreachable for what is no usable URL, ImageForbidden for another scheme than http and https."""
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme.lower(), parts.port
        if scheme not in _PORTS:
            raise ImageForbidden(f"{redact_url(url)} leads away from http and https")
        host = _as_dns_knows_it(parts.hostname or "")
    except (ValueError, httpx.InvalidURL):
        host, port = "", None
    if not host or port == 0:
        raise ImageUnreachable(f"{redact_url(url)}: not a usable URL, or redirected to one")
    target = quote(parts.path or "/", safe=_ASCII) + (f"?{quote(parts.query, safe=_ASCII)}" if parts.query else "")
    authorization = _basic(parts.username, parts.password)
    return Hop(url, scheme, host, port or _PORTS[scheme], target.encode("ascii"), authorization)


def _as_dns_knows_it(host: str) -> str:
    if ":" in host:
        return host  # IPv6
    return host.lower() if host.isascii() else httpx.URL(scheme="http", host=host).raw_host.decode("ascii")


def _basic(user: str | None, password: str | None) -> str | None:
    if user is None and password is None:
        return None
    return "Basic " + b64encode(f"{unquote(user or '')}:{unquote(password or '')}".encode()).decode("ascii")


def redirected(hop: Hop, response: httpx.Response) -> Hop | None:
    """Where the response sends us; None where it does not. Raises ImageUnreachable or ImageForbidden."""
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
