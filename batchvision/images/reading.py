"""Run blocking reads of images in daemon threads: a network mount that hangs costs its own rows only.

A read that takes too long fails its row, and its thread stays behind. A daemon thread does not delay the end of the
process, as the threads of anyio and ``concurrent.futures`` do.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from batchvision.errors import ImageUnreadable

#: Bound of one read, its time in the queue included. A sleeping disk wakes in ten seconds, a network mount in more.
READ_SECONDS = 60.0
#: After the bound a thread may still hand over its result. A process that was suspended resumes with the bound passed.
GRACE_SECONDS = 1.0
#: Reads at once. When so many hang, all further reads fail.
MAX_THREADS = 16

T = TypeVar("T")


class _Read(NamedTuple):
    """One read, and the loop and future that receive its result."""

    work: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[Any]
    hand_over: Callable[[asyncio.Future[Any], Any, BaseException | None], None]


class FileReaders:
    """At most ``max_threads`` threads, started when needed, for one event loop. Only the loop changes this object."""

    def __init__(self, read_seconds: float = READ_SECONDS, max_threads: int = MAX_THREADS) -> None:
        self._read_seconds = read_seconds
        self._max_threads = max_threads
        self._reads: SimpleQueue[_Read | None] = SimpleQueue()
        self._threads = self._unfinished = 0
        weakref.finalize(self, self._reads.put, None)

    async def read(self, name: str, work: Callable[[], T]) -> T:
        """Run ``work`` in a thread and return its result. ``name`` appears in the message of a late read.

        Raises ImageUnreadable after ``read_seconds``.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._unfinished += 1
        if self._threads < min(self._unfinished, self._max_threads):
            self._threads += 1
            threading.Thread(target=_serve, args=(self._reads,), name="batchvision reads images", daemon=True).start()
        self._reads.put(_Read(work, loop, done, self._hand_over))
        late = ImageUnreadable(
            f"{name} was not read within {self._read_seconds:g} s: see whether its disk or network mount answers"
        )
        timer = loop.call_later(self._read_seconds, loop.call_later, GRACE_SECONDS, _settle, done, None, late)
        try:
            return await done
        finally:
            timer.cancel()

    def _hand_over(self, done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
        self._unfinished -= 1
        _settle(done, result, error)


def _settle(done: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def _serve(reads: SimpleQueue[_Read | None]) -> None:
    """The work of one thread, until the readers are gone."""
    while (read := reads.get()) is not None:
        result, error = None, None
        try:
            result = None if read.done.done() else read.work()
        except BaseException as fault:  # noqa: BLE001 - raised where it is awaited
            error = fault
        with suppress(RuntimeError):  # the loop is closed
            read.loop.call_soon_threadsafe(read.hand_over, read.done, result, error)
        del read, result, error  # while it waits, the thread holds no image
    reads.put(None)  # for the next thread
