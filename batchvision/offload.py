"""Where blocking work runs: in threads in production, inline where a test uses virtual time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

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
