"""How a run ends early: one object that is asked once, wakes whoever waits to send, and remembers why."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType

import anyio
import anyio.lowlevel

from batchvision.errors import DeadlineReached, StopRun
from batchvision.eventloop import loop_time
from batchvision.interruption import signals_to_this_run

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """SIGINT, SIGTERM or SIGHUP, or a cancelled task; ``exit_code`` is 128 + the signal's number."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.exit_code = 128 + number


class StopSignal:
    """Set at most once (the first reason stays). Waits before the wire end at once; what is in flight goes on."""

    def __init__(self) -> None:
        self.reason: StopRun | Interrupted | None = None
        self.is_interrupted = False  #: from outside, perhaps after another reason
        self._event = anyio.Event()
        self.waiting: set[anyio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<StopSignal {self.reason!r}>"

    @property
    def is_set(self) -> bool:
        return self.reason is not None

    def request(self, reason: StopRun | Interrupted) -> None:
        if self.reason is None:
            self.reason = reason
            self._event.set()
            for scope in tuple(self.waiting):
                scope.cancel()

    async def wait(self) -> None:
        await self._event.wait()

    def interruptible(self) -> Interruptible:
        """``with stop.interruptible() as scope``: whatever waits inside is cancelled by a stop;
        ``scope.cancelled_caught`` tells afterwards."""
        return Interruptible(self)


class Interruptible:
    """A cancel scope that the stop knows of."""

    __slots__ = ("_scope", "_stop")

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop
        self._scope = anyio.CancelScope()

    def __enter__(self) -> anyio.CancelScope:
        scope = self._scope.__enter__()
        if self._stop.is_set:
            scope.cancel()
        self._stop.waiting.add(scope)
        return scope

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self._stop.waiting.discard(self._scope)
        return self._scope.__exit__(kind, error, at)


async def stop_at_deadline(stop: StopSignal, seconds: float | None, began_at: float) -> None:
    """``limits.max_runtime_seconds``, if there is one; ``began_at``: its start, by the loop's clock."""
    if seconds is not None:
        await anyio.sleep(max(0.0, began_at + seconds - loop_time()))
        key = "limits.max_runtime_seconds"
        stop.request(DeadlineReached(f"{key} ({seconds:g}) is over: run again to go on", key=key))


async def stop_at_signals(stop: StopSignal, wire: anyio.CancelScope, drain_timeout_seconds: float) -> None:
    """The first signal stops sending and lets what is in flight finish; the second waits for the disk only.

    ``wire`` is the scope around all that is in flight. A run in another thread is told by the main thread.
    """
    with signals_to_this_run() as signals:
        if signals is not None:
            async for number in signals:
                interrupt(stop, wire, Interrupted(number.name, number.value), drain_timeout_seconds)


def interrupt(stop: StopSignal, wire: anyio.CancelScope, reason: Interrupted, drain_timeout_seconds: float) -> None:
    """The first interruption stops sending and sets a deadline for what is in flight; the next one cancels that."""
    if stop.is_interrupted:
        wire.cancel()
        return
    log.warning("%s: nothing more is sent; waiting for what is in flight", reason)
    stop.is_interrupted = True
    stop.request(reason)
    wire.deadline = loop_time() + drain_timeout_seconds


@asynccontextmanager
async def listening(most_seconds: float | None, began_at: float) -> AsyncIterator[StopSignal]:
    """For work that may be left undone: the signal is set by a signal that ends runs, and when the time is over."""
    leave = StopSignal()
    async with anyio.create_task_group() as beside:
        beside.start_soon(stop_at_signals, leave, anyio.CancelScope(), 0.0)
        beside.start_soon(stop_at_deadline, leave, most_seconds, began_at)
        await anyio.lowlevel.checkpoint()  # from here on they do
        yield leave
        beside.cancel_scope.cancel()
