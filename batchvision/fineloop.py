"""uvloop's loop with asyncio's clock, as fine as the machine's, and no timer for "0 ms".

uvloop's own counts whole milliseconds, and its timers go to the nearest one. What wakes half a millisecond early looks
at the clock, finds that its time has not come, sleeps for "0 ms", and does so again until the millisecond is over.

Rule: imported only where uvloop is installed (``eventloop``).
"""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Callable
from contextvars import Context
from math import ceil, isfinite
from time import monotonic
from typing import TypeVarTuple

import uvloop

Ts = TypeVarTuple("Ts")


class FineLoop(uvloop.Loop):
    """Its timers ring at the millisecond after their time; or less than one early, where the loop was awake anyway."""

    def time(self) -> float:
        """Of CLOCK_MONOTONIC, in seconds; uvloop's own is the same clock's millisecond at which this turn began."""
        return monotonic()

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> TimerHandle:
        return self.call_later(when - monotonic(), callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> TimerHandle:
        """In so many seconds, up to the next whole millisecond."""
        if isfinite(delay):
            delay = ceil(delay * 1000) / 1000
        return super().call_later(delay, callback, *args, context=context)
