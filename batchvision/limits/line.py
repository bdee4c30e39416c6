"""A line of those who want some of what there is, first come first served, and all who can be served at once together.

Rule: who is first waits for what it wants; behind it nobody looks. When it goes, those behind it are served without
another turn of the event loop, up to the one for whom there is not enough, which is first then. (With a lock, one is
served a turn; and where a hundred answers come back at once, a turn is long.)
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Wanted = TypeVar("Wanted")
Got = TypeVar("Got")


class Line(Generic[Wanted, Got]):
    """``serve`` gives what is wanted where it is there, otherwise None; ``give_back`` has it from who was cancelled."""

    def __init__(self, serve: Callable[[Wanted], Got | None], give_back: Callable[[Got], None]) -> None:
        self._serve = serve
        self._give_back = give_back
        self._behind: deque[tuple[Wanted, Future[Got | None]]] = deque()
        self._has_first = False

    def __repr__(self) -> str:
        return f"<Line of {self._has_first + len(self._behind)}>"

    def served_now(self, wanted: Wanted) -> Got | None:
        """What is wanted, where nobody waits and it is there."""
        return None if self._has_first else self._serve(wanted)

    async def wait(self, wanted: Wanted) -> Got | None:
        """What is wanted; or None: whoever called is first now, and waits ``with line.first():``."""
        if not self._has_first:
            self._has_first = (got := self._serve(wanted)) is None
            return got
        future: Future[Got | None] = get_running_loop().create_future()
        self._behind.append((wanted, future))
        try:
            return await future
        except BaseException:
            if future.done() and not future.cancelled():  # it was told, and cancelled before it could look
                if (got := future.result()) is not None:
                    self._give_back(got)
                else:
                    self._go_on()
            raise

    @contextmanager
    def first(self) -> Iterator[None]:
        """The block of who is first: it ends when that one is served, or goes."""
        try:
            yield
        finally:
            self._go_on()

    def _go_on(self) -> None:
        while self._behind:
            wanted, future = self._behind.popleft()
            if future.done():  # cancelled
                continue
            got = self._serve(wanted)
            future.set_result(got)
            if got is None:
                return
        self._has_first = False
