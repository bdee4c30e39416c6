"""Report each wait of a run: in the counters for progress lines, in the log, and in a file for ``status``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import anyio

from batchvision.eventloop import loop_time
from batchvision.limits import WaitPeriod
from batchvision.records import Counters, WaitNotice

log = logging.getLogger(__name__)


class Waits:
    """``note`` writes the file of the current notice, or removes it. ``now`` is the wall clock."""

    def __init__(
        self,
        counters: Counters,
        note: Callable[[WaitNotice | None], Awaitable[None]],
        now: Callable[[], datetime],
    ) -> None:
        self._counters = counters
        self._note = note
        self._now = now
        self._changed = anyio.Event()

    def tell(self, wait: WaitPeriod | None) -> None:
        """Take a wait that begins or lasts longer; ``None`` means that the provider answers again."""
        before = self._counters.waiting
        if wait is None:
            self._counters.waiting = None
            if before is not None and before.is_outage:
                log.warning("the provider answers again: going on")
        else:
            until = self._now() + timedelta(seconds=wait.until - loop_time())
            self._counters.waiting = notice = WaitNotice(wait.reason, until, wait.is_outage)
            log.warning("%s", notice.words())
        self._changed.set()

    async def end(self) -> None:
        """Clear the notice: sending is over."""
        if self._counters.waiting is not None:
            self._counters.waiting = None
            await self._note(None)

    async def run(self) -> None:
        """Write the file after each change, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            await self._note(self._counters.waiting)
