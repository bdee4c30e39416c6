"""Passes over the manifest: stream the rows to do to a lane, and count them in the first pass."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from batchvision.checkpoint import RowIndex
from batchvision.errors import StopRun
from batchvision.eventloop import Offload
from batchvision.job import Job
from batchvision.records import Row
from batchvision.runner.booking import RunCounts
from batchvision.runner.feed import Selection, Survey, feed
from batchvision.stopping import StopSignal

LARGE_ROWS_READ_AHEAD = 16  #: rows that hold images: each batch of them takes much memory
ROWS_READ_AHEAD = 512  #: rows between feed and lane, because workers take rows in bursts


class ManifestPasses:
    """``read`` runs blocking reads of the manifest off the loop."""

    def __init__(
        self,
        job: Job,
        survey: Survey,
        row_index: RowIndex,
        selection: Selection,
        read: Offload,
        counts: RunCounts,
        stop: StopSignal,
    ) -> None:
        self.has_seen_all = False  #: the first pass met every row of the manifest
        self._job = job
        self._survey = survey
        self._row_index = row_index
        self._selection = selection
        self._read = read
        self._counts = counts
        self._stop = stop

    @property
    def rows_ahead(self) -> int:
        return LARGE_ROWS_READ_AHEAD if self._survey.holds_images else ROWS_READ_AHEAD

    async def feed(self, rows: MemoryObjectSendStream[Row], only: frozenset[bytes] | None) -> None:
        """Stream the rows to do. ``only``: the digests of the rows of a later pass; ``None``: the first pass.

        After a stop the rest of the manifest is counted and not sent.
        """
        is_first = only is None
        selection = self._selection if only is None else replace(self._selection, only=only)
        if is_first:
            self._row_index.met.begin()
        batches = feed(self._job, self._survey, self._row_index, selection)
        with rows:
            try:
                while (batch := await self._read(next, batches, None)) is not None:
                    if is_first:
                        self._counts.batch(batch)
                    with self._stop.interruptible(), suppress(anyio.BrokenResourceError):
                        for row in batch.rows:
                            try:  # without a switch of tasks for each row
                                rows.send_nowait(row)
                            except anyio.WouldBlock:
                                await rows.send(row)
            except StopRun as reason:  # the manifest changed while it was read
                self._stop.request(reason)
                return
        self._row_index.met.is_complete = self._survey.rows_in_manifest > 0
        if is_first:
            self.has_seen_all = selection.sees_all and self._survey.rows_in_manifest > 0
