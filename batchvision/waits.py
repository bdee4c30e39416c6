"""Explain what a run waits for: on the terminal (by the counters), in the log, and in a file for ``status``."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import anyio

from batchvision.eventloop import loop_time
from batchvision.pacing import Wait
from batchvision.records import Counters, WaitNotice

log = logging.getLogger(__name__)


class Waits:
    """``note`` writes a notice (None: over) where ``status`` finds it; ``now`` is the wall clock."""

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

    def tell(self, wait: Wait | None) -> None:
        """The pacing's word that a wait begins (or lasts longer), or that the provider answers again."""
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
        """The run sends no more."""
        if self._counters.waiting is not None:
            self._counters.waiting = None
            await self._note(None)

    async def run(self) -> None:
        """Keep the file as it is told, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            await self._note(self._counters.waiting)
