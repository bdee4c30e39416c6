"""The end of an attempt: classify its raw answer, tell the budget about it, and settle its lease.

Rule: only exchanges whose raw answer is durable come here (P3).
"""

from __future__ import annotations

import random
from collections.abc import Callable

from batchvision.errors import AuthenticationFailed, BatchvisionError, StopRun, Transient, shows_access
from batchvision.limits import Budget, Lease
from batchvision.providers import RateSigns, ResponseForm
from batchvision.records import AttemptState, Estimate, Exchange, RawAnswer, Usage
from batchvision.runner.classify import Classification, Classifier
from batchvision.runner.provider_calls import ProviderCalls, SentAs
from batchvision.stopping import StopSignal


class Settlement:
    """``learn`` takes the usage of an answer and the estimate of its request."""

    def __init__(
        self,
        provider: ProviderCalls,
        classifier: Classifier,
        budget: Budget,
        stop: StopSignal,
        learn: Callable[[Usage, Estimate | None], None],
        rng: random.Random,
    ) -> None:
        self._provider = provider
        self._classifier = classifier
        self._budget = budget
        self._stop = stop
        self._learn = learn
        self._random = rng

    def settle(
        self, exchange: Exchange, lease: Lease, asked: Estimate | None, form: ResponseForm | None = None
    ) -> Classification:
        """``form``: the response form of the request; None for a ticket."""
        raw = exchange.answer
        classification = self._classifier.classify(exchange, self._random.random())
        is_refused_form = form is not None and self._provider.forms.has_left(form, raw, classification.error)
        error = None if is_refused_form else classification.error  # a refused form is no outage, whatever its status
        self.observe(error, raw, None if exchange.ticket else lease.departed_at)
        if classification.attempt.state in (AttemptState.AMBIGUOUS, AttemptState.LOST_AFTER_READ):
            lease.keep()
        elif _is_free(raw, classification):
            lease.void()
        else:
            usage = classification.attempt.answer.usage
            lease.settle(usage)
            if usage.cost_source != "cached":  # an answer from a cache reports no tokens
                self._learn(usage, asked)
        if not is_refused_form:
            return classification
        retried = classification.attempt._replace(state=AttemptState.RETRIED)
        return classification._replace(attempt=retried, outcome=None).again_at_once()

    def observe(
        self, error: BatchvisionError | None, raw: RawAnswer | None = None, departed_at: float | None = None
    ) -> None:
        """Tell the budget how a request or a poll ended. Stop the run when the provider stays away too long."""
        signs: RateSigns | None = self._provider.dialect.limits(raw) if raw else None
        if reason := self._budget.observe(error, signs, departed_at):
            self._stop.request(reason)

    async def with_new_key(self, classification: Classification, sent_as: SentAs) -> Classification:
        """Send the request again if its key has expired and there is a new one."""
        error, key = classification.error, self._provider.key
        if shows_access(error):
            key.answered(sent_as.generation)
        if not isinstance(error, AuthenticationFailed) or not error.is_certain:
            return classification
        try:
            is_renewed = await key.renew(sent_as.generation, error)
        except AuthenticationFailed as reason:
            self._stop.request(reason)
            return classification._replace(step=None)
        return classification.again_at_once() if is_renewed else classification


def _is_free(raw: RawAnswer | None, classification: Classification) -> bool:
    """Whether the provider refused the request or failed before it made an answer; a 200 may hold such an error."""
    if raw is None or raw.status >= 300:
        return True
    return (
        isinstance(classification.error, Transient | StopRun) and classification.attempt.answer.usage.cost_ticks is None
    )
