"""The end of rows: ledger line and outcome to the store, the rows that ask the same, and the counters of the run."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from datetime import UTC, tzinfo

from batchvision.checkpoint import (
    Accepted,
    Closed,
    Received,
    Record,
    RowAnswer,
    RowFailed,
    RowIndex,
    Shared,
    Store,
    Voided,
    is_unclear,
)
from batchvision.errors import ImageUnreachable, RowFault
from batchvision.eventloop import Offload
from batchvision.images import redact_reference
from batchvision.keys import row_digest
from batchvision.money import Spending
from batchvision.prompt import names_fallback
from batchvision.records import (
    AnswerSpec,
    AttemptState,
    Completed,
    Counters,
    Exchange,
    Failed,
    ImageKind,
    Intent,
    Outcome,
    Purpose,
    Request,
    Row,
    Tries,
)
from batchvision.runner.classify import Classification, shared
from batchvision.runner.feed import FeedBatch
from batchvision.runner.provider_calls import Terms
from batchvision.runner.waiting_rows import LaterRows, RequestDeduplicator, is_shared

log = logging.getLogger(__name__)


class RunCounts:
    """The counters of a run: a projection of the records of its journal.

    The other methods take events without a record. Only this class writes ``counters`` and ``spending``.
    """

    def __init__(self, run_id: str, answer: AnswerSpec | None = None, zone: tzinfo = UTC) -> None:
        self.counters = Counters()
        self.spending = Spending(zone)
        self._run_id = run_id
        self._answer = answer or AnswerSpec()
        self._ambiguous_rows: set[bytes] = set()

    # ---------------------------------------------------------------------------- the manifest

    def begin(self, rows: int, ambiguous: Sequence[Intent]) -> None:
        """Count the rows of the manifest, and the ambiguous attempts that a crash left."""
        self.counters.rows_total = rows
        for intent in ambiguous:
            self._ambiguous(intent, intent.bound_ticks)

    def batch(self, batch: FeedBatch) -> None:
        """Count the rows of a batch in the first pass over the manifest."""
        counters = self.counters
        counters.rows_done_before += batch.counts.done
        counters.rows_failed += batch.counts.failed_kept
        counters.rows_failed_before += batch.counts.failed_kept
        counters.rows_kept += batch.counts.kept
        counters.rows_to_redo += batch.counts.redo
        counters.images_found += batch.counts.images_found
        counters.rows_left += batch.counts.left - batch.counts.kept

    def images_found(self, row: Row) -> None:
        self.counters.images_found += sum(ref.kind is ImageKind.PATH for ref in row.images)

    def images_missing(self, row: Row) -> int:
        """Count the local images of a failed row that do not exist, and return their number."""
        missing = sum(ref.size_bytes == 0 for ref in row.images)
        self.counters.images_missing += missing
        return missing

    def done_before(self) -> None:
        self.counters.rows_done_before += 1

    def failed_before(self, failed: Failed) -> None:
        """Count a failed row that stays as an earlier run left it."""
        self.counters.rows_failed += 1
        self.counters.rows_failed_before += 1
        self.counters.rows_quarantined += failed.quarantined

    # ---------------------------------------------------------------------------- the wire

    def sent(self, tries: Tries) -> None:
        self.counters.requests_sent += 1
        self.counters.retries += tries.spent + tries.unspent > 1
        self.counters.in_flight += 1

    def landed(self) -> None:
        """Count a request off the wire."""
        self.counters.in_flight -= 1

    def submitted(self, requests: int, retries: int) -> None:
        """Count the requests of a batch that the provider has taken."""
        self.counters.requests_sent += requests
        self.counters.retries += retries

    def not_sent(self) -> None:
        """Take back a request that found no way to the provider."""
        self.counters.requests_sent -= 1

    def ticket_adopted(self) -> None:
        """Count an open ticket of an earlier run that this run collects."""
        self.counters.tickets_open += 1

    # ---------------------------------------------------------------------------- records

    def apply(self, record: Record, exchange: Exchange | None) -> None:
        """Count a record. The outcomes of tickets of earlier runs are counted by :meth:`end`."""
        counters = self.counters
        completed: Completed | RowAnswer | None = None
        failed: Failed | None = None
        match record:
            case Closed() if exchange is not None:
                attempt, usage = record.attempt_of(exchange), record.answer.usage
                counters.prompt_tokens += usage.prompt_tokens or 0
                counters.completion_tokens += usage.completion_tokens or 0
                counters.reasoning_tokens += usage.reasoning_tokens or 0
                counters.image_tokens += usage.image_tokens or 0
                counters.cached_tokens += usage.cached_tokens or 0
                counters.cost_ticks += usage.cost_ticks or 0
                counters.unknown_cost += self.spending.take(attempt).unknown_cost
                if record.state is AttemptState.AMBIGUOUS:
                    self._ambiguous(exchange.intent, record.bound_ticks)
                if exchange.ticket is not None and exchange.answer is None:
                    counters.tickets_open -= 1
                if exchange.intent.is_redo:
                    self._redone(record.completed, record.failed)
                elif exchange.intent.run_id == self._run_id:
                    completed, failed = record.completed, record.failed
            case Shared(redone) if redone.intent.is_redo:
                self._redone(redone, None)
            case Shared():
                completed = record.completed
            case RowFailed(is_correction=False):
                failed = record.failed
            case Accepted():
                counters.tickets_open += 1
            case Received() | Voided() if exchange is not None and exchange.ticket is not None:
                counters.tickets_open -= 1
        if completed is not None:
            counters.rows_completed += 1
            counters.rows_fallback += names_fallback(self._answer, completed.answer_columns)
        if failed is not None:
            self.failed(failed)

    def _redone(self, completed: Completed | RowAnswer | None, failed: Failed | None) -> None:
        if completed is not None:
            self.counters.rows_redone += 1
        if failed is not None:
            self.redo_failed(failed)

    def _ambiguous(self, intent: Intent, bound_ticks: int | None) -> None:
        self._ambiguous_rows.add(row_digest(intent.row_id, ""))
        self.counters.rows_ambiguous = len(self._ambiguous_rows)
        self.counters.ambiguous_ticks += bound_ticks or 0
        self.counters.unbounded += bound_ticks is None

    # ---------------------------------------------------------------------------- ends

    def failed(self, failed: Failed) -> None:
        """Count and log a row that has failed in this run. Call it only for a failure without a record in the store."""
        log.info(
            "row %s failed: %s: %s",
            failed.row_id,
            failed.error_kind,
            failed.error_message,
            extra={"row_id": failed.row_id, "error_kind": failed.error_kind},
        )
        counters = self.counters
        counters.rows_failed += 1
        counters.rows_quarantined += failed.quarantined
        counters.rows_failed_at_provider += failed.at_provider
        counters.failures_by_kind[failed.error_kind] = counters.failures_by_kind.get(failed.error_kind, 0) + 1

    def redo_failed(self, failed: Failed) -> None:
        """Count a row that was asked again in vain. It keeps its older answer, and is no failed row."""
        self.counters.rows_redo_failed += 1
        self.counters.rows_failed_at_provider += failed.at_provider

    def no_quarantine(self, failed: Failed) -> None:
        """Take back the quarantine of a row that failed because the folder of images is away."""
        self.counters.rows_quarantined -= failed.quarantined

    def end(self, collected: Iterable[Completed], failures: Sequence[Failed]) -> None:
        """Count the collected answers of rows in the manifest, and the rows that are failed now."""
        self.counters.rows_completed += sum(1 for _ in collected)
        self.counters.rows_failed = len(failures)

    def other_kept_cells(self, rows: int) -> None:
        self.counters.rows_with_other_kept_cells = rows


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
        if outcome is None:
            return
        if not self.is_of_this_run(intent) and not intent.is_redo:
            self.collected.append(outcome)
        for follower in self._deduplicator.ended(intent.request_key, outcome):
            if is_shared(outcome):
                self.share(outcome, follower)
            else:
                self._later.add(follower.row_id)

    def is_of_this_run(self, intent: Intent) -> bool:
        return intent.run_id == self._terms.run_id

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
            image_ref=tuple(map(redact_reference, row.images)),
        )
        if terms.purpose is Purpose.REDO:
            self.counts.redo_failed(failed)
            return
        if terms.is_trial or not self._store.file(failed):
            self.counts.failed(failed)
        if self.counts.images_missing(row) or fault.kind == ImageUnreachable.kind:
            self._away.append(failed)

    def keep_failed(self, row_id: str, request_key: str, skip_key: str) -> None:
        """Keep a failed row as an earlier run left it, under today's ``skip_key``."""
        self._store.keep_failed(row_id, request_key, skip_key)

    def spare_missing(self) -> None:
        """Count the failures toward no quarantine if most local images are missing: their folder is away."""
        away, self._away = self._away, []
        counters = self.counts.counters
        if counters.images_missing <= counters.images_found or self._terms.is_trial:
            return
        for failed in away:
            self.counts.no_quarantine(failed)
            spared = replace(failed, runs_failed=failed.runs_failed - 1, quarantined=False)
            self._store.file(spared, is_correction=True)

    def share(self, outcome: Outcome, follower: Request) -> None:
        """Give a row the outcome of an identical request. Nothing is sent for it."""
        terms = self._terms
        own = shared(outcome, follower, terms.keep_names, terms.run_id, terms.now())
        if isinstance(own, Completed):
            self._store.share(own)
        elif follower.is_redo:
            self.counts.redo_failed(own)
        elif not self._store.file(own):
            self.counts.failed(own)

    async def read_answers(self, request_keys: Set[str]) -> dict[str, list[Completed]]:
        """Read the completed rows of the requests from the disk."""
        return await self._store.answers(request_keys, self._offload)
