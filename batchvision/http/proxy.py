"""Choose the proxy for a URL: by a setting of the job, or by the usual variables of the environment.

User and password are secrets. ``repr``, ``str`` and messages show the proxy without them.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

from batchvision.errors import JobInvalid
from batchvision.http.connection import PORTS
from batchvision.http.library import httpx
from batchvision.secrets import Secret

NONE = "none"  #: the setting that turns proxies off
_SCHEMES = ("http", "https", "socks5", "socks5h")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy. ``shown`` is its URL without user and password. ``setting`` is the key or variable that names it."""

    shown: str
    setting: str
    auth: tuple[str, str] | None = field(repr=False)
    secrets: tuple[Secret, ...] = ()

    def __str__(self) -> str:
        return f"the proxy {self.shown} ({self.setting})"

    @property
    def is_https(self) -> bool:
        return self.shown.startswith("https:")

    def for_httpx(self, context: ssl.SSLContext | None) -> httpx.Proxy:
        """``context`` verifies an https proxy."""
        return httpx.Proxy(self.shown, auth=self.auth, ssl_context=context if self.is_https else None)


def proxy_for(url: str, setting: str | None, key: str, environ: Mapping[str, str]) -> Proxy | None:
    """The proxy for ``url``; ``None`` for a direct connection.

    ``setting`` is the value of the job's ``key``: a URL, or ``"none"``. Without it HTTPS_PROXY, HTTP_PROXY, ALL_PROXY
    and NO_PROXY of ``environ`` count, and lower case wins. Raises JobInvalid for an invalid proxy.
    """
    if setting is not None:
        return None if setting.strip().lower() == NONE else _parsed(setting, key)
    parts = urlsplit(url)
    host, port = (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0)
    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if any(_names(entry.strip().lower(), host, port) for entry in excepted.split(",")):
        return None
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        for variable in (name, name.upper()):
            if variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ:
                continue  # under CGI a client's header could set it
            if value := environ.get(variable, "").strip():
                return _parsed(value, variable)
    return None


def _parsed(value: str, setting: str) -> Proxy:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in _SCHEMES:
        raise JobInvalid(f'{setting} is no URL of a proxy; write it like "http://proxy.example.com:3128"')
    if parts.scheme.startswith("socks") and find_spec("socksio") is None:
        raise JobInvalid(f"{setting} names a SOCKS proxy, which needs a package more: pip install 'httpx[socks]'")
    bare = f"[{host}]" if ":" in host else host
    shown = f"{parts.scheme}://{bare}" + (f":{port}" if port else "")
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    auth = (user, password) if user or password else None
    known = (user, password, parts.username or "", parts.password or "", f"{user}:{password}" if auth else "")
    return Proxy(shown, setting, auth, tuple(Secret(each) for each in known if each))


def _names(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY names the host: itself, a domain above, ``host:port``, a network, or ``*``."""
    if entry == "*":
        return True
    if "/" in entry:
        return _is_within(host, entry)
    name, _, of_port = entry.rpartition(":")
    if name and of_port.isdecimal() and ":" not in name:
        if int(of_port) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").removeprefix(".")
    return bool(entry) and (host == entry or host.endswith(f".{entry}"))


def _is_within(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False
