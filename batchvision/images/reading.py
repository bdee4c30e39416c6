"""Reads image files in threads of its own: a mount that hangs costs its rows and no more.

Rule: the event loop never waits for a disk. A read that takes too long fails its row; its thread is left behind, and
as it is a daemon it does not hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, NamedTuple, TypeVar

from batchvision.errors import ImageUnreadable

#: For one file, its turn included. Disks that sleep need ten seconds to wake, network mounts a little more.
READ_SECONDS = 60.0
#: After that time a thread may still hand over its file. A process that was stopped finds the time over on its return.
GRACE_SECONDS = 1.0
#: Reads at once. With as many that hang, further ones fail as well.
MOST_THREADS = 16
_IDLE_SECONDS = 5.0  #: after which a thread without work ends

T = TypeVar("T")


class _Read(NamedTuple, Generic[T]):
    """One file to read, and where the outcome is awaited."""

    work: Callable[[], T]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[T]


class FileReaders:
    """At most ``most_threads`` threads, each started when it is first needed. For one event loop."""

    def __init__(self, read_seconds: float = READ_SECONDS, most_threads: int = MOST_THREADS) -> None:
        self._read_seconds = read_seconds
        self._most_threads = most_threads
        self._reads: SimpleQueue[_Read[object]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = self._waiting = 0

    async def read(self, name: str, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises. Raises ImageUnreadable where it takes too long; ``name``: as it is shown."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._begin(_Read(work, loop, done))
        late = ImageUnreadable(
            f"{name} was not read within {self._read_seconds:g} s: see whether its disk or network mount answers"
        )
        timer = loop.call_later(self._read_seconds, loop.call_later, GRACE_SECONDS, _give_up, done, late)
        try:
            return await done
        finally:
            timer.cancel()

    def _begin(self, read: _Read[T]) -> None:
        with self._lock:
            starts = self._waiting <= self._reads.qsize() and self._threads < self._most_threads
            self._threads += starts
        self._reads.put(read)  # type: ignore[arg-type]  # each future takes what its own work returns
        if starts:
            threading.Thread(target=self._work, name="batchvision reads images", daemon=True).start()

    def _work(self) -> None:
        while (read := self._next()) is not None:
            if not read.done.cancelled():
                _answer(read)

    def _next(self) -> _Read[object] | None:
        """The next read; None: this thread is not needed any more."""
        with self._lock:
            self._waiting += 1
        with suppress(Empty):
            read = self._reads.get(timeout=_IDLE_SECONDS)
            with self._lock:
                self._waiting -= 1
            return read
        with self._lock:
            self._waiting -= 1
            if self._reads.empty():
                self._threads -= 1
                return None
        return self._next()


def _give_up(done: asyncio.Future[T], late: ImageUnreadable) -> None:
    if not done.done():
        done.set_exception(late)


def _answer(read: _Read[object]) -> None:
    try:
        outcome: object = read.work()
    except BaseException as error:  # noqa: BLE001 - raised where it is awaited
        _tell(read, partial(read.done.set_exception, error))
        return
    _tell(read, partial(read.done.set_result, outcome))


def _tell(read: _Read[object], say: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop has ended: nothing waits
        read.loop.call_soon_threadsafe(lambda: None if read.done.done() else say())
