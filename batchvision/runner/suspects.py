"""Rows out of attempts in a streak of failures: failed by their own fault, or victims of an outage?"""

from __future__ import annotations

from collections.abc import Callable

from batchvision.errors import AttemptsExhausted
from batchvision.keys import row_digest
from batchvision.limits import OUTAGE_AFTER_FAILURES
from batchvision.records import Failed, Tries
from batchvision.runner.classify import Classification
from batchvision.runner.later_rows import LaterRows


class Suspects:
    """Holds the rows until the streak ends. ``book`` closes an exchange. In an outage each row is spared once."""

    def __init__(
        self, book: Callable[[Classification], None], later: LaterRows, failures_in_a_row: Callable[[], int]
    ) -> None:
        self._book = book
        self._later = later
        self._failures_in_a_row = failures_in_a_row
        self._waiting: list[Classification] = []
        self._spared: set[bytes] = set()

    def take(self, classification: Classification) -> bool:
        """Hold the row if it may be a victim of an outage. False: the caller books it."""
        error, outcome = classification.error, classification.outcome
        if error is None or not isinstance(outcome, Failed) or outcome.error_kind != AttemptsExhausted.kind:
            return False
        if row_digest(outcome.row_id, "") in self._spared or self._failures_in_a_row() == 0:
            return False
        self._waiting.append(classification)
        return True

    def settle(self) -> None:
        """After an answer the held rows have failed. In an outage they are asked again in a later pass."""
        if not self._waiting:
            return
        streak = self._failures_in_a_row()
        if streak >= OUTAGE_AFTER_FAILURES:
            waiting, self._waiting = self._waiting, []
            for classification in waiting:
                self._spared.add(row_digest(classification.intent.row_id, ""))
                self._later.add(classification.intent.row_id, Tries(unspent=1))  # it is not the first try in this run
                self._book(classification.as_retried())
        elif streak == 0:
            self.end(is_stopped=False)

    def end(self, *, is_stopped: bool) -> None:
        """The held rows have failed. In a run that stops within the streak they stay pending."""
        waiting, self._waiting = self._waiting, []
        is_unclear = is_stopped and self._failures_in_a_row() > 0
        for classification in waiting:
            self._book(classification.as_retried() if is_unclear else classification)
