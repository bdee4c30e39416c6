"""Passes over the manifest: stream the rows to do to a lane, and count the manifest in the first pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from batchvision.errors import StopRun
from batchvision.keys import row_digest
from batchvision.records import Row
from batchvision.runner.accuracy_limit import AccuracyLimit
from batchvision.runner.feed import Survey, feed
from batchvision.runner.opening import OpenedOutput
from batchvision.runner.setup import RunSetup

LARGE_ROWS_READ_AHEAD = 16  #: rows that hold images: each batch of them takes much memory
ROWS_READ_AHEAD = 512  #: rows between feed and lane, because workers take rows in bursts


class ManifestPass(NamedTuple):
    """The rows that a pass sends: those in ``only`` (``None``: each row), except those in ``asked``; as digests.

    ``chunks_before``: the chunks of known rows that are asked when the pass begins.
    """

    only: frozenset[bytes] | None = None
    asked: frozenset[bytes] = frozenset()
    chunks_before: int = 0
    is_first: bool = False


class ManifestPasses:
    """The first pass counts the manifest. With an :class:`AccuracyLimit` it sends the first chunk of known rows only.

    Then each further chunk has a pass, and the remaining rows have one. A pass in between sends rows again.
    """

    def __init__(self, setup: RunSetup, survey: Survey, output: OpenedOutput, limit: AccuracyLimit | None) -> None:
        self.has_seen_all = False  #: the first pass met every row of the manifest
        self._setup = setup
        self._survey = survey
        self._output = output
        self._limit = limit
        chunks = [] if limit is None else limit.chunks
        self.first = ManifestPass(chunks[0] if chunks else None, is_first=True)
        self._planned = [ManifestPass(chunk, chunks_before=at) for at, chunk in enumerate(chunks) if at > 0]
        self._known = frozenset[bytes]().union(*chunks)
        if chunks:
            self._planned.append(ManifestPass(asked=self._known, chunks_before=len(chunks)))
        self._known_to_come: set[bytes] = set()  # held back by the first pass
        self._others_to_come = 0

    @property
    def rows_ahead(self) -> int:
        return LARGE_ROWS_READ_AHEAD if self._survey.holds_images else ROWS_READ_AHEAD

    async def after(self, again: frozenset[bytes]) -> ManifestPass | None:
        """The pass after one that has ended: of the rows to send ``again``, or the next planned one.

        ``None``: the run has ended, or answers to known rows are too often wrong.
        """
        stop = self._setup.stop
        if stop.is_set or again:
            return None if stop.is_set else ManifestPass(again)
        if self._limit is None or (following := self._next_planned()) is None:
            return None
        fault: StopRun | None
        try:
            await self._output.store.flush()
            fault = await self._setup.offload(self._limit.look, following.chunks_before)
        except StopRun as error:
            fault = error
        if fault is not None:
            stop.request(fault)
            return None
        return following

    def _next_planned(self) -> ManifestPass | None:
        """The next pass that has rows to send. The rows of a chunk may have been answered in an earlier run."""
        while self._planned:
            following = self._planned.pop(0)
            only = following.only
            if self._others_to_come if only is None else not only.isdisjoint(self._known_to_come):
                return following
        return None

    async def feed(self, rows: MemoryObjectSendStream[Row], this: ManifestPass) -> None:
        """Stream the rows to do. After a stop the rest of the manifest is counted and not sent."""
        setup, row_index, selection = self._setup, self._output.row_index, self._output.selection
        if this.is_first:
            row_index.met.begin()
        elif this.only is not None:
            selection = replace(selection, only=this.only)
        batches = feed(setup.job, self._survey, row_index, selection)
        with rows:
            try:
                while (batch := await setup.read(next, batches, None)) is not None:
                    if this.is_first:
                        setup.counts.batch(batch)
                    with setup.stop.interruptible(), suppress(anyio.BrokenResourceError):
                        for row in self._to_send(batch.rows, this):
                            try:  # without a switch of tasks for each row
                                rows.send_nowait(row)
                            except anyio.WouldBlock:
                                await rows.send(row)
            except StopRun as reason:  # the manifest changed while it was read
                setup.stop.request(reason)
                return
        row_index.met.is_complete = self._survey.rows_in_manifest > 0
        if this.is_first:
            self.has_seen_all = self._output.selection.sees_all and self._survey.rows_in_manifest > 0

    def _to_send(self, rows: Sequence[Row], this: ManifestPass) -> Iterator[Row]:
        if self._limit is None:
            yield from rows
            return
        for row in rows:
            digest = row_digest(row.row_id, "")
            if digest not in this.asked and (this.only is None or digest in this.only):
                yield row
            elif this.is_first and digest in self._known:
                self._known_to_come.add(digest)
            elif this.is_first:
                self._others_to_come += 1
