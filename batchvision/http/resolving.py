"""From a host's name to the addresses that a download may connect to.

Rule: an address is judged after every way a name can be resolved (decimal and octal forms, literal addresses, DNS), and
the connection goes to the address that was judged. A name that is resolved anew later is judged anew.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from batchvision.errors import ImageForbidden
from batchvision.images import is_public

#: How long the addresses of a name are used.
RESOLVED_SECONDS = 10.0
_NAMES_KEPT = 1024

#: The addresses of a name, best first. Raises OSError or UnicodeError.
Resolver = Callable[[str, int], Awaitable[list[str]]]


async def resolve(host: str, port: int) -> list[str]:
    """As the system resolves it."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _Known(NamedTuple):
    addresses: tuple[str, ...]
    until: float


class Addresses:
    """The addresses of hosts. With ``allow_private_hosts`` none is judged."""

    def __init__(self, allow_private_hosts: bool, resolver: Resolver = resolve) -> None:
        self._allow_private_hosts = allow_private_hosts
        self._resolve = resolver
        self._known: OrderedDict[tuple[str, int], _Known] = OrderedDict()

    async def of(self, host: str, port: int, shown: str) -> tuple[str, ...]:
        """Those that may be connected to, best first. Raises OSError, UnicodeError, or ImageForbidden where there is
        none; ``shown``: the URL for its message."""
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
        self._keep(host, port, allowed)
        return allowed

    def prefer(self, host: str, port: int, address: str) -> None:
        """``address`` has answered: try it first."""
        known = self._known.get((host, port))
        if known is not None and known.addresses[0] != address and address in known.addresses:
            others = [other for other in known.addresses if other != address]
            self._known[host, port] = known._replace(addresses=(address, *others))

    def forget(self, host: str, port: int) -> None:
        """None has answered: resolve it anew."""
        self._known.pop((host, port), None)

    def _keep(self, host: str, port: int, addresses: tuple[str, ...]) -> None:
        until = asyncio.get_running_loop().time() + RESOLVED_SECONDS
        self._known[host, port] = _Known(addresses, until)
        self._known.move_to_end((host, port))
        if len(self._known) > _NAMES_KEPT:
            self._known.popitem(last=False)
