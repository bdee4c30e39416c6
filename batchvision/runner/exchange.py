"""One attempt: intent durable, send under a deadline, raw answer durable, settle. And each poll of a ticket.

The order of the lines in :meth:`Exchanges.send` and :meth:`Exchanges.collect` is what keeps promises P1 to P4.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from batchvision.checkpoint import RowIndex, Store, masked_answer
from batchvision.errors import (
    AuthenticationFailed,
    BatchvisionError,
    NoWayToProvider,
    ProviderRefuses,
    ServerError,
    StopRun,
    Transient,
)
from batchvision.limits import Permit, Permits
from batchvision.providers import Gone, NotReady, RateSigns, Reading, ResponseForm, TicketEnd
from batchvision.records import (
    AttemptState,
    EndedWithout,
    Estimate,
    Exchange,
    Intent,
    Lane,
    Purpose,
    RawAnswer,
    Request,
    Tries,
    Usage,
)
from batchvision.runner.booking import RunCounts
from batchvision.runner.classify import Classification, Classifier
from batchvision.runner.provider_calls import ProviderCalls, SentAs, Terms
from batchvision.secrets import Secret, Secrets
from batchvision.stopping import StopSignal

#: The token counts of images are learned from so many open tickets. Estimates of more would only take memory.
MOST_ESTIMATES = 500


class OpenTicket(NamedTuple):
    """Work that the provider has accepted. The store has its exchange, and the spend cap holds its money."""

    exchange_id: str
    tokens: float = 0.0  #: that its request was admitted with


class StillOpen(NamedTuple):
    """A ticket without its answer. ``error`` is set if the poll itself failed."""

    error: BatchvisionError | None = None
    says_failed: bool = False  #: the provider reports that the work failed; a ticket that stays so ends
    is_unknown: bool = False  #: this provider and account do not know a ticket that was never read


class Intents:
    """Makes the intents of a run: numbers them, and adds what earlier attempts of the request used up."""

    def __init__(self, terms: Terms, row_index: RowIndex, provider: ProviderCalls) -> None:
        self._terms = terms
        self._row_index = row_index
        self._provider = provider
        self._sequence = 0

    def new(self, request: Request, tries: Tries, lane: Lane) -> Intent:
        self._sequence += 1
        terms = self._terms
        carried = self._row_index.carried(request.row_id, request.request_key)
        before = tries.spent + tries.unspent - 1 if terms.is_trial else 0  # trials carry nothing
        if carried.empties > tries.empties and not terms.is_trial:
            tries = tries._replace(empties=carried.empties)
        if carried.raised and request.raised_estimate is not None and not terms.is_trial:
            tries = tries._replace(raised=True)
        return Intent(
            exchange_id=f"{terms.run_id}-{self._sequence}",
            row_id=request.row_id,
            request_key=request.request_key,
            recipe_id=terms.recipe.recipe_id,
            skip_key=request.skip_key,
            run_id=terms.run_id,
            lane=lane,
            provider=self._provider.dialect.name,
            model_requested=terms.recipe.model,
            attempt=carried.attempts + before + 1,
            tries=tries,
            bound_ticks=request.estimate.bound_ticks,
            cost_before_ticks=carried.cost_ticks,
            runs_failed=carried.runs_failed,
            sent_at=self._provider.now(),
            image_ref=request.image_ref,
            image_sha256=request.image_sha256,
            keep=dict(zip(terms.keep_names, request.keep, strict=True)),
            has_urls=request.has_urls,
            prices=terms.prices,
            purpose=Purpose.REDO if request.is_redo else terms.purpose,
        )


class Settlement:
    """``learn`` takes the usage of an answer, the estimate of its request, and the service tier that it names."""

    def __init__(
        self,
        provider: ProviderCalls,
        classifier: Classifier,
        permits: Permits,
        stop: StopSignal,
        learn: Callable[[Usage, Estimate | None, str | None], None],
        rng: random.Random,
    ) -> None:
        self._provider = provider
        self._classifier = classifier
        self._permits = permits
        self._stop = stop
        self._learn = learn
        self._random = rng

    def settle(
        self, exchange: Exchange, permit: Permit, asked: Estimate | None, form: ResponseForm | None = None
    ) -> Classification:
        """``form``: the response form of the request; ``None`` for a ticket."""
        raw = exchange.answer
        classification = self._classifier.classify(exchange, self._random.random())
        is_refused_form = form is not None and self._provider.forms.has_left(form, raw, classification.error)
        error = None if is_refused_form else classification.error  # a refused form is no outage
        if exchange.intent.lane is not Lane.BATCH:  # its answers say nothing about the way to the provider
            self.observe(error, raw, None if exchange.ticket else permit.slot.sent_at)
        usage = classification.attempt.answer.usage
        is_failed = isinstance(classification.error, Transient | StopRun)  # a 200 may hold an error too
        if classification.attempt.state in (AttemptState.AMBIGUOUS, AttemptState.LOST_AFTER_READ):
            permit.keep()
        elif raw is None or raw.status >= 300 or (is_failed and usage.cost_ticks is None):
            permit.void()  # the provider refused the request, or failed before it made an answer
        else:
            permit.settle(usage)
            if usage.cost_source != "cached":  # an answer from a cache reports no tokens
                self._learn(usage, asked, classification.attempt.answer.service_tier)
        if not is_refused_form:
            return classification
        retried = classification.attempt._replace(state=AttemptState.RETRIED)
        return classification._replace(attempt=retried, outcome=None).again_at_once()

    def observe(
        self, error: BatchvisionError | None, raw: RawAnswer | None = None, departed_at: float | None = None
    ) -> None:
        """Tell the rate limiter how a request or a poll ended. Stop the run when the provider stays away too long."""
        signs: RateSigns | None = self._provider.dialect.limits(raw) if raw else None
        if signs is not None:
            self._permits.rate.learn(signs)
        if reason := self._permits.rate.observe(error, departed_at):
            self._stop.request(reason)

    async def with_new_key(self, classification: Classification, sent_as: SentAs) -> Classification:
        """Send the request again if its key has expired and there is a new one."""
        error, key = classification.error, self._provider.key
        if error is None or error.shows_access:
            key.answered(sent_as.generation)
        if not isinstance(error, AuthenticationFailed) or not error.is_certain:
            return classification
        try:
            is_renewed = await key.renew(sent_as.generation, error)
        except AuthenticationFailed as reason:
            self._stop.request(reason)
            return classification._replace(step=None)
        return classification.again_at_once() if is_renewed else classification


class Exchanges:
    """Makes attempts. Every request and every poll of a run, in each lane, goes through here."""

    def __init__(
        self,
        intents: Intents,
        provider: ProviderCalls,
        store: Store,
        permits: Permits,
        settlement: Settlement,
        counts: RunCounts,
        stop: StopSignal,
    ) -> None:
        self.permits = permits
        self._intents = intents
        self._provider = provider
        self._store = store
        self._settlement = settlement
        self._counts = counts
        self._stop = stop
        self._estimates: dict[str, Estimate] = {}  # of some open tickets, by exchange_id
        self._credentials: dict[str, tuple[Secret, ...]] = {}  # of the image URLs of open tickets that have any

    # ---------------------------------------------------------------------------- requests

    async def send(
        self, request: Request, tries: Tries, permit: Permit, lane: Lane
    ) -> Classification | OpenTicket | None:
        """Make one attempt. ``None``: the run stopped before the request left.

        The classification is not booked: the lane decides whether it is final. The permit of a ticket stays open.
        Raises DiskFailed, OutputHeld, NoWayToProvider.
        """
        sent_as = SentAs(self._provider.forms.current, self._provider.key.generation)
        try:
            intent = self._intents.new(request, tries._replace(probe=self.permits.rate.is_provider_down), lane)
            await self._store.intent(intent)  # P2: durable before a byte leaves
            with self._stop.interruptible():
                await permit.slot.wait()
            self._store.check_lock()  # the wait may have been long
            if self._stop.is_set:
                self._void(intent, permit)
                return None
            exchange = await self._on_the_wire(intent, request, sent_as.form, permit)
            if exchange.ticket is None:
                classification = self._settlement.settle(exchange, permit, request.estimate, sent_as.form)
        except BaseException:  # cancelled on the wire: the provider may have accepted the request
            permit.keep()
            raise
        if exchange.ticket is None:
            return await self._settlement.with_new_key(classification, sent_as)
        self._provider.forms.answered(sent_as.form)
        self._provider.key.answered(sent_as.generation)
        self._settlement.observe(None, departed_at=permit.slot.sent_at)
        return self._parked(intent.exchange_id, request, permit)

    async def _on_the_wire(self, intent: Intent, request: Request, form: ResponseForm, permit: Permit) -> Exchange:
        """Send the request, and make its ticket (P2) or its raw answer (P3) durable before it is read."""
        self._counts.sent(intent.tries)
        try:
            raw = await self._provider.send(intent, request.messages, form)
        except Transient as error:
            return Exchange(intent, ended=EndedWithout(error.kind, str(error), self._provider.now()))
        except NoWayToProvider:
            self._counts.not_sent()
            self._void(intent, permit)
            raise
        finally:
            self._counts.landed()
            permit.slot.release()  # the permit ends when the cost is known
        if intent.lane is Lane.DEFERRED:
            ticket = self._provider.dialect.read_ticket(raw)
            if isinstance(ticket, str):
                at = self._provider.now()
                with anyio.CancelScope(shield=True):
                    await self._store.ticket(intent.exchange_id, ticket, at)
                return Exchange(intent, ticket=ticket, ticket_at=at)
        # a cancellation from here on loses nothing: the store has the answer, and the end of the run classifies it
        raw = _without(request.credentials, raw) if request.credentials else raw
        raw = await self._store.answer(intent.exchange_id, raw)
        return Exchange(intent, answer=raw)

    def _void(self, intent: Intent, permit: Permit) -> None:
        """The request did not leave."""
        self._store.void(intent.exchange_id)
        permit.void()

    # ---------------------------------------------------------------------------- tickets

    def _parked(self, exchange_id: str, request: Request, permit: Permit) -> OpenTicket:
        """Make a ticket of an accepted request. Keep what the answer needs and the journal does not have."""
        if len(self._estimates) < MOST_ESTIMATES:
            self._estimates[exchange_id] = request.estimate
        if request.credentials:
            self._credentials[exchange_id] = request.credentials
        return OpenTicket(exchange_id, permit.slot.tokens)

    def adopt(self, exchange_id: str) -> Exchange:
        """Take a ticket of an earlier run."""
        exchange = self._store.exchange(exchange_id)
        self._counts.ticket_adopted()
        self.permits.adopt(exchange.intent.bound_ticks)
        return exchange

    def sent_at(self, ticket: OpenTicket) -> datetime:
        return self._store.exchange(ticket.exchange_id).intent.sent_at

    def leave_open(self, ticket: OpenTicket) -> None:
        """Leave a ticket for another run. Its bound counts as spent, so that no request waits for its money."""
        intent = self._store.exchange(ticket.exchange_id).intent
        self.permits.of_ticket(intent.bound_ticks, ticket.tokens).keep()

    async def collect(self, ticket: OpenTicket, *, has_stayed: bool = False) -> Classification | StillOpen:
        """Poll a ticket. ``has_stayed``: it has failed for so long that one more failure ends it.

        P4: the provider gives the answer once. So nothing cancels the time between the read and its durable bytes.
        """
        exchange_id = ticket.exchange_id
        exchange = self._store.exchange(exchange_id)
        if exchange.ticket is None:
            raise RuntimeError("an exchange without a ticket was polled")
        await self.permits.rate.acquire_poll()
        await self._store.outlasts(exchange.intent.exchange_id)
        await checkpoint_if_cancelled()  # without it a poller with a due ticket could only be cancelled behind a shield
        generation = self._provider.key.generation
        with anyio.CancelScope(shield=True):
            self._store.polls.begin(exchange_id)
            try:
                raw = await self._provider.poll(exchange.ticket)
            except Transient as error:
                self._store.polls.end(exchange_id, may_be_read=error.maybe_billed)
                self._settlement.observe(error)
                return StillOpen(error)
            # a truncated answer and a gateway's 5xx may have taken the one-time answer
            self._store.polls.end(exchange_id, may_be_read=raw.status == 200 or raw.status >= 500)
            if raw.status in (200, 202):
                self._provider.key.answered(generation)
            if self._is_unknown_here(exchange, raw):
                return StillOpen(is_unknown=True)
            end = self._provider.dialect.ticket_end(raw)
            has_ended = end is TicketEnd.YES or (end is TicketEnd.IF_IT_STAYS and has_stayed)
            if has_ended:
                credentials = self._credentials.pop(exchange_id, ())
                raw = _without(credentials, raw) if credentials else raw
                raw = await self._store.answer(exchange_id, raw)
        if has_ended:
            permit = self.permits.of_ticket(exchange.intent.bound_ticks, ticket.tokens)
            asked = self._estimates.pop(exchange_id, None)
            return self._settlement.settle(exchange._replace(answer=raw), permit, asked)
        if end is TicketEnd.IF_IT_STAYS:  # of this ticket alone: no sign that the provider is away
            return StillOpen(self._provider.dialect.read(raw).error, says_failed=True)
        try:
            return self._still_open(raw, self._provider.dialect.read_poll(raw))
        except AuthenticationFailed as error:
            if await self._provider.key.renew(generation, error):
                return StillOpen(error)
            raise

    def _is_unknown_here(self, exchange: Exchange, raw: RawAnswer) -> bool:
        """Whether a 404 means another account: no poll can have read the ticket, and its lifetime is not over."""
        age = raw.received_at - exchange.accepted_at
        is_known = raw.status not in (404, 410) or age >= self._provider.dialect.ticket_lifetime
        return not is_known and self._store.is_unread(exchange.intent.exchange_id)

    def _still_open(self, raw: RawAnswer, reading: NotReady | Gone | Reading) -> StillOpen:
        """The ticket is not ready, or the poll failed and not the work. Raises StopRun."""
        error: BatchvisionError | None = None
        if isinstance(reading, Reading):
            error = reading.error
            if isinstance(error, StopRun) and not (isinstance(error, ProviderRefuses) and not error.is_certain):
                raise error
            if not isinstance(error, Transient):
                error = ServerError(f"HTTP {raw.status} to a poll: {error}")
        self._settlement.observe(error, raw)
        return StillOpen(error)


def _without(credentials: tuple[Secret, ...], raw: RawAnswer) -> RawAnswer:
    """Mask the credentials of the row's image URLs, which an answer may repeat."""
    return masked_answer(raw, Secrets(*credentials, of_one_answer=True))
