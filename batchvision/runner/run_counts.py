"""The counters of a run: a projection of the events of its rows. Only this module writes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, tzinfo

from batchvision.keys import row_digest
from batchvision.money import Spending, has_unknown_cost
from batchvision.prompt import names_fallback
from batchvision.records import (
    AnswerSpec,
    Attempt,
    AttemptState,
    Completed,
    Counters,
    Failed,
    ImageKind,
    Intent,
    Outcome,
    Row,
    Tries,
)
from batchvision.runner.feed import FeedBatch


class RunCounts:
    """Takes one event a call. ``counters`` and ``spending`` are for readers."""

    def __init__(self, answer: AnswerSpec | None = None, zone: tzinfo = UTC) -> None:
        self.counters = Counters()
        self.spending = Spending(zone)
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

    def not_sent(self) -> None:
        """Take back a request that found no way to the provider."""
        self.counters.requests_sent -= 1

    def ticket_opened(self) -> None:
        self.counters.tickets_open += 1

    def ticket_closed(self) -> None:
        self.counters.tickets_open -= 1

    # ---------------------------------------------------------------------------- ends

    def attempt(self, attempt: Attempt) -> None:
        """Add up the tokens and the cost of an attempt."""
        counters, usage = self.counters, attempt.answer.usage
        self.spending.take(attempt)
        counters.prompt_tokens += usage.prompt_tokens or 0
        counters.completion_tokens += usage.completion_tokens or 0
        counters.reasoning_tokens += usage.reasoning_tokens or 0
        counters.image_tokens += usage.image_tokens or 0
        counters.cached_tokens += usage.cached_tokens or 0
        counters.cost_ticks += usage.cost_ticks or 0
        counters.unknown_cost += has_unknown_cost(attempt)
        if attempt.state is AttemptState.AMBIGUOUS:
            self._ambiguous(attempt.intent, attempt.bound_ticks)

    def _ambiguous(self, intent: Intent, bound_ticks: int | None) -> None:
        self._ambiguous_rows.add(row_digest(intent.row_id, ""))
        self.counters.rows_ambiguous = len(self._ambiguous_rows)
        self.counters.ambiguous_ticks += bound_ticks or 0
        self.counters.unbounded += bound_ticks is None

    def outcome(self, outcome: Outcome) -> None:
        """Count a row that has ended in this run."""
        counters = self.counters
        if isinstance(outcome, Completed):
            counters.rows_completed += 1
            counters.rows_fallback += names_fallback(self._answer, outcome.answer_columns)
            return
        counters.rows_failed += 1
        counters.rows_quarantined += outcome.quarantined
        counters.rows_failed_at_provider += outcome.at_provider
        counters.failures_by_kind[outcome.error_kind] = counters.failures_by_kind.get(outcome.error_kind, 0) + 1

    def no_quarantine(self, failed: Failed) -> None:
        """Take back the quarantine of a row that failed because the folder of images is away."""
        self.counters.rows_quarantined -= failed.quarantined

    def end(self, collected: Iterable[Completed], failures: Sequence[Failed]) -> None:
        """Count the collected answers of rows in the manifest, and the rows that are failed now."""
        self.counters.rows_completed += sum(1 for _ in collected)
        self.counters.rows_failed = len(failures)

    def other_kept_cells(self, rows: int) -> None:
        self.counters.rows_with_other_kept_cells = rows
