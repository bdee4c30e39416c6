"""The rows that are asked in a later pass over the manifest, with their tries so far."""

from __future__ import annotations

from collections.abc import Callable

from batchvision.errors import AttemptsExhausted
from batchvision.keys import row_digest
from batchvision.limits import OUTAGE_AFTER_FAILURES
from batchvision.records import Failed, Tries
from batchvision.runner.classify import Classification

_FIRST = Tries()


class LaterRows:
    """``last``: rows that are asked last, because they stopped the run before this one."""

    def __init__(self, last: frozenset[str] = frozenset()) -> None:
        self._next: dict[bytes, Tries] = {}
        self._now: dict[bytes, Tries] = {}
        self._last = set(last)

    def __repr__(self) -> str:
        return f"<LaterRows {len(self._next)} in the next pass, {len(self._now)} in this one>"

    @property
    def waiting(self) -> frozenset[bytes]:
        """The digests of the rows of the next pass so far."""
        return frozenset(self._next)

    def add(self, row_id: str, tries: Tries = _FIRST) -> None:
        self._next[row_digest(row_id, "")] = tries

    def put_off(self, row_id: str) -> bool:
        """Whether the row is one of ``last`` and waits for the next pass; once."""
        if row_id not in self._last:
            return False
        self._last.discard(row_id)
        self.add(row_id)
        return True

    def next_pass(self) -> frozenset[bytes]:
        """The digests of the rows of the next pass. A row that the pass does not meet is forgotten."""
        self._now, self._next = self._next, {}
        return frozenset(self._now)

    def first_tries(self, row_id: str) -> Tries:
        """The tries of the row so far."""
        if not self._next and not self._now:
            return _FIRST
        digest = row_digest(row_id, "")
        return self._next.pop(digest, None) or self._now.pop(digest, _FIRST)


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
