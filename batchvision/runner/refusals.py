"""Decide whether a refusal by the provider concerns one row or the whole run, by the answers to other rows.

:func:`meaning` is the whole rule, as a table. :class:`Refusals` keeps the few facts that it needs. No I/O.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from batchvision.errors import OutOfCredit, ProviderRefuses, RequestRejected, RequestsRejected, StopRun
from batchvision.runner.classify import Classification
from batchvision.runner.retry import Stop

ROWS_THAT_DECIDE = 2  #: different rows refused, of a run in which nothing has succeeded: the run is refused
ROWS_IN_A_ROW = 5  #: the same, where the provider has answered before
SAME_REFUSALS = 10  #: rejected requests with the same words, of a run in which nothing has succeeded
MOST_WAITING = 100  #: rejected requests with different words do not wait for a success longer than this

#: Words that tie a rejected request to its row.
_OF_THE_ROW = re.compile(
    r"image|picture|photo|content|prompt|input|text|token|context|too (?:long|large|big)|url|base64", re.IGNORECASE
)
#: What differs between identical messages: numbers, request ids, times.
_VARIES = re.compile(r"\b[0-9a-f]{8,}(?:-[0-9a-f]{4,})*\b|\d+(?:[.:,]\d+)*", re.IGNORECASE)


class Meaning(Enum):
    """The meaning of a refusal."""

    THE_ROW = "the_row"  #: the row is failed
    UNDECIDED = "undecided"  #: the row waits until other rows are answered
    THE_RUN = "the_run"  #: the run stops, and the rows refused in a row stay pending


class Situation(NamedTuple):
    """The state of the run when a request is refused."""

    has_succeeded: bool  #: a request of this run was answered
    is_proven: bool  #: one of this run, or of the run before it with the same provider, URL and model
    rows: int  #: different rows refused since the last success, this one included
    same: int  #: rejected requests with the same words since the start, this one included
    is_known: bool  #: the row was refused in an earlier run too


def meaning(error: ProviderRefuses | RequestRejected, now: Situation) -> Meaning:
    """The rule. ``error`` is a ProviderRefuses or a RequestRejected."""
    match error:
        case OutOfCredit():
            return Meaning.THE_RUN
        case ProviderRefuses() if error.is_certain and not now.has_succeeded:
            return Meaning.THE_RUN
        case ProviderRefuses() if now.is_proven and now.is_known:
            return Meaning.THE_ROW
        case ProviderRefuses():
            enough = ROWS_IN_A_ROW if now.is_proven else ROWS_THAT_DECIDE
            return Meaning.THE_RUN if now.rows >= enough else Meaning.UNDECIDED
        case _ if now.is_proven or _OF_THE_ROW.search(error.what):
            return Meaning.THE_ROW
        case _:
            return Meaning.THE_RUN if now.same >= SAME_REFUSALS else Meaning.UNDECIDED


class Refusals:
    """The refusals since the last success. ``is_proven``: the provider answered in the run before this one.
    ``known_rows``: the rows that stopped that run."""

    def __init__(self, *, is_proven: bool = False, known_rows: frozenset[str] = frozenset()) -> None:
        self._was_proven = is_proven
        self._known_rows = known_rows
        self._has_succeeded = False
        self._is_disproven = False
        self._rows: set[str] = set()
        self._words: Counter[str] = Counter()
        self._rejected: set[str] = set()
        self._refused_from: datetime | None = None  # when the first of the refused requests was sent

    @property
    def is_proven(self) -> bool:
        """Whether key, URL and model have worked. The next run relies on it, too."""
        return self._has_succeeded or (self._was_proven and not self._is_disproven)

    def succeeded(self, sent_at: datetime) -> bool:
        """Count a request that was answered. True: the refusals before it are the matter of their rows.

        A request that left before the refused ones does not count: the key may have been revoked since.
        """
        self._has_succeeded = True
        if self._refused_from is not None and sent_at < self._refused_from:
            return False
        self._rows.clear()
        self._words.clear()
        self._rejected.clear()
        self._refused_from = None
        return True

    def refused(
        self,
        row_id: str,
        error: ProviderRefuses | RequestRejected,
        sent_at: datetime,
        *,
        failed_before: bool = False,
    ) -> Meaning:
        """Count a refusal and return its meaning."""
        self._refused_from = min(self._refused_from or sent_at, sent_at)
        same = self._count(row_id, error)
        now = Situation(
            has_succeeded=self._has_succeeded,
            is_proven=self.is_proven,
            rows=len(self._rows),
            same=same,
            is_known=failed_before or row_id in self._known_rows,
        )
        found = meaning(error, now)
        if found is Meaning.THE_ROW:
            self._rows.discard(row_id)
        elif found is Meaning.THE_RUN and not self._has_succeeded:
            self._is_disproven = True
        elif len(self._rejected) > MOST_WAITING:
            return Meaning.THE_ROW
        return found

    def _count(self, row_id: str, error: ProviderRefuses | RequestRejected) -> int:
        if isinstance(error, ProviderRefuses):
            self._rows.add(row_id)
            return 0
        words = _VARIES.sub("#", error.what.lower())
        self._words[words] += row_id not in self._rejected
        self._rejected.add(row_id)
        return self._words[words]


# ---------------------------------------------------------------------------------- held rows


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
        #: the rows that were refused when the run stopped
        self.stopped_by: tuple[str, ...] = ()

    @property
    def is_proven(self) -> bool:
        """Whether the provider has answered a request in this run or in the run before it."""
        return self._refusals.is_proven

    def succeeded(self, sent_at: datetime) -> None:
        """A request was answered. Rows refused before it left have failed."""
        if self._refusals.succeeded(sent_at) and self._waiting:
            self._fail_waiting()

    def take(self, classification: Classification) -> bool:
        """Book a refusal, or keep it until it is decided. False: it is no refusal, and the caller's to book."""
        error, outcome = classification.error, classification.outcome
        if error is None or error.shows_access:
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
