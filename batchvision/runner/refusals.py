"""Decide whether a refusal by the provider concerns one row or the whole run, by the answers to other rows.

:func:`meaning` is the whole rule, as a table. :class:`Refusals` keeps the few facts that it needs. No I/O.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from enum import Enum
from typing import NamedTuple

from batchvision.errors import OutOfCredit, ProviderRefuses, RequestRejected

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
        self._refused_from: datetime | None = None  # when the first request of those refused in a row was sent

    @property
    def has_succeeded(self) -> bool:
        return self._has_succeeded

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
