"""Limits per image host: connections, requests a second, and a pause that the host asks for.

Our own limits cause these waits, so they never count against the deadline of a download.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import anyio
from aiolimiter import AsyncLimiter

CONNECTIONS = 8
REQUESTS_PER_SECOND = 20.0
LONGEST_PAUSE_SECONDS = 60.0  #: bound of a pause, even if the host asks for more
_HOSTS_KEPT = 1024


class Host:
    """One image host. ``slots`` bounds its downloads at once."""

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
        """Send no request to the host for this time."""
        self._paused_until = max(self._paused_until, self._clock() + min(seconds, LONGEST_PAUSE_SECONDS))

    async def wait(self) -> None:
        """Wait until one more request may be sent."""
        await self._rate.acquire()
        while (left := self._paused_until - self._clock()) > 0:
            await self._sleep(left)


class Hosts:
    """The hosts of a run. The least recently used ones are forgotten."""

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
            if len(self._hosts) > _HOSTS_KEPT:  # forget one idle host among the oldest, in constant time
                oldest = [name for name, _ in zip(self._hosts, range(64), strict=False)]
                idle = next((name for name in oldest[:-1] if self._hosts[name].is_idle), None)
                if idle is not None:
                    del self._hosts[idle]
        self._hosts.move_to_end(key)
        return self._hosts[key]

    def __len__(self) -> int:
        return len(self._hosts)
