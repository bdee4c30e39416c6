"""The figures of a run at work: written to a file for ``status``; each wait is logged and counted, too."""

from __future__ import annotations

import logging
from collections import deque
from datetime import timedelta

import anyio

from batchvision.checkpoint import Record, Store
from batchvision.eventloop import loop_time
from batchvision.limits import RateLimiter, WaitPeriod
from batchvision.records import (
    Counters,
    Exchange,
    FailureExample,
    RunFigures,
    SendRate,
    WaitNotice,
    progress_of,
)
from batchvision.runner.setup import RunSetup

log = logging.getLogger(__name__)

WRITE_EVERY_SECONDS = 1.0
#: The send rate is the mean over so many writes.
WRITES_OF_RATE = 30


class LiveFigures:
    """Writes the file after records and waits, at most once a second. A projection of the journal."""

    def __init__(self, setup: RunSetup) -> None:
        self.rate: RateLimiter | None = None  #: set before :meth:`run`
        self._setup = setup
        self._store: Store | None = None
        self._counters = setup.counts.counters
        self._examples: dict[str, FailureExample] = {}
        self._sent: deque[tuple[float, int]] = deque(maxlen=WRITES_OF_RATE)
        self._began_at = loop_time()
        self._changed = anyio.Event()

    def apply(self, record: Record, exchange: Exchange | None) -> None:
        """Note that a figure may have changed."""
        self._changed.set()

    def tell(self, wait: WaitPeriod | None) -> None:
        """Take a wait that begins or lasts longer; ``None`` means that the provider answers again."""
        before = self._counters.waiting
        if wait is None:
            self._counters.waiting = None
            if before is not None and before.is_outage:
                log.warning("the provider answers again: going on")
        else:
            until = self._setup.dependencies.now() + timedelta(seconds=wait.until - loop_time())
            self._counters.waiting = notice = WaitNotice(wait.reason, until, wait.is_outage)
            log.warning("%s", notice.words())
        self._changed.set()

    async def begin(self, store: Store) -> None:
        """Write the first file. The store removes it when it releases the output."""
        self._store = store
        store.project(self)
        await self._write()

    async def run(self) -> None:
        """Write the file after each change, until cancelled."""
        self._began_at = loop_time()
        while True:
            await self._changed.wait()
            await self._write()
            await anyio.sleep(WRITE_EVERY_SECONDS)

    async def end(self) -> None:
        """Write the last figures: sending is over."""
        self._counters.waiting = None
        await self._write()

    async def _write(self) -> None:
        self._changed = anyio.Event()
        if self._store is not None:
            await self._setup.offload(self._store.note_figures, self._figures(self._store))

    def _figures(self, store: Store) -> RunFigures:
        setup, counters = self._setup, self._counters
        wanted = setup.selection.limit or setup.selection.sample
        elapsed_seconds = loop_time() - self._began_at
        if missing := counters.failures_by_kind.keys() - self._examples.keys():
            for failed in store.failures():
                if failed.error_kind in missing:
                    self._examples[failed.error_kind] = FailureExample(failed.row_id, failed.error_message)
        return RunFigures(
            setup.run_id,
            setup.selection.shard_name,
            setup.started_at,
            progress_of(counters, Counters(), elapsed_seconds, setup.dependencies.now(), wanted),
            SendRate() if self.rate is None else self._rate(self.rate),
            store.oldest_ticket_at if counters.tickets_open else None,
            dict(counters.failures_by_kind),
            dict(self._examples),
        )

    def _rate(self, rate: RateLimiter) -> SendRate:
        samples, now = rate.rate_samples(), loop_time()
        sent = sum(each.sent for each in samples)
        earlier, sent_then = self._sent[0] if self._sent else (self._began_at, 0)
        self._sent.append((now, sent))
        per_second = (sent - sent_then) / (now - earlier) if now > earlier else 0.0
        limit = samples[-1].rate_per_second if samples else None
        return SendRate(round(per_second, 2), limit, sum(each.rate_limited for each in samples))
