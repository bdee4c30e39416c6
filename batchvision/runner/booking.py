"""The end of rows: ledger line and outcome to the store, counters, and the rows that ask the same."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

from batchvision.checkpoint import RowIndex, Store, is_unclear
from batchvision.errors import ImageUnreachable, RowFault
from batchvision.offload import Offload
from batchvision.records import Completed, Failed, Outcome, Request, Row
from batchvision.runner.classify import Classification, shared
from batchvision.runner.deduplicator import RequestDeduplicator, is_shared
from batchvision.runner.later_rows import LaterRows
from batchvision.runner.provider_calls import Terms
from batchvision.runner.run_counts import RunCounts


class Booking:
    """Writes each end once. ``deduplicator`` names the rows that wait for an end; some of them come to ``later``."""

    def __init__(
        self,
        terms: Terms,
        store: Store,
        row_index: RowIndex,
        counts: RunCounts,
        deduplicator: RequestDeduplicator,
        later: LaterRows,
        offload: Offload,
    ) -> None:
        self.counts = counts
        #: outcomes of tickets of earlier runs; their rows may have left the manifest
        self.collected: list[Outcome] = []
        self._terms = terms
        self._store = store
        self._row_index = row_index
        self._deduplicator = deduplicator
        self._later = later
        self._offload = offload
        self._away: list[Failed] = []  # rows with missing or unreachable images

    def book(self, classification: Classification) -> None:
        """Close an exchange. The row's end is also the end of the rows that ask the same."""
        intent, outcome = classification.intent, classification.outcome
        self._store.book(intent.exchange_id, classification, self._terms.holds and is_unclear(classification))
        self.counts.attempt(classification.attempt)
        if outcome is None:
            return
        if intent.run_id != self._terms.run_id:
            self.collected.append(outcome)
        else:
            self.counts.outcome(outcome)
        for follower in self._deduplicator.ended(intent.request_key, outcome):
            if is_shared(outcome):
                self.share(outcome, follower)
            else:
                self._later.add(follower.row_id)

    def fail(self, row: Row, fault: RowFault, request: Request | None = None) -> None:
        """Fail a row before anything was sent: to ``failures``, without a line in the ledger.

        Its record holds what earlier attempts of the same request used up. ``request``: one that cannot be sent again.
        """
        terms = self._terms
        before = self._row_index.failed_before(row.row_id, row.skip_key)
        carried = self._row_index.carried(row.row_id, request.request_key if request else row.skip_key)
        runs_failed = max(carried.runs_failed, before.runs_failed if before else 0) + 1
        failed = Failed(
            row_id=row.row_id,
            request_key=request.request_key if request else None,
            skip_key=row.skip_key,
            recipe_id=terms.recipe.recipe_id,
            error_kind=fault.kind,
            error_message=str(fault),
            last_error_kind=None,
            attempt_count=carried.attempts,
            row_cost_ticks=carried.cost_ticks,
            runs_failed=runs_failed,
            quarantined=runs_failed >= terms.quarantine_after_runs,
            last_output_text=before.last_output_text if before else None,
            failed_at=terms.now(),
            run_id=terms.run_id,
            keep=dict(zip(terms.keep_names, row.keep, strict=True)),
        )
        if not terms.is_trial:
            self._store.file(failed)
        if self.counts.images_missing(row) or fault.kind == ImageUnreachable.kind:
            self._away.append(failed)
        self.counts.outcome(failed)

    def spare_missing(self) -> None:
        """Count the failures toward no quarantine if most local images are missing: their folder is away."""
        away, self._away = self._away, []
        counters = self.counts.counters
        if counters.images_missing <= counters.images_found or self._terms.is_trial:
            return
        for failed in away:
            self.counts.no_quarantine(failed)
            self._store.file(replace(failed, runs_failed=failed.runs_failed - 1, quarantined=False))

    def share(self, outcome: Outcome, follower: Request) -> None:
        """Give a row the outcome of an identical request. Nothing is sent for it."""
        terms = self._terms
        own = shared(outcome, follower, terms.keep_names, terms.run_id, terms.now())
        if isinstance(own, Completed):
            self._store.share(own)
        else:
            self._store.file(own)
        self.counts.outcome(own)

    async def read_answers(self, request_keys: Set[str]) -> dict[str, list[Completed]]:
        """Read the completed rows of the requests from the disk."""
        return await self._store.answers(request_keys, self._offload)
