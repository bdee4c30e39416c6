"""A provider's endpoint: its base URL and the headers of each request, checked once before a run begins.

No message shows a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from batchvision import __version__
from batchvision.errors import JobInvalid
from batchvision.http.library import httpx

_OWN_HEADERS = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate",
    "user-agent": f"batchvision/{__version__}",
}
_OF_PATHS = "/?#[]@!$&'()*+,;=:%"  # characters of a path and its query; a literal one is quoted already
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNFIT_FOR_HEADERS = re.compile(r"[^\x20-\x7e]")

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
        """The base URL's path, then ``path``, then the base URL's query."""
        base, _, query = self._base.raw_path.decode("ascii").partition("?")
        whole = f"{base.rstrip('/')}/{path.lstrip('/')}" + (f"?{query}" if query else "")
        return self._base.copy_with(raw_path=quote(whole, safe=_OF_PATHS).encode("ascii"))


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
