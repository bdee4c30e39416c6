"""The event loop: uvloop's where it is installed (with a finer clock: ``fineloop``; 0 to 3 % less CPU, see
scripts/bench.md), and its time, in seconds: the machine's monotonic clock, or a virtual one in tests.

Rule: what is asked several times for each row asks here. ``anyio.current_time`` first finds out which loop there is.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Awaitable, Callable, Generator
from importlib.util import find_spec
from types import coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


def run_in_loop(start: Callable[[], Awaitable[T]]) -> T:
    """``await start()`` in a loop of its own."""
    return anyio.run(start, backend_options=backend_options())


def backend_options() -> dict[str, Any]:
    """For ``anyio.run``: the loop a run gets."""
    if find_spec("uvloop") is None:
        return {}
    from batchvision.fineloop import FineLoop

    return {"loop_factory": FineLoop}


def loop_time() -> float:
    return get_running_loop().time()


@coroutine
def others_first() -> Generator[None, None, None]:
    """Let all that is ready go on first. Beside work on many bytes, which pushes what all else needs out of the
    processor's caches: the small steps of many rows are quicker one after the other, and so are the large ones."""
    yield  # as asyncio.sleep(0) does, three calls deeper
