"""The exchanges of the batch lane: enrolled in a submission, then answered or withdrawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from batchvision.checkpoint import Store, Submission
from batchvision.errors import BatchvisionError
from batchvision.limits import Permits
from batchvision.providers import BatchDialect, BatchResult, ResponseForm
from batchvision.records import EndedWithout, Intent, Lane, Request, Tries
from batchvision.runner.booking import RunCounts
from batchvision.runner.classify import Classification
from batchvision.runner.exchange import Intents, Settlement
from batchvision.runner.provider_calls import ProviderCalls


class Enrolled(NamedTuple):
    """A request of a submission that is being filled. ``line``: its line in the input file."""

    exchange_id: str
    line: bytes
    is_retry: bool


class BatchExchanges:
    """Makes, answers and withdraws the exchanges of submissions. An exchange's id is its id in the batch."""

    def __init__(
        self,
        dialect: BatchDialect,
        provider: ProviderCalls,
        intents: Intents,
        store: Store,
        permits: Permits,
        settlement: Settlement,
        counts: RunCounts,
    ) -> None:
        self.permits = permits
        self._dialect = dialect
        self._provider = provider
        self._intents = intents
        self._store = store
        self._settlement = settlement
        self._counts = counts

    # ---------------------------------------------------------------------------- submissions

    @property
    def submissions(self) -> Mapping[str, Submission]:
        return self._store.submissions.open

    async def note(self, submission: Submission) -> None:
        """Return when the step is durable, and every intent of the submission (P2). Raises StopRun."""
        await self._store.submissions.note(submission)

    def end(self, submission_id: str) -> None:
        self._store.submissions.end(submission_id)

    def submitted(self, requests: int, retries: int) -> None:
        self._counts.submitted(requests, retries)

    # ---------------------------------------------------------------------------- requests

    def body(self, request: Request, tries: Tries) -> bytes:
        form: ResponseForm = self._provider.forms.current
        return self._provider.body(request.messages, form, Lane.BATCH, tries)

    def enroll(self, request: Request, tries: Tries, submission_id: str, body: bytes) -> Enrolled:
        """Note the request as a member of a submission. Its money was reserved by a permit, which stays open."""
        intent = self._intents.new(request, tries, Lane.BATCH)
        self._store.submissions.enroll(intent, submission_id)
        line = self._dialect.line(intent.exchange_id, body)
        return Enrolled(intent.exchange_id, line, tries.spent + tries.unspent > 1)

    def intent(self, exchange_id: str) -> Intent:
        return self._store.exchange(exchange_id).intent

    def submission_of(self, exchange_id: str) -> str:
        """The submission_id of an open exchange."""
        ticket = self._store.exchange(exchange_id).ticket
        if ticket is None:
            raise RuntimeError(f"exchange {exchange_id} is in no submission")
        return ticket

    def leave_open(self, exchange_id: str) -> None:
        """Leave the exchange for another run. Its bound counts as spent."""
        self.permits.of_ticket(self.intent(exchange_id).bound_ticks, 0.0).keep()

    def end_without_members(self) -> None:
        """End the submissions that a crash has left without an open exchange."""
        self._store.submissions.end_without_members()

    def withdraw(self, exchange_id: str) -> Intent:
        """The provider never had the request: it costs nothing, and its row is pending."""
        intent = self.intent(exchange_id)
        self._store.void(exchange_id)
        self.permits.of_ticket(intent.bound_ticks, 0.0).void()
        return intent

    async def answered(self, exchange_id: str, result: BatchResult) -> Classification:
        """Make the answer durable (P3), then classify it."""
        if result.answer is None:
            return self.ended(exchange_id, result.error)
        exchange = self._store.exchange(exchange_id)
        raw = await self._store.answer(exchange_id, result.answer)
        permit = self.permits.of_ticket(exchange.intent.bound_ticks, 0.0)
        return self._settlement.settle(exchange._replace(answer=raw), permit, None)

    def ended(self, exchange_id: str, error: BatchvisionError | None) -> Classification:
        """The request has ended without an answer."""
        exchange = self._store.exchange(exchange_id)
        kind, message = ("interrupted", "no answer") if error is None else (error.kind, str(error))
        exchange = exchange._replace(ended=EndedWithout(kind, message, self._provider.now()))
        permit = self.permits.of_ticket(exchange.intent.bound_ticks, 0.0)
        return self._settlement.settle(exchange, permit, None)
