"""Recognise addresses and host names of the public internet. Pure: no name is resolved here.

A name that looks public is checked again by its address before a connection is made (see ``http.fetch``).
"""

from __future__ import annotations

import re
import socket
import unicodedata
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import unquote, urlsplit

from batchvision.errors import ImageForbidden

_NAT64 = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
_ISATAP = frozenset({0x0000_5EFE, 0x0200_5EFE})
#: Special ranges that some Python releases count as public, and cloud services at public addresses.
_NEVER = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's own services
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is Oracle's metadata service
        "192.88.99.0/24",  # 6to4 relays
        "fec0::/10",  # site-local, before there was fc00::/7
        "3fff::/20",  # documentation
        "5f00::/16",  # segment routing
    )
)
_ORIGIN = re.compile(r"https?://[^/?#]*")  # a host ends here for ``urlsplit``, too
_NUMERIC = re.compile(r"[0-9a-fx.]+", re.IGNORECASE)
_INSIDE_ENDINGS = (".localhost", ".local", ".internal", ".home.arpa", ".localdomain", ".intranet", ".lan")


def is_public(address: str) -> bool:
    """Whether an address is public: no loopback, private, link-local, metadata or special range."""
    try:
        found = _innermost(ip_address(address.partition("%")[0]))
    except ValueError:
        return False
    if any(found in network for network in _NEVER):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved)


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv6 address (mapped, NAT64, 6to4, ISATAP), or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    number = int(address)
    if any(address in network for network in _NAT64) or (number >> 32) & 0xFFFF_FFFF in _ISATAP:
        return IPv4Address(number & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def check_host(url: str) -> None:
    """Raise ImageForbidden for a URL of a private host. Providers are not asked for such URLs either."""
    origin = _ORIGIN.match(url)
    try:
        host = _host(url if origin is None else origin[0])
    except ValueError:
        return  # check_url reports text that is no URL
    if not may_be_public(host):
        raise ImageForbidden(
            f"{host} is not a public host (set images.allow_private_hosts = true to allow your own network)"
        )


@lru_cache(maxsize=256)  # many images come from few origins
def _host(url: str) -> str:
    return urlsplit(url).hostname or ""


@lru_cache(maxsize=256)
def may_be_public(host: str) -> bool:
    """False for any spelling of an address that is not public, and for names that exist only inside a network."""
    plain = unicodedata.normalize("NFKC", unquote(host)).replace("\u3002", ".").lower().rstrip(".")
    if ":" in plain:
        return is_public(plain.strip("[]"))
    if _NUMERIC.fullmatch(plain):
        try:
            return is_public(socket.inet_ntoa(socket.inet_aton(plain)))  # decimal, octal, hexadecimal, short forms
        except OSError:
            pass  # a name of the letters a to f, or too long for an address
    return "." in plain and not plain.endswith(_INSIDE_ENDINGS)
