"""One attempt: lease, intent durable, send under a deadline, raw answer durable, settle, book.

Every request that leaves, first or repeated, in any lane, leaves through here; so does every read of a ticket. The
order of the lines in :meth:`Exchanges.ask` and :meth:`Exchanges.collect` *is* promises P1 to P4.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from batchvision.checkpoint import Carried, RowIndex, Store, is_unclear, masked_answer
from batchvision.errors import (
    AuthenticationFailed,
    BatchvisionError,
    ImageUnreachable,
    NoWayToProvider,
    ProviderRefuses,
    RowFault,
    ServerError,
    StopRun,
    Transient,
    shows_access,
)
from batchvision.http import ProviderClient
from batchvision.keys import row_digest
from batchvision.limits import Budget, Lease
from batchvision.money import Spending, has_unknown_cost
from batchvision.offload import Offload
from batchvision.prompt import names_fallback
from batchvision.providers import (
    Caching,
    Dialect,
    Gone,
    NotReady,
    RateSigns,
    Reading,
    ResponseForm,
    ResponseForms,
    SendOptions,
    TicketEnd,
)
from batchvision.records import (
    AttemptState,
    Completed,
    Counters,
    EndedWithout,
    Estimate,
    Exchange,
    Failed,
    Intent,
    Lane,
    Outcome,
    Purpose,
    RawAnswer,
    Recipe,
    Request,
    Row,
    Tries,
    Usage,
)
from batchvision.runner.classify import TICKET_LIFETIME, Classification, Classifier, shared
from batchvision.runner.key_renewal import KeyRenewal
from batchvision.runner.retry import Again
from batchvision.secrets import Secret, Secrets
from batchvision.stopping import StopSignal

POLL_TIMEOUT_SECONDS = 60.0


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for every exchange of a run."""

    run_id: str
    recipe: Recipe
    keep_names: tuple[str, ...]
    timeout_seconds: float
    stream: bool = False
    raised_max_tokens: int | None = None
    quarantine_after_runs: int = 5
    holds: bool = False  #: ``ambiguous = "hold"``: a row that may have been billed stays pending
    caching: Caching | None = None
    zone: tzinfo = UTC  #: whose days money is added up by
    prices: Mapping[str, int] = field(default_factory=dict)  #: that each intent names
    purpose: Purpose = Purpose.RUN

    @property
    def is_trial(self) -> bool:
        """Nothing of this run is published."""
        return self.purpose is Purpose.SWEEP


class EndedExchange(NamedTuple):
    """An exchange that has ended, and what that means."""

    exchange: Exchange
    classification: Classification

    def as_retried(self) -> EndedExchange:
        """The same attempt, but the row has not ended with it. One that may have been billed stays listed as such."""
        attempt = self.classification.attempt
        if attempt.state is AttemptState.FAILED:
            attempt = attempt._replace(state=AttemptState.RETRIED)
        return EndedExchange(self.exchange, self.classification._replace(attempt=attempt, outcome=None))

    def in_another_form(self) -> EndedExchange:
        """The server takes no request of this form: the row is asked again in another one, which spends no attempt."""
        tries = self.exchange.intent.tries
        again = Again(0.0, tries._replace(unspent=tries.unspent + 1))
        attempt = self.classification.attempt._replace(state=AttemptState.RETRIED)
        return EndedExchange(self.exchange, self.classification._replace(attempt=attempt, outcome=None, step=again))


class OpenTicket(NamedTuple):
    """Work the provider has accepted, with the lease that holds its money."""

    exchange: Exchange
    lease: Lease
    credentials: tuple[Secret, ...] = ()  #: of the request's image URLs, as long as this run knows them
    asked: Estimate | None = None  #: of the request, likewise


class NotYet(NamedTuple):
    """A ticket without its answer: ``error`` is set where the poll itself failed and the ticket is kept.

    ``says_failed``: the provider says that the work failed. Where that stays, the ticket ends.
    """

    error: BatchvisionError | None = None
    says_failed: bool = False
    is_unknown: bool = False  #: the place asked does not know a ticket that nobody has read: another account's


class Exchanges:
    """Makes attempts and keeps their books."""

    def __init__(
        self,
        terms: Terms,
        *,
        store: Store,
        row_index: RowIndex,
        client: ProviderClient,
        budget: Budget,
        dialect: Dialect,
        classifier: Classifier,
        counters: Counters,
        stop: StopSignal,
        offload: Offload,
        learn: Callable[[Usage, Estimate | None], None] = lambda usage, asked: None,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
        forms: ResponseForms | None = None,
        key: KeyRenewal | None = None,
    ) -> None:
        self._terms = terms
        self._forms = forms or ResponseForms(has_schema=terms.recipe.answer.schema is not None, streams=terms.stream)
        self._key = key or KeyRenewal.of_a_key_that_stays()
        self._offload = offload
        self._store = store
        self._row_index = row_index
        self._away: list[Failed] = []  # rows whose images were missing or unreachable
        self._client = client
        self._budget = budget
        self._dialect = dialect
        self._classifier = classifier
        self._counters = counters
        self._stop = stop
        self._learn = learn
        self._now = now
        self._random = rng or random.Random()
        self._sequence = 0
        #: outcomes of earlier runs' tickets: their rows may have left the manifest
        self.collected: list[Outcome] = []
        self._ambiguous_rows: set[bytes] = set()
        #: of this run
        self.spending = Spending(terms.zone)

    # ---------------------------------------------------------------------------- leases

    def lease_nowait(self, estimate: Estimate) -> Lease | None:
        return self._budget.lease_nowait(estimate)

    async def lease(self, estimate: Estimate) -> Lease:
        return await self._budget.lease(estimate)

    def adopt(self, exchange: Exchange) -> OpenTicket:
        """A ticket of an earlier run."""
        self._counters.tickets_open += 1
        return OpenTicket(exchange, self._budget.adopt(exchange.intent.bound_ticks))

    # ---------------------------------------------------------------------------- online

    async def ask(self, request: Request, tries: Tries, lease: Lease) -> EndedExchange | None:
        """One request and its answer; None where the run stopped before it left. Not booked yet: the lane decides
        whether the verdict is final."""
        with lease:
            form = self._forms.current
            generation = self._key.generation
            exchange = await self._send(request, tries, lease, Lane.ONLINE, form)
            if exchange is None:
                return None
            judged = self._settle(exchange, lease, request.estimate, form)
        return await self._with_new_key(judged, generation)

    async def _with_new_key(self, judged: EndedExchange, generation: int) -> EndedExchange:
        """Where the key has expired and there is a new one, the request is to be sent again."""
        error, classification = judged.classification.error, judged.classification
        if shows_access(error):
            self._key.answered(generation)
        if not isinstance(error, AuthenticationFailed) or not error.is_certain:
            return judged
        try:
            if not await self._key.renew(generation, error):
                return judged
        except AuthenticationFailed as reason:
            self._stop.request(reason)
            return EndedExchange(judged.exchange, classification._replace(step=None))
        tries = judged.exchange.intent.tries
        again = Again(0.0, tries._replace(unspent=tries.unspent + 1, probe=False))
        return EndedExchange(judged.exchange, classification._replace(step=again))

    async def _send(
        self, request: Request, tries: Tries, lease: Lease, lane: Lane, form: ResponseForm
    ) -> Exchange | None:
        """P2: the intent is durable before a byte leaves. P3: the raw answer is durable before anybody reads it."""
        if tries.probe is not (is_probe := self._budget.is_provider_away):
            tries = tries._replace(probe=is_probe)
        intent = self._intent(request, tries, lane)
        await self._store.intent(intent)
        if not lease.is_due:
            with self._stop.interruptible():
                await lease.departure()
        if self._stop.is_set:
            self._store.void(intent.exchange_id)
            lease.void()
            return None
        self._counters.requests_sent += 1
        self._counters.retries += tries.spent + tries.unspent > 1
        self._counters.in_flight += 1
        try:
            raw = await self._client.send(
                "POST",
                self._dialect.chat_path,
                self._dialect.body(self._terms.recipe, request.messages, self._options(tries, lane, form)),
                self._terms.timeout_seconds,
                self._headers(intent),
            )
        except Transient as error:
            return Exchange(intent, ended=EndedWithout(error.kind, str(error), self._now()))
        except NoWayToProvider as reason:
            self._stop.request(reason)
            self._counters.requests_sent -= 1
            self._store.void(intent.exchange_id)
            lease.void()
            return None
        finally:
            self._counters.in_flight -= 1
            lease.landed()
        if lane is Lane.DEFERRED:
            ticket = self._dialect.read_ticket(raw)
            if isinstance(ticket, str):
                at = self._now()
                with anyio.CancelScope(shield=True):
                    await self._store.ticket(intent.exchange_id, ticket, at)
                return Exchange(intent, ticket=ticket, ticket_at=at)
        # a cancellation from here on loses nothing: the store has the answer, and the run's end judges it
        raw = await self._store.answer(intent.exchange_id, _without(request.credentials, raw))
        return Exchange(intent, answer=raw)

    def _intent(self, request: Request, tries: Tries, lane: Lane) -> Intent:
        self._sequence += 1
        carried = self._row_index.carried(request.row_id, request.request_key)
        before = tries.spent + tries.unspent - 1 if self._terms.is_trial else 0  # trials carry nothing
        empties = 0 if self._terms.is_trial else self._row_index.empties(request.row_id, request.request_key)
        if empties > tries.empties:
            tries = tries._replace(empties=empties)
        return Intent(
            exchange_id=f"{self._terms.run_id}-{self._sequence}",
            row_id=request.row_id,
            request_key=request.request_key,
            recipe_id=self._terms.recipe.recipe_id,
            skip_key=request.skip_key,
            run_id=self._terms.run_id,
            purpose=self._terms.purpose,
            lane=lane,
            provider=self._dialect.name,
            model_requested=self._terms.recipe.model,
            attempt=carried.attempts + before + 1,
            tries=tries,
            bound_ticks=request.estimate.bound_ticks,
            cost_before_ticks=carried.cost_ticks,
            runs_failed=carried.runs_failed,
            sent_at=self._now(),
            image_ref=request.image_ref,
            image_sha256=request.image_sha256,
            keep=dict(zip(self._terms.keep_names, request.keep, strict=True)),
            has_urls=request.has_urls,
            prices=self._terms.prices,
        )

    def _headers(self, intent: Intent) -> Mapping[str, str] | None:
        caching = self._terms.caching
        if caching is None:
            return self._key.headers
        return {**caching.headers(intent.request_key, intent.tries, intent.runs_failed), **self._key.headers}

    def _options(self, tries: Tries, lane: Lane, form: ResponseForm) -> SendOptions:
        return SendOptions(
            deferred=lane is Lane.DEFERRED,
            stream=self._terms.stream and lane is Lane.ONLINE,
            max_tokens=self._terms.raised_max_tokens if tries.raised else None,
            form=form,
        )

    def _settle(
        self, exchange: Exchange, lease: Lease, asked: Estimate | None, form: ResponseForm | None = None
    ) -> EndedExchange:
        """``form``: as it was sent; None for a ticket of an earlier run."""
        classification = self._classifier.classify(exchange, self._random.random())
        signs = self._dialect.limits(exchange.answer) if exchange.answer else None
        has_left = form is not None and self._forms.has_left(form, exchange.answer, classification.error)
        error = None if has_left else classification.error  # a refused form is no outage, whatever its status
        self._observe(error, signs, None if exchange.ticket else lease.departed_at)
        if classification.attempt.state in (AttemptState.AMBIGUOUS, AttemptState.LOST_AFTER_READ):
            lease.keep()
        elif _is_free(exchange.answer, classification):
            lease.void()
        else:
            usage = classification.attempt.answer.usage
            lease.settle(usage)
            if usage.cost_source != "cached":  # an answer from a cache reports no tokens
                self._learn(usage, asked)
        judged = EndedExchange(exchange, classification)
        return judged.in_another_form() if has_left else judged

    def _observe(
        self, error: BatchvisionError | None, signs: RateSigns | None = None, departed_at: float | None = None
    ) -> None:
        if reason := self._budget.observe(error, signs, departed_at):
            self._stop.request(reason)

    # ---------------------------------------------------------------------------- deferred

    @property
    def polls_per_second(self) -> float | None:
        """How many polls the budget lets through; None: it knows no rate."""
        return self._budget.polls_per_second

    async def submit(self, request: Request, tries: Tries, lease: Lease) -> OpenTicket | EndedExchange | None:
        """Hand one request in; None where the run stopped before it left. With a ticket the lease stays open."""
        try:
            form, generation = self._forms.current, self._key.generation
            exchange = await self._send(request, tries, lease, Lane.DEFERRED, form)
        except BaseException:  # cancelled on the wire: the provider may have accepted it
            lease.keep()
            raise
        if exchange is None:
            return None
        if exchange.ticket is None:
            return await self._with_new_key(self._settle(exchange, lease, request.estimate, form), generation)
        self._forms.answered(form)
        self._key.answered(generation)
        self._observe(None, departed_at=lease.departed_at)
        self._counters.tickets_open += 1
        return OpenTicket(exchange, lease, request.credentials, request.estimate)

    async def collect(self, ticket: OpenTicket, *, has_stayed: bool = False) -> EndedExchange | NotYet:
        """Ask for a ticket's answer. ``has_stayed``: it has failed for so long that one more failure ends it.

        P4: from the moment the read is on the wire until its bytes are durable, no cancellation: the provider gives
        the answer once.
        """
        exchange, lease, credentials, asked = ticket
        if exchange.ticket is None:
            raise RuntimeError("an exchange without a ticket was polled")
        await self._budget.admit_poll()
        await checkpoint_if_cancelled()  # where a ticket is always due, a poller waits behind shields only
        generation, exchange_id = self._key.generation, exchange.intent.exchange_id
        with anyio.CancelScope(shield=True):
            self._store.poll_begins(exchange_id)
            try:
                raw = await self._client.send(
                    "GET", self._dialect.ticket_path(exchange.ticket), None, POLL_TIMEOUT_SECONDS, self._key.headers
                )
            except Transient as error:
                self._store.poll_ends(exchange_id, may_be_read=error.maybe_billed)
                self._observe(error)
                return NotYet(error)
            # a cut answer, and a gateway's 5xx, may have taken it
            self._store.poll_ends(exchange_id, may_be_read=raw.status == 200 or raw.status >= 500)
            if raw.status in (200, 202):
                self._key.answered(generation)
            if self._is_unknown_here(exchange, raw):
                return NotYet(is_unknown=True)
            end = self._dialect.ticket_end(raw)
            is_the_end = end is TicketEnd.YES or (end is TicketEnd.IF_IT_STAYS and has_stayed)
            if is_the_end:
                raw = await self._store.answer(exchange_id, _without(credentials, raw))
        if is_the_end:
            self._counters.tickets_open -= 1
            return self._settle(exchange._replace(answer=raw), lease, asked)
        if end is TicketEnd.IF_IT_STAYS:  # of this ticket alone: no sign that the provider is away
            return NotYet(self._dialect.read(raw).error, says_failed=True)
        try:
            return self._not_yet(raw, self._dialect.read_poll(raw))
        except AuthenticationFailed as error:
            if await self._key.renew(generation, error):
                return NotYet(error)
            raise

    def _is_unknown_here(self, exchange: Exchange, raw: RawAnswer) -> bool:
        """Whether a 404 says nothing of the work: no poll can have read the ticket, and its lifetime is not over."""
        age = raw.received_at - exchange.accepted_at
        is_known = raw.status not in (404, 410) or age >= TICKET_LIFETIME
        return not is_known and self._store.is_unread(exchange.intent.exchange_id)

    def _not_yet(self, raw: RawAnswer, reading: NotReady | Gone | Reading) -> NotYet:
        """The ticket is kept and asked again: it is not ready, or the poll failed and not the work."""
        error: BatchvisionError | None = None
        if isinstance(reading, Reading):
            error = reading.error
            if isinstance(error, StopRun) and not (isinstance(error, ProviderRefuses) and not error.is_certain):
                raise error
            if not isinstance(error, Transient):
                error = ServerError(f"HTTP {raw.status} to a poll: {error}")
        self._observe(error, self._dialect.limits(raw))
        return NotYet(error)

    # ---------------------------------------------------------------------------- books

    def of_the_row(self, judged: EndedExchange) -> EndedExchange:
        """A refusal that would stop the run, as a failure of its row."""
        return EndedExchange(judged.exchange, self._classifier.of_the_row(judged.exchange, judged.classification))

    def book(self, judged: EndedExchange) -> None:
        """Close an exchange: its attempt goes to the ledger and, where the row has ended, its outcome to the tables."""
        classification = judged.classification
        hold = self._terms.holds and is_unclear(classification)
        self._store.book(judged.exchange.intent.exchange_id, classification, hold)
        self._count(classification)
        if classification.outcome is not None and judged.exchange.intent.run_id != self._terms.run_id:
            self.collected.append(classification.outcome)
        elif isinstance(classification.outcome, Failed):
            self._count_failure(classification.outcome)
        elif isinstance(classification.outcome, Completed):
            self._count_completed(classification.outcome)

    def fail(self, row: Row, fault: RowFault, request: Request | None = None) -> None:
        """A row that failed here: its record goes to ``failures``, no attempt to the ledger. What earlier attempts of
        the same request have used up stays with the row. ``request``: the one that could not be sent again."""
        before, carried = self._row_index.failed_before(row.row_id, row.skip_key), self._carried(row, request)
        runs_failed = max(carried.runs_failed, before.runs_failed if before else 0) + 1
        failed = Failed(
            row_id=row.row_id,
            request_key=request.request_key if request else None,
            skip_key=row.skip_key,
            recipe_id=self._terms.recipe.recipe_id,
            error_kind=fault.kind,
            error_message=str(fault),
            last_error_kind=None,
            attempt_count=carried.attempts,
            row_cost_ticks=carried.cost_ticks,
            runs_failed=runs_failed,
            quarantined=runs_failed >= self._terms.quarantine_after_runs,
            last_output_text=before.last_output_text if before else None,
            failed_at=self._now(),
            run_id=self._terms.run_id,
            keep=dict(zip(self._terms.keep_names, row.keep, strict=True)),
        )
        if not self._terms.is_trial:
            self._store.file(failed)
        missing = sum(ref.size_bytes == 0 for ref in row.images)
        self._counters.images_missing += missing
        if missing or fault.kind == ImageUnreachable.kind:
            self._away.append(failed)
        self._count_failure(failed)

    def spare_missing(self) -> None:
        """Where most local images are missing the folder is away: that counts toward no row's quarantine."""
        away, self._away = self._away, []
        if self._counters.images_missing <= self._counters.images_found or self._terms.is_trial:
            return
        for failed in away:
            self._counters.rows_quarantined -= failed.quarantined
            self._store.file(replace(failed, runs_failed=failed.runs_failed - 1, quarantined=False))

    def _carried(self, row: Row, request: Request | None) -> Carried:
        return self._row_index.carried(row.row_id, request.request_key if request else row.skip_key)

    def share(self, outcome: Outcome, follower: Request) -> None:
        """The outcome of an identical request is this row's too; nothing was sent for it."""
        own = shared(outcome, follower, self._terms.keep_names, self._terms.run_id, self._now())
        if isinstance(own, Completed):
            self._store.share(own)
            self._count_completed(own)
        else:
            self._store.file(own)
            self._count_failure(own)

    async def read_answers(self, request_keys: Set[str]) -> dict[str, list[Completed]]:
        """Completed rows of these requests, from the disk."""
        return await self._store.answers(request_keys, self._offload)

    def _count(self, classification: Classification) -> None:
        counters, usage = self._counters, classification.attempt.answer.usage
        self.spending.take(classification.attempt)
        counters.prompt_tokens += usage.prompt_tokens or 0
        counters.completion_tokens += usage.completion_tokens or 0
        counters.reasoning_tokens += usage.reasoning_tokens or 0
        counters.image_tokens += usage.image_tokens or 0
        counters.cached_tokens += usage.cached_tokens or 0
        counters.cost_ticks += usage.cost_ticks or 0
        counters.unknown_cost += has_unknown_cost(classification.attempt)
        if classification.attempt.state is AttemptState.AMBIGUOUS:
            self._ambiguous_rows.add(row_digest(classification.attempt.intent.row_id, ""))
            counters.rows_ambiguous = len(self._ambiguous_rows)
            counters.ambiguous_ticks += classification.attempt.bound_ticks or 0
            counters.unbounded += classification.attempt.bound_ticks is None

    def _count_completed(self, completed: Completed) -> None:
        self._counters.rows_completed += 1
        self._counters.rows_fallback += names_fallback(self._terms.recipe.answer, completed.answer_columns)

    def _count_failure(self, failed: Failed) -> None:
        counters = self._counters
        counters.rows_failed += 1
        counters.rows_quarantined += failed.quarantined
        counters.rows_failed_at_provider += failed.at_provider
        counters.failures_by_kind[failed.error_kind] = counters.failures_by_kind.get(failed.error_kind, 0) + 1


def _is_free(raw: RawAnswer | None, classification: Classification) -> bool:
    """Refused, or failed at the provider before anything was made of it; a 200 may hold such an error too."""
    if raw is None or raw.status >= 300:
        return True
    return (
        isinstance(classification.error, Transient | StopRun) and classification.attempt.answer.usage.cost_ticks is None
    )


def _without(credentials: tuple[Secret, ...], raw: RawAnswer) -> RawAnswer:
    """The answer without what would open the row's images to its readers, should it repeat their URLs."""
    return masked_answer(raw, Secrets(*credentials, of_one_answer=True)) if credentials else raw
