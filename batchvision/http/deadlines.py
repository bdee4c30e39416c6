"""Deadlines of requests, checked by one shared timer.

Rule: a deadline is believed only after the loop has read what had arrived. A process that was stopped and resumed finds
its deadlines passed and its answers waiting.
"""

from __future__ import annotations

import asyncio
from math import inf

import anyio

#: After a deadline has passed, the loop has so long to read what had arrived before it.
GRACE_SECONDS = 0.1


class Deadline:
    """The time limit of one request; ``scope`` is cancelled when it has passed."""

    __slots__ = ("at", "is_noted", "scope")

    def __init__(self, at: float) -> None:
        self.at = at
        self.is_noted = False
        self.scope = anyio.CancelScope()


class Deadlines:
    """All deadlines of a client, in the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._watched: set[Deadline] = set()
        self._next_look = inf
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, deadline: Deadline) -> None:
        """Cancel its scope when its time has passed."""
        self._watched.add(deadline)
        if deadline.at < self._next_look:
            self._look_at(deadline.at)

    def forget(self, deadline: Deadline) -> None:
        self._watched.discard(deadline)

    def move(self, deadline: Deadline, at: float) -> None:
        """Give it another time."""
        deadline.at, deadline.is_noted = at, False
        if at < self._next_look:
            self._look_at(at)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_at(self, moment: float) -> None:
        self.close()
        self._next_look = moment
        self._timer = self._loop.call_at(moment, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        for deadline in tuple(self._watched):
            if deadline.at > now:
                continue
            if deadline.is_noted:
                self._watched.discard(deadline)
                deadline.scope.cancel()
            else:
                deadline.is_noted, deadline.at = True, now + GRACE_SECONDS
        self._next_look = inf
        if self._watched:
            self._look_at(min(deadline.at for deadline in self._watched))
