"""An event loop whose clock jumps to the next timer instead of waiting.

Hours pass in milliseconds, in the same way each time.

Use it with ``anyio.run(f, backend_options=VIRTUAL)`` or through the fixture ``anyio_backend``.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from typing import Any


class _JumpingSelector(selectors.DefaultSelector):
    """Never sleeps: the time of a wait is added to the loop's clock."""

    jump = staticmethod(lambda seconds: None)

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everything waits and no timer is set: a deadlock")
        ready = super().select(0)
        if not ready and timeout > 0:
            self.jump(timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """``time()`` moves by jumps, and by a microsecond a call, which aiolimiter needs to see progress."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        super().__init__(selector)
        self._virtual_seconds = 1_000.0
        selector.jump = self._jump  # type: ignore[method-assign, assignment]

    def _jump(self, seconds: float) -> None:
        self._virtual_seconds += seconds

    def time(self) -> float:
        self._virtual_seconds += 1e-6
        return self._virtual_seconds


VIRTUAL: dict[str, Any] = {"loop_factory": VirtualTimeLoop}


class LateLoop(VirtualTimeLoop):
    """As on a busy machine, every timer is late: by ``late_seconds`` in the mean, now and then by much more."""

    late_seconds = 0.0001

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._random = random.Random(seed)

    def _jump(self, seconds: float) -> None:
        super()._jump(seconds + self._random.expovariate(1 / self.late_seconds))


class StallingLoop(LateLoop):
    """Every few seconds the whole machine stands still for about half a second: a full disk cache, a crowded host."""

    stalls_seconds = (0.3, 0.6)
    apart_seconds = (2.0, 6.0)

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self._stalls_at = self._virtual_seconds + self.apart_seconds[1]

    def _jump(self, seconds: float) -> None:
        super()._jump(seconds)
        if self._virtual_seconds >= self._stalls_at:
            self._virtual_seconds += self._random.uniform(*self.stalls_seconds)
            self._stalls_at = self._virtual_seconds + self._random.uniform(*self.apart_seconds)
