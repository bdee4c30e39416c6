"""The running event loop: its clock, a condition variable, a bound on bytes in memory, blocking work, a task's run."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf
from typing import Protocol, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

#: The run that a task works for. Log lines name it.
RUN_ID: ContextVar[str] = ContextVar("run_id", default="")
MAX_BYTES = 256 * 1024 * 1024  #: of images and bodies in memory


def loop_time() -> float:
    """Monotonic seconds, or virtual seconds in tests. ``anyio.current_time`` first looks up the loop's library."""
    return asyncio.get_running_loop().time()


@dataclass(eq=False, slots=True)
class Wakeup:
    """A condition variable without a lock, for one event loop: a woken task checks its condition and may wait again.

    A change costs nothing while no task waits.
    """

    _waiting: list[asyncio.Future[None]] = field(init=False, default_factory=list)

    def tell(self) -> None:
        """Wake all waiting tasks."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait(self, until: float = inf) -> None:
        """Wait for the next change, or until this time on the loop's clock; then all waiting tasks are woken."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        timer = None if until == inf else loop.call_at(until, self.tell)
        try:
            await future
        except BaseException:
            with suppress(ValueError):  # woken, and cancelled before it could go on
                self._waiting.remove(future)
            raise
        finally:
            if timer is not None:
                timer.cancel()


class HeldBytes:
    """Bytes that a holder of a :class:`ByteBudget` has."""

    def __init__(self, budget: ByteBudget, size_bytes: int) -> None:
        self._budget = budget
        self.size_bytes = size_bytes

    def shrink(self, size_bytes: int) -> None:
        """Give back what exceeds ``size_bytes``: the true size is known, and smaller than the bound."""
        if size_bytes < self.size_bytes:
            excess, self.size_bytes = self.size_bytes - size_bytes, size_bytes
            self._budget._release(excess)


class ByteBudget:
    """A bounded number of bytes, first come, first served. A larger request than the whole budget is held alone."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        return f"<ByteBudget {self._held_bytes} of {self._max_bytes} bytes>"

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[HeldBytes]:
        """Hold so many bytes for the block. Waits behind earlier holders. 0 bytes never wait."""
        held = HeldBytes(self, size_bytes)
        if not size_bytes:
            yield held
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size_bytes, future))
        self._serve()
        try:
            await future
            yield held
        finally:
            if future.done() and not future.cancelled():  # the bytes are held, also where the wait was cancelled then
                self._held_bytes -= held.size_bytes
            self._serve()

    def _release(self, size_bytes: int) -> None:
        self._held_bytes -= size_bytes
        self._serve()

    def _serve(self) -> None:
        while self._queue:
            size_bytes, future = self._queue[0]
            if not future.done():
                if self._held_bytes and self._held_bytes + size_bytes > self._max_bytes:
                    return
                self._held_bytes += size_bytes
                future.set_result(None)
            self._queue.popleft()


# ---------------------------------------------------------------------------------- blocking work

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Offload(Protocol):
    """Runs blocking work off the event loop."""

    def __call__(self, work: Callable[[*Ts], T], /, *args: *Ts) -> Awaitable[T]: ...


async def inline(work: Callable[[*Ts], T], /, *args: *Ts) -> T:
    """Run the work in the event loop: under virtual time the clock must not advance meanwhile."""
    return work(*args)


class OwnThread:
    """Runs work in one thread of its own, which busy image threads never delay."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, name)  # the thread ends with this object

    async def __call__(self, work: Callable[[*Ts], T], /, *args: *Ts) -> T:
        with anyio.CancelScope(shield=True):
            done = await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
        return done  # noqa: RET504  (mypy assumes that the scope may suppress an error)


def threads(limit: int | None = None, *, may_abandon: bool = False) -> Offload:
    """Run work in at most ``limit`` threads at once. Default: the number of processors, and at least two.

    ``may_abandon``: a cancelled caller does not wait for its thread, which a hung disk may hold for ever.
    """
    limiters: list[anyio.CapacityLimiter] = []  # made on first use: it belongs to the running loop

    async def offload(work: Callable[[*Ts], T], /, *args: *Ts) -> T:
        if not limiters:
            limiters.append(anyio.CapacityLimiter(limit or max(2, os.cpu_count() or 2)))
        return await anyio.to_thread.run_sync(work, *args, limiter=limiters[0], abandon_on_cancel=may_abandon)

    return offload
