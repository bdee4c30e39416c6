"""How a caller of ``run`` and ``run_async`` interrupts a run: by cancelling its task, or by a signal to another thread.

Rule: an interruption never drops requests in flight at once. The run drains, writes its summary, and then ends.
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
    """Await ``work`` in a task of its own; each cancellation of the caller calls ``drain``, and ``work`` goes on.

    ``drain`` returns False where nothing is in flight yet: then ``work`` is cancelled, after the blocking call that a
    thread is doing for it. Raises CancelledError at the end of ``work`` where the caller was cancelled meanwhile.
    """
    done: list[T] = []
    scope = anyio.CancelScope()  # unlike Task.cancel, it waits for a thread: what that returns is not lost

    async def run() -> None:
        with scope:
            done.append(await work)

    running = asyncio.create_task(run())  # a child task group would hand the caller's cancellation to it
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
    """Hands signals from the main thread, which Python runs signal handlers in, to a run in another thread.

    A signal goes to the newest listener. Where nothing listens, it cancels the run's main task.
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
        """``await start()`` as the main task of the run's thread."""
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
    """The signals that end a run; None in a thread that receives none."""
    with ExitStack() as stack:
        if threading.current_thread() is threading.main_thread():
            yield stack.enter_context(anyio.open_signal_receiver(*ending_signals()))
        elif relay := _RELAY.get():
            yield stack.enter_context(relay.listener())
        else:
            yield None


def run_in_thread(start: Callable[[], Awaitable[T]]) -> T:
    """``await start()`` in a thread with its own loop, beside the caller's running loop (a notebook).

    Signals that the main thread receives meanwhile go to the run. Raises KeyboardInterrupt where a signal came before
    anything was in flight.
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
    """Only the main thread may set handlers. A handler that Python did not set cannot be restored, and stays."""
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
