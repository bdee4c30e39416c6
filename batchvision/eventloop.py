"""The running event loop's clock: monotonic seconds, or virtual seconds in tests."""

from __future__ import annotations

from asyncio import get_running_loop


def loop_time() -> float:
    """Seconds on the loop's clock. ``anyio.current_time`` looks up the event loop's library first."""
    return get_running_loop().time()
