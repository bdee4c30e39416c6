"""Hold refused rows until it is clear whether the row or the run is at fault.

Rule: a held row is booked once. It fails when another row is answered, and stays pending when the run stops.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from batchvision.errors import ProviderRefuses, RequestRejected, RequestsRejected, StopRun, shows_access
from batchvision.runner.classify import Classification
from batchvision.runner.refusals import SAME_REFUSALS, Meaning, Refusals
from batchvision.runner.retry import Stop


class RefusedRows:
    """``book`` closes an exchange, ``of_the_row`` makes a failure of a refusal, ``stop`` ends the run."""

    def __init__(
        self,
        refusals: Refusals,
        book: Callable[[Classification], None],
        of_the_row: Callable[[Classification], Classification],
        stop: Callable[[StopRun], None],
    ) -> None:
        self._refusals = refusals
        self._book = book
        self._of_the_row = of_the_row
        self._stop = stop
        self._waiting: list[Classification] = []
        #: the rows whose refusals stopped the run
        self.stopped_by: tuple[str, ...] = ()

    @property
    def is_proven(self) -> bool:
        """Whether the provider has answered a request in this run or in the run before it."""
        return self._refusals.is_proven

    def succeeded(self, sent_at: datetime) -> None:
        """A request was answered. Rows refused before it left have failed."""
        if self._refusals.succeeded(sent_at):
            self._fail_waiting()

    def take(self, classification: Classification) -> bool:
        """Book a refusal, or keep it until it is decided. False: it is no refusal, and the caller's to book."""
        error, outcome = classification.error, classification.outcome
        if shows_access(error):
            self.succeeded(classification.intent.sent_at)
            return False
        if not isinstance(error, ProviderRefuses | RequestRejected) or classification.exchange.answer is None:
            return False
        if outcome is None and not isinstance(classification.step, Stop):
            return False  # it is asked again: in another form, or under a new key
        intent = classification.intent
        failed_before = intent.runs_failed > 0
        match self._refusals.refused(intent.row_id, error, intent.sent_at, failed_before=failed_before):
            case Meaning.THE_ROW:
                self._fail(classification)
            case Meaning.UNDECIDED:
                self._waiting.append(classification)
            case Meaning.THE_RUN:
                self._waiting.append(classification)
                self._stop_run(error)
        return True

    def settle(self, *, is_stopped: bool) -> None:
        """No other row is left to decide. Without any answer so far, a refusal of the run is believed."""
        errors = [each.error for each in self._waiting]
        refused = [error for error in errors if isinstance(error, ProviderRefuses)]
        if is_stopped:
            self._keep_pending()
        elif refused and not self._refusals.is_proven:
            self._stop_run(refused[-1])
        else:
            self._fail_waiting()

    def _stop_run(self, error: ProviderRefuses | RequestRejected) -> None:
        self.stopped_by = self.stopped_by or tuple(dict.fromkeys(each.intent.row_id for each in self._waiting))
        self._keep_pending()
        self._stop(error if isinstance(error, ProviderRefuses) else _of_all(error))

    def _keep_pending(self) -> None:
        waiting, self._waiting = self._waiting, []
        for classification in waiting:
            self._book(classification.as_retried())

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for classification in waiting:
            self._fail(classification)

    def _fail(self, classification: Classification) -> None:
        self._book(classification if classification.outcome is not None else self._of_the_row(classification))


def _of_all(error: RequestRejected) -> RequestsRejected:
    return RequestsRejected(
        f"the first {SAME_REFUSALS} rows were refused with the same words, and none was answered: {error}; correct the "
        "job, key or model (`batchvision check JOB` tests them), then run again: these rows are still pending"
    )
