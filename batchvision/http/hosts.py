"""How politely image hosts are asked: few connections and requests to each, and a pause where one asks for it.

Rule: waiting here is our own doing; it never counts against the deadline of a download.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import anyio
from aiolimiter import AsyncLimiter

CONNECTIONS = 8
REQUESTS_PER_SECOND = 20.0
LONGEST_PAUSE_SECONDS = 60.0  #: a host that asks for more is asked again after it, and then its rows fail
_HOSTS_KEPT = 1024


class Host:
    """One image host: ``slots`` for downloads at once, and turns for single requests."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]], clock: Callable[[], float]) -> None:
        self.slots = anyio.CapacityLimiter(CONNECTIONS)
        self._rate = AsyncLimiter(REQUESTS_PER_SECOND, 1.0)
        self._sleep = sleep
        self._clock = clock
        self._paused_until = 0.0

    @property
    def is_idle(self) -> bool:
        return self.slots.borrowed_tokens == 0 and self._paused_until <= self._clock()

    def pause(self, seconds: float) -> None:
        """Ask it nothing for a while."""
        self._paused_until = max(self._paused_until, self._clock() + min(seconds, LONGEST_PAUSE_SECONDS))

    async def turn(self) -> None:
        """Wait until it may be asked once more."""
        await self._rate.acquire()
        while (left := self._paused_until - self._clock()) > 0:
            await self._sleep(left)


class Hosts:
    """The hosts of a run; those not used for longest are forgotten."""

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = anyio.current_time,
    ) -> None:
        self._sleep = sleep
        self._clock = clock
        self._hosts: OrderedDict[str, Host] = OrderedDict()

    def __getitem__(self, name: str | None) -> Host:
        key = (name or "").lower().rstrip(".")
        if key not in self._hosts:
            self._hosts[key] = Host(self._sleep, self._clock)
            self._forget()
        self._hosts.move_to_end(key)
        return self._hosts[key]

    def __len__(self) -> int:
        return len(self._hosts)

    def _forget(self) -> None:
        """One idle host of the oldest few for each new one: bounded, and quick with a million hosts."""
        if len(self._hosts) <= _HOSTS_KEPT:
            return
        oldest = [name for name, _ in zip(self._hosts, range(64), strict=False)]
        for name in oldest[:-1]:
            if self._hosts[name].is_idle:
                del self._hosts[name]
                return
