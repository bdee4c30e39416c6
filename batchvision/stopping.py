"""How a run ends early: one object that is asked once, wakes whoever waits to send, and remembers why."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from batchvision.errors import StopRun


class Interrupted(Exception):
    """SIGINT or SIGTERM; ``exit_code`` is 128 + the signal's number."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.exit_code = 128 + number


class StopSignal:
    """Set at most once (the first reason stays). Waits before the wire end at once; what is in flight goes on."""

    def __init__(self) -> None:
        self.reason: StopRun | Interrupted | None = None
        self._event = anyio.Event()
        self._waiting: set[anyio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<StopSignal {self.reason!r}>"

    @property
    def is_set(self) -> bool:
        return self.reason is not None

    def request(self, reason: StopRun | Interrupted) -> None:
        if self.reason is None:
            self.reason = reason
            self._event.set()
            for scope in tuple(self._waiting):
                scope.cancel()

    async def wait(self) -> None:
        await self._event.wait()

    @contextmanager
    def interruptible(self) -> Iterator[anyio.CancelScope]:
        """Whatever waits inside is cancelled by a stop; ``scope.cancelled_caught`` tells afterwards."""
        with anyio.CancelScope() as scope:
            if self.is_set:
                scope.cancel()
            self._waiting.add(scope)
            try:
                yield scope
            finally:
                self._waiting.discard(scope)
