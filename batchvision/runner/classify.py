"""Classify an exchange: its line in the ledger, the outcome of its row, and the next step.

Pure and deterministic: live answers and those of a journal are classified alike. The raw answers are durable already
(P3), so an error in this module loses no answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NamedTuple

from batchvision import providers
from batchvision import ticks as money
from batchvision.errors import (
    ROW_FAULTS,
    TRANSIENTS,
    AttemptsExhausted,
    BatchvisionError,
    Expired,
    InvalidAnswer,
    LostAfterRead,
    ProviderRefuses,
    RequestRejected,
    RowFault,
    StopRun,
    Transient,
    Truncated,
)
from batchvision.prompt import REASONING_COLUMN, check_answer, thoughts_in
from batchvision.providers import Dialect, Gone, Reading, is_aborted_stream
from batchvision.records import (
    Answer,
    Attempt,
    AttemptState,
    Completed,
    EndedWithout,
    Exchange,
    Failed,
    Intent,
    Lane,
    Outcome,
    Purpose,
    RawAnswer,
    Recipe,
    Request,
    Usage,
)
from batchvision.runner.retry import Again, GiveUp, RetryPolicy, Stop, decide
from batchvision.ticks import Prices

#: The ``error_kind`` of an attempt that was cut off by the end of its run.
INTERRUPTED = "interrupted"

MOST_MESSAGE_CHARS = 500

#: The Python server of llama.cpp ends a stream early when another request arrives.
_GIVEN_UP = (
    "the stream ended without a finish_reason: the server gives an answer up when another request comes. Set "
    "limits.concurrency to 1, or delivery.stream to false"
)


class Classification(NamedTuple):
    """The meaning of an attempt. A row without an ``outcome`` has not ended; ``step`` is its next step.

    ``error`` is the error of this attempt. The error of the outcome may sum up several (AttemptsExhausted).
    """

    attempt: Attempt
    outcome: Outcome | None
    step: Again | Stop | None = None
    error: BatchvisionError | None = None

    @property
    def exchange(self) -> Exchange:
        return self.attempt.exchange

    @property
    def intent(self) -> Intent:
        return self.attempt.exchange.intent

    def as_retried(self) -> Classification:
        """The same attempt of a row that has not ended. An ambiguous attempt stays ambiguous."""
        attempt = self.attempt
        if attempt.state is AttemptState.FAILED:
            attempt = attempt._replace(state=AttemptState.RETRIED)
        return self._replace(attempt=attempt, outcome=None)

    def again_at_once(self) -> Classification:
        """The request is sent again in another form or under a new key, which spends no attempt."""
        tries = self.intent.tries
        return self._replace(step=Again(0.0, tries._replace(unspent=tries.unspent + 1, probe=False)))


class Classifier:
    """Classifies exchanges.

    ``recipes``: by recipe_id, because an exchange may belong to an earlier recipe than the job's. ``prices`` are
    today's prices of the model in ``asked``, or of every model without ``asked``. They serve only journals that do not
    record the prices of each intent.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe] | Callable[[str], Recipe],
        policy: RetryPolicy,
        prices: Prices | None = None,
        dialects: Callable[[str], Dialect] = providers.dialect,
        asked: Recipe | None = None,
        keep_reasoning: bool = False,
    ) -> None:
        self._recipe = recipes.__getitem__ if isinstance(recipes, Mapping) else recipes
        self._policy = policy
        self._prices = prices
        self._dialect = dialects
        self._asked = asked
        self._keep_reasoning = keep_reasoning

    def classify(self, exchange: Exchange, jitter: float = 0.0) -> Classification:
        """Classify ``exchange``. ``jitter`` in [0, 1) changes only the delay of a retry."""
        raw = exchange.answer
        if raw is None:
            return self._without_answer(exchange, jitter)
        reading = self._read(exchange, raw)
        answer, thoughts = reading.answer, reading.answer.reasoning_text
        if thoughts is not None:  # long, and kept only in a column of its own
            answer = answer._replace(reasoning_text=None)
        if answer.usage.cost_ticks is None:
            prices, images = self._prices_of(exchange.intent), len(exchange.intent.image_ref)
            tier = money.BATCH if exchange.intent.lane is Lane.BATCH else answer.service_tier
            answer = answer._replace(usage=money.with_cost(answer.usage, prices, images, tier))
        if reading.error is not None:
            return self._failing(exchange, answer, reading.error, jitter)
        try:
            return self._completed(exchange, raw, answer, thoughts)
        except InvalidAnswer as error:
            return self._failing(exchange, answer, error, jitter)

    def of_the_row(self, classification: Classification) -> Classification:
        """A refusal of the whole run as the failure of its row, after other rows were answered."""
        error = classification.error
        if not isinstance(error, ProviderRefuses):
            raise RuntimeError("only a refusal of the run can be made one of its row")
        fault = RequestRejected(f"{error.what}; other rows are answered with the same key, this one is refused")
        attempt = classification.attempt
        if attempt.state is AttemptState.RETRIED:
            attempt = attempt._replace(state=AttemptState.FAILED)
        return Classification(attempt, self._failed(classification.exchange, attempt.answer, error, fault), None, error)

    # ------------------------------------------------------------------------------ an answer

    def _prices_of(self, intent: Intent) -> Prices | None:
        if intent.prices is not None:
            return Prices.recorded(intent.prices) if intent.prices else None
        asked = self._asked
        if asked is None or (asked.provider, asked.model) == (intent.provider, intent.model_requested):
            return self._prices
        return money.built_in(intent.provider, intent.model_requested)

    def _read(self, exchange: Exchange, raw: RawAnswer) -> Reading:
        dialect = self._dialect(exchange.intent.provider)
        if exchange.ticket is None or exchange.intent.lane is Lane.BATCH:
            reading = dialect.read(raw)
            if reading.error is None and is_aborted_stream(raw.body):
                return reading._replace(error=Truncated(_GIVEN_UP))
            return reading
        polled = dialect.read_poll(raw)
        if isinstance(polled, Reading):
            return polled
        if isinstance(polled, Gone):
            return Reading(Answer(), _gone(exchange, raw.received_at, polled.message, dialect.ticket_lifetime))
        return dialect.read(raw)  # "not yet" is no answer: the dialect reports an error

    def _completed(self, exchange: Exchange, raw: RawAnswer, answer: Answer, thoughts: str | None) -> Classification:
        intent = exchange.intent
        recipe = self._asked
        if recipe is None or recipe.recipe_id != intent.recipe_id:
            recipe = self._recipe(intent.recipe_id)
        checked = check_answer(recipe.answer, answer.text)
        columns = checked.columns
        if self._keep_reasoning:
            columns = {**columns, REASONING_COLUMN: thoughts or thoughts_in(answer.text)}
        completed = Completed(
            intent,
            answer,
            checked.output_json,
            columns,
            row_cost_ticks=intent.cost_before_ticks + (answer.usage.cost_ticks or 0),
            finished_at=raw.received_at,
        )
        return Classification(_attempt(exchange, AttemptState.OK, answer, None), completed)

    # ------------------------------------------------------------------------------ no answer

    def _without_answer(self, exchange: Exchange, jitter: float) -> Classification:
        ended = exchange.ended
        if ended is None:
            return _interrupted(exchange, "the run ended before the answer came")
        error = _error_of(ended)
        if error is None:
            return _interrupted(exchange, ended.message)
        return self._failing(exchange, Answer(), error, jitter)

    def _failing(self, exchange: Exchange, answer: Answer, error: BatchvisionError, jitter: float) -> Classification:
        intent = exchange.intent
        if self._policy.holds and isinstance(error, Transient):
            attempt = _attempt(exchange, _state(exchange, error, answer, AttemptState.RETRIED), answer, error)
            if attempt.state is AttemptState.AMBIGUOUS:
                return Classification(attempt, None, None, error)
        match decide(error, intent.tries, self._policy, jitter, intent.has_urls):
            case GiveUp(fault):
                attempt = _attempt(exchange, _state(exchange, error, answer, AttemptState.FAILED), answer, error)
                return Classification(attempt, self._failed(exchange, answer, error, fault), None, error)
            case step:
                attempt = _attempt(exchange, _state(exchange, error, answer, AttemptState.RETRIED), answer, error)
                return Classification(attempt, None, step, error)

    def _failed(self, exchange: Exchange, answer: Answer, error: BatchvisionError, fault: RowFault) -> Failed:
        intent = exchange.intent
        runs_failed = intent.runs_failed + 1
        said_by_provider = fault is error and exchange.answer is not None
        return Failed(
            row_id=intent.row_id,
            request_key=intent.request_key,
            skip_key=intent.skip_key,
            recipe_id=intent.recipe_id,
            error_kind=fault.kind,
            error_message=_shortened(fault),
            last_error_kind=error.kind if error.kind != fault.kind else None,
            attempt_count=intent.attempt,
            row_cost_ticks=intent.cost_before_ticks + (answer.usage.cost_ticks or 0),
            runs_failed=runs_failed,
            quarantined=runs_failed >= self._policy.quarantine_after_runs,
            last_output_text=answer.text or None,
            failed_at=exchange.ended_at or intent.sent_at,
            run_id=intent.run_id,
            keep=intent.keep,
            image_ref=intent.image_ref,
            at_provider=fault.at_provider or said_by_provider,
        )


def _gone(exchange: Exchange, now: datetime, message: str, lifetime: timedelta) -> RowFault:
    """A ticket that the provider does not know: read if it is younger than the lifetime, expired otherwise."""
    age = now - exchange.accepted_at
    if age < lifetime:
        return LostAfterRead(f"ticket {exchange.ticket} is gone {age} after it was given: {message}")
    hours = lifetime.total_seconds() / 3600
    return Expired(f"ticket {exchange.ticket} is {age} old, and answers are kept for {hours:g} hours: {message}")


def _error_of(ended: EndedWithout) -> BatchvisionError | None:
    """The error that ended an exchange; ``None`` if the run was interrupted."""
    transient = TRANSIENTS.get(ended.kind)
    if transient is not None:
        return transient(ended.message)
    fault = ROW_FAULTS.get(ended.kind)
    if fault is AttemptsExhausted:
        return AttemptsExhausted(ended.message, ended.kind)
    return None if fault is None else fault(ended.message)


def _interrupted(exchange: Exchange, message: str) -> Classification:
    attempt = _attempt(exchange, AttemptState.AMBIGUOUS, Answer(), None)
    return Classification(attempt._replace(error_kind=INTERRUPTED, error_message=message), None, None, None)


def _state(exchange: Exchange, error: BatchvisionError, answer: Answer, otherwise: AttemptState) -> AttemptState:
    """Ambiguous: the attempt may have been billed at an unknown cost. A reported cost settles that."""
    if isinstance(error, LostAfterRead):
        return AttemptState.LOST_AFTER_READ
    is_in_batch = exchange.intent.lane is Lane.BATCH  # which bills the requests that it has answered
    is_deferred = exchange.ticket is not None and not is_in_batch
    maybe_billed = (
        (isinstance(error, Expired) and not is_in_batch)
        or (isinstance(error, Transient) and error.maybe_billed)
        or (is_deferred and exchange.answer is not None and exchange.answer.status >= 400)
    )
    return AttemptState.AMBIGUOUS if maybe_billed and answer.usage.cost_ticks is None else otherwise


def _attempt(exchange: Exchange, state: AttemptState, answer: Answer, error: BatchvisionError | None) -> Attempt:
    raw = exchange.answer
    may_be_billed = state in (AttemptState.AMBIGUOUS, AttemptState.LOST_AFTER_READ)
    is_answer = raw is not None and 200 <= raw.status < 300 and not isinstance(error, Transient | StopRun)
    is_unknown = may_be_billed or (is_answer and answer.usage.cost_ticks is None)
    return Attempt(
        exchange,
        answer,
        state,
        error_kind=None if error is None else error.kind,
        error_message=None if error is None else _shortened(error),
        bound_ticks=exchange.intent.bound_ticks if is_unknown else None,
    )


def _shortened(error: BatchvisionError) -> str:
    message = error.message
    return message if len(message) <= MOST_MESSAGE_CHARS else message[: MOST_MESSAGE_CHARS - 3] + "..."


# ---------------------------------------------------------------------------------- one answer for many rows


def shared(outcome: Outcome, follower: Request, keep_names: tuple[str, ...], run_id: str, now: datetime) -> Outcome:
    """The outcome of an identical request as the outcome of ``follower``, at no cost."""
    keep = dict(zip(keep_names, follower.keep, strict=True))
    match outcome:
        case Completed():
            intent = outcome.intent._replace(
                row_id=follower.row_id,
                skip_key=follower.skip_key,
                attempt=0,
                image_ref=follower.image_ref,
                image_sha256=follower.image_sha256,
                run_id=run_id,
                keep=keep,
                purpose=Purpose.REDO if follower.is_redo else Purpose.RUN,
            )
            answer = outcome.answer._replace(usage=_free(outcome.answer.usage))
            return outcome._replace(intent=intent, answer=answer, row_cost_ticks=0, updated_at=now)
        case Failed():
            return replace(
                outcome,
                row_id=follower.row_id,
                skip_key=follower.skip_key,
                error_message=f"{outcome.error_message} (asked once, for row {outcome.row_id})",
                attempt_count=0,
                row_cost_ticks=0,
                failed_at=now,
                run_id=run_id,
                keep=keep,
                at_provider=False,
            )


def _free(usage: Usage) -> Usage:
    """No usage for this row. Unknown counts of the answer stay unknown."""

    def none_used(tokens: int | None) -> int | None:
        return None if tokens is None else 0

    return Usage(
        prompt_tokens=none_used(usage.prompt_tokens),
        image_tokens=none_used(usage.image_tokens),
        cached_tokens=none_used(usage.cached_tokens),
        completion_tokens=none_used(usage.completion_tokens),
        reasoning_tokens=none_used(usage.reasoning_tokens),
        cost_ticks=0,
        cost_source="shared",
    )
