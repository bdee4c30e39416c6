"""The emulator's clock for tickets, files and batches. Tests move it forward instead of waiting."""

from __future__ import annotations

import time


class EmulatorClock:
    """Seconds since 1970, plus the seconds that ``advance`` added."""

    def __init__(self) -> None:
        self._added_seconds = 0.0

    def now(self) -> float:
        return time.time() + self._added_seconds

    def advance(self, seconds: float) -> None:
        """Raises ValueError for a negative number."""
        if seconds < 0:
            raise ValueError(f"the clock cannot go back by {-seconds} seconds")
        self._added_seconds += seconds
