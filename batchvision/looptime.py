"""The time of the running event loop, in seconds: the machine's monotonic clock, or a virtual one in tests.

Rule: what is asked several times for each row asks here. ``anyio.current_time`` first finds out which loop there is.
"""

from __future__ import annotations

from asyncio import get_running_loop


def loop_time() -> float:
    return get_running_loop().time()
