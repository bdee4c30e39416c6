"""The end of a run: book the exchanges that were cut off, seal, count, and write the summary."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from batchvision.errors import DiskFailed, OutputHeld, StopRun
from batchvision.eventloop import loop_time
from batchvision.records import Completed, Failed, JsonObject, Purpose, RunSummary
from batchvision.runner.feed import Survey, count_other_cells
from batchvision.runner.known_answers import accuracy_of, has_known_answers
from batchvision.runner.lanes import Delivery
from batchvision.runner.opening import OpenedOutput
from batchvision.runner.setup import RunSetup
from batchvision.runner.summary import Left, summarize

log = logging.getLogger(__name__)


class RunEnd:
    """Each method is one step, in this order."""

    def __init__(self, setup: RunSetup, output: OpenedOutput, delivery: Delivery) -> None:
        self._setup = setup
        self._output = output
        self._delivery = delivery
        self._failures: list[Failed] = []  # of rows of the manifest
        self._accuracy: JsonObject = {}

    async def close(self, *, has_seen_all: bool) -> None:
        """Book the exchanges that were cut off on the wire, then seal. A disk that fails now stops the run.

        ``has_seen_all``: the first pass met every row of the manifest.
        """
        setup, store, booking = self._setup, self._output.store, self._delivery.booking
        with suppress(StopRun):
            await store.flush()
        for exchange in store.cut_off:
            booking.book(self._output.classifier.classify(exchange))
        booking.spare_missing()
        try:
            await store.close(complete=has_seen_all)
            if not setup.is_trial and not isinstance(setup.stop.reason, DiskFailed | OutputHeld):
                await store.write_index()
        except StopRun as reason:
            setup.stop.request(reason)

    def count(self, survey: Survey) -> None:
        """Count the collected answers and the failed rows. Rows that left the manifest do not count."""
        collected, met = self._delivery.booking.collected, self._output.row_index.met
        gone = {(each.row_id, each.request_key) for each in collected if not met.has(each)}
        failures = self._output.store.failures() if survey.rows_in_manifest else ()
        own = (each for each in failures if each.run_id == self._setup.run_id or met.has(each))
        self._failures = [failed for failed in own if (failed.row_id, failed.request_key) not in gone]
        completed = (each for each in collected if isinstance(each, Completed) and met.has(each))
        self._setup.counts.end(completed, self._failures)

    async def count_kept_cells(self, survey: Survey) -> None:
        """Count the answered rows with changed kept cells, unless the run was stopped."""
        setup, output = self._setup, self._output
        if setup.stop.is_set or setup.purpose is not Purpose.RUN:
            return
        mask = setup.secrets.mask
        with suppress(StopRun):  # the manifest is being written again: the next run counts
            rows = await setup.offload(count_other_cells, setup.job, survey, output.row_index, mask, output.latest)
            setup.counts.other_kept_cells(rows)

    async def measure_accuracy(self, survey: Survey) -> None:
        """Compare the current answers with the known answers, unless the run was interrupted."""
        setup = self._setup
        if setup.stop.is_interrupted or not has_known_answers(setup.job):
            return
        try:
            self._accuracy = await setup.offload(accuracy_of, setup.job, survey.manifest, setup.secrets)
        except StopRun as fault:
            log.warning("the accuracy was not measured: %s", fault)

    def _left(self, survey: Survey) -> Left:
        counters, store = self._setup.counts.counters, self._output.store
        is_empty = not survey.rows_in_manifest and len(self._output.row_index.paid_rows()) > 0
        has_none = counters.rows_total > 0 and not counters.rows_done_before + counters.rows_completed
        without_answers = is_empty or has_none
        kept, redo_failed = counters.rows_kept, counters.rows_redo_failed
        return Left(self._failures, store.tickets_open, store.held_count, kept, redo_failed, without_answers)

    def finish(self, survey: Survey, began_at: float) -> RunSummary:
        """Write the summary to ``runs/``. ``began_at``: on the loop's clock."""
        setup, output, refused = self._setup, self._output, self._delivery.refused
        summary = summarize(
            setup.given,
            setup.counts.counters,
            run_id=setup.run_id,
            started_at=setup.started_at,
            finished_at=setup.dependencies.now(),
            reason=setup.stop.reason,
            left=self._left(survey),
            parts=output.store.parts_to_list(),
            spent=setup.counts.spending.document(),
            duration_seconds=loop_time() - began_at,
            provider_answered=refused.is_proven,
            stopped_by=refused.stopped_by,
            rate_history=self._delivery.exchanges.permits.rate.rate_samples(),
        )
        summary = replace(
            summary,
            command=setup.purpose.value,
            shard=str(setup.selection.own_shard),
            rows_in_manifest=survey.rows_in_manifest,
            is_trial=output.selection.is_trial or setup.purpose is not Purpose.RUN,
            redo_recipes=tuple(sorted(output.redo_recipes)),
            accuracy=setup.secrets.mask_document(dict(self._accuracy)),
            message=setup.secrets.mask_document(summary.message),
            config=setup.secrets.mask_document(dict(summary.config)),
        )
        try:
            output.store.write_summary(summary)
        except DiskFailed as reason:
            if not setup.stop.is_set:  # otherwise the summary already names the first reason
                ended = {"exit_code": reason.exit_code, "stop_reason": reason.kind, "message": reason.message}
                summary = replace(summary, **ended)  # type: ignore[arg-type]  # three fields of their own types
        return summary
