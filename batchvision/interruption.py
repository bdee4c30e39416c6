"""Interrupt a run: by cancelling the task of ``run_async``, or by a signal during ``run`` in another thread.

An interrupted run drains: it waits for its requests in flight, writes its summary, and then ends.
"""

from __future__ import annotations

import asyncio
import math
import signal
import threading
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from types import FrameType
from typing import Any, TypeVar

import anyio
from anyio.streams.memory import MemoryObjectSendStream

T = TypeVar("T")

#: The signals that may end a run. A closed terminal sends SIGHUP.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def ending_signals() -> tuple[signal.Signals, ...]:
    """The signals that end a run. One that the process was started to ignore (``nohup``) stays ignored."""
    return tuple(number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN)


# ---------------------------------------------------------------------------------- cancellation


async def drained(work: Coroutine[Any, Any, T], drain: Callable[[], bool]) -> T:
    """Await ``work`` in its own task. A cancellation of the caller calls ``drain`` and does not cancel ``work``.

    Where nothing is in flight, ``drain`` returns False. Then ``work`` is cancelled, after the blocking call of its
    thread. Raises CancelledError at the end of ``work`` where the caller was cancelled.
    """
    done: list[T] = []
    scope = anyio.CancelScope()  # unlike Task.cancel, a scope waits for the result of a thread

    async def run() -> None:
        with scope:
            done.append(await work)

    running = asyncio.create_task(run())  # a task group would pass the caller's cancellation on
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        with anyio.CancelScope(shield=cancelled is not None):  # an anyio scope cancels again in each loop iteration
            try:
                await asyncio.wait({running})
            except asyncio.CancelledError as fault:
                cancelled = fault
                if not drain():
                    scope.cancel()
    running.result()
    if cancelled is not None:
        raise cancelled
    return done[0]


# ---------------------------------------------------------------------------------- signals


class SignalRelay:
    """Passes signals from the main thread, where Python runs signal handlers, to a run in another thread.

    The newest listener receives a signal. Without a listener, a signal cancels the main task of the run.
    """

    def __init__(self) -> None:
        self.has_cancelled = False
        self._received: deque[signal.Signals] = deque()
        self._listeners: list[MemoryObjectSendStream[signal.Signals]] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler; runs in the main thread."""
        self._received.append(signal.Signals(number))
        if self._loop is not None:
            with suppress(RuntimeError):  # the run's loop is closed: the run has ended
                self._loop.call_soon_threadsafe(self._deliver)

    async def serve(self, start: Callable[[], Awaitable[T]]) -> T:
        """Await ``start()`` as the main task of the run's thread."""
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        _RELAY.set(self)
        self._deliver()
        return await start()

    @contextmanager
    def listener(self) -> Iterator[AsyncIterable[signal.Signals]]:
        send, receive = anyio.create_memory_object_stream[signal.Signals](math.inf)
        with send, receive:
            self._listeners.append(send)
            try:
                yield receive
            finally:
                self._listeners.remove(send)

    def _deliver(self) -> None:
        while self._received:
            number = self._received.popleft()
            if self._listeners:
                self._listeners[-1].send_nowait(number)
            elif self._task is not None:
                self.has_cancelled = True
                self._task.cancel()


_RELAY: ContextVar[SignalRelay | None] = ContextVar("signal relay of this run", default=None)


@contextmanager
def signals_to_this_run() -> Iterator[AsyncIterable[signal.Signals] | None]:
    """Receive the signals that end a run; ``None`` in a thread without signals."""
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            yield stack.enter_context(anyio.open_signal_receiver(*ending_signals()))
        elif relay := _RELAY.get():
            yield stack.enter_context(relay.listener())
        else:
            yield None


def run_in_thread(start: Callable[[], Awaitable[T]]) -> T:
    """Await ``start()`` in a thread with its own event loop, while the caller's loop runs (in a notebook).

    Signals to the main thread reach the run. Raises KeyboardInterrupt for a signal before the first request.
    """
    relay = SignalRelay()
    with _handled_by(relay), ThreadPoolExecutor(1, "batchvision-run") as thread:
        try:
            return thread.submit(anyio.run, lambda: relay.serve(start)).result()
        except asyncio.CancelledError:
            if relay.has_cancelled:
                raise KeyboardInterrupt from None
            raise


@contextmanager
def _handled_by(relay: SignalRelay) -> Iterator[None]:
    """Set signal handlers, which only the main thread may do. A handler that Python did not set cannot be restored, and
    is left alone."""
    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in ending_signals() if is_main}
    before = {number: handler for number, handler in before.items() if handler is not None}
    for number in before:
        signal.signal(number, relay.receive)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
