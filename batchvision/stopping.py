"""How a run ends early: one object that is asked once, wakes whoever waits to send, and remembers why."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from batchvision.errors import DeadlineReached, StopRun

log = logging.getLogger(__name__)


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


async def stop_at_deadline(stop: StopSignal, seconds: float | None) -> None:
    """``limits.max_runtime_seconds``, if there is one."""
    if seconds is not None:
        await anyio.sleep(seconds)
        stop.request(DeadlineReached(f"limits.max_runtime_seconds ({seconds:g}) is over: run again to go on"))


async def stop_at_signals(stop: StopSignal, wire: anyio.CancelScope, drain_timeout_seconds: float) -> None:
    """The first signal stops sending and lets what is in flight finish; the second waits for the disk only.

    ``wire`` is the scope around all that is in flight. Only the main thread is told of signals.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            if isinstance(stop.reason, Interrupted):
                wire.cancel()
                continue
            log.warning("%s: nothing more is sent; waiting for what is in flight", number.name)
            stop.request(Interrupted(number.name, number.value))
            wire.deadline = anyio.current_time() + drain_timeout_seconds
