"""The stop of a run: requested once, it cancels each wait before a send and keeps its reason."""

from __future__ import annotations

import logging
from typing import Protocol
from weakref import WeakSet

import anyio

from batchvision.errors import DeadlineReached, StopRun
from batchvision.eventloop import loop_time
from batchvision.interruption import signals_to_this_run

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP, or a cancelled task; ``exit_code`` is 128 + the signal's number."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.exit_code = 128 + number


class StopSignal(Protocol):
    """A stop is requested at most once: the first reason stays. Waits before a send end, requests in flight finish.

    The seam for a stop that processes share.
    """

    reason: StopRun | Interrupted | None
    is_interrupted: bool

    @property
    def is_set(self) -> bool: ...
    def request(self, reason: StopRun | Interrupted) -> None: ...
    def interruptible(self) -> anyio.CancelScope:
        """A scope that a stop cancels: ``with stop.interruptible() as scope``, then ``scope.cancelled_caught``."""


class LocalStopSignal:
    """The stop of one process."""

    def __init__(self) -> None:
        self.is_set = False
        self.reason: StopRun | Interrupted | None = None
        self.is_interrupted = False  #: by a signal or by the caller, perhaps after another reason
        self._scopes: WeakSet[anyio.CancelScope] = WeakSet()

    def __repr__(self) -> str:
        return f"<StopSignal {self.reason!r}>"

    def request(self, reason: StopRun | Interrupted) -> None:
        if not self.is_set:
            self.is_set, self.reason = True, reason
            for scope in tuple(self._scopes):
                scope.cancel()

    def interruptible(self) -> anyio.CancelScope:
        scope = anyio.CancelScope()
        if self.is_set:
            scope.cancel()
        self._scopes.add(scope)
        return scope


async def stop_at_deadline(stop: StopSignal, at: float, reason: DeadlineReached) -> None:
    """Request the stop at a time on the loop's clock."""
    await anyio.sleep(max(0.0, at - loop_time()))
    stop.request(reason)


async def stop_at_signals(stop: StopSignal, wire: anyio.CancelScope, drain_timeout_seconds: float) -> None:
    """Pass the signals of the process to :func:`interrupt`, also where the run is in another thread.

    ``wire`` is the scope around all requests in flight.
    """
    with signals_to_this_run() as signals:
        if signals is not None:
            async for number in signals:
                interrupt(stop, wire, Interrupted(number.name, number.value), drain_timeout_seconds)


def interrupt(stop: StopSignal, wire: anyio.CancelScope, reason: Interrupted, drain_timeout_seconds: float) -> None:
    """The first interruption stops sending and sets a deadline for requests in flight. The next one cancels them."""
    if stop.is_interrupted:
        wire.cancel()
        return
    log.warning("%s: nothing more is sent; waiting for what is in flight", reason)
    stop.is_interrupted = True
    stop.request(reason)
    wire.deadline = loop_time() + drain_timeout_seconds
