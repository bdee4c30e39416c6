"""Virtual time in which something can happen between any two steps of the program.

All code of a run is in the callbacks of its event loop, and every ``await`` that waits ends one. An action
before the k-th callback, for every k, therefore reaches the program at every point at which an event can reach it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

from virtual_time import VirtualTimeLoop

LONGEST_NIGHT_SECONDS = 100 * 3600.0


class SteppedLoop(VirtualTimeLoop):
    """Calls ``act`` before the ``at``-th step; ``steps`` counts them. A run that does not end is an error."""

    def __init__(self, at: int | None = None, act: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.steps = 0
        self._at = at
        self._act = act
        self._began_at = self.time()

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        return super().call_soon(self._step, callback, args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return super().call_at(when, self._step, callback, args, context=context)

    def _step(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if self.steps == self._at:
            self._act()
        self.steps += 1
        if self.time() - self._began_at > LONGEST_NIGHT_SECONDS:
            raise KeyboardInterrupt("the night does not end")  # the one exception that a loop lets through
        callback(*args)
