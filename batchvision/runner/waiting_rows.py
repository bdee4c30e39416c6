"""The rows that wait: for the answer to an identical request, for a later pass, or for the end of a streak of failures.

Each class owns one reason to wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from batchvision.checkpoint import KeySet
from batchvision.errors import PAID_FAILURES, AttemptsExhausted
from batchvision.keys import key_bytes, row_digest
from batchvision.limits import OUTAGE_AFTER_FAILURES
from batchvision.records import Completed, Failed, Outcome, Request, Tries
from batchvision.runner.classify import Classification

ANSWERS_KEPT = 500  #: answers in memory
MOST_FOLLOWERS = 20_000  #: followers in memory; further rows are asked in the next pass
LATE_ROWS = 20_000  #: rows that wait together for one reading of the disk


@dataclass(slots=True)
class Leader:
    """A request under way, and the requests that wait for its answer. ``row_id`` of a ticket is ``None``."""

    row_id: str | None
    followers: list[Request] = field(default_factory=list)


class RequestDeduplicator:
    """Send identical requests once (single-flight): the first row leads, its followers wait and share its answer.

    Rule: an answer is shared only with rows of the same request_key. The leader bears the cost. A follower costs 0
    (``cost_source = "shared"``), so that the sum over rows stays exact. Followers hold no image. A request with a
    ticket takes 12 bytes until another row asks the same; its own row is not asked meanwhile.
    ``answered``: the keys of requests that earlier runs have answers of. A redo shares only answers in memory: they are
    of this run.
    """

    def __init__(self, answered: KeySet, *, is_on: bool = True) -> None:
        self._answered = answered
        self._is_on = is_on
        self._leaders: dict[str, Leader] = {}
        self._answers: OrderedDict[str, Completed] = OrderedDict()
        self._asked = KeySet()
        self._accepted = KeySet()  # requests with a ticket, or that had one
        self._has_tickets = False  # requests were accepted
        self._failed_tickets: set[str] = set()  # accepted requests that failed since
        self._unfound: set[str] = set()
        self._followers = 0
        self.late: list[Request] = []  #: rows with an answer on the disk

    def __repr__(self) -> str:
        return f"<RequestDeduplicator {len(self._leaders)} under way, {len(self.late)} late>"

    def accepted(self, request_key: str) -> None:
        """The request has a ticket, of this run or of an earlier one."""
        if not self._is_on:
            return
        self._accepted.add(key_bytes(request_key))
        self._has_tickets = True
        self._failed_tickets.discard(request_key)
        leader = self._leaders.get(request_key)
        if leader is not None and not leader.followers:
            del self._leaders[request_key]

    def lead(self, row_id: str, request_key: str) -> None:
        """The row of a ticket that ended without an outcome asks again. Its followers wait on."""
        if self._is_on:
            self._leaders.setdefault(request_key, Leader(row_id)).row_id = row_id

    def _leading_ticket(self, request_key: str) -> Leader | None:
        """The ticket that will answer the request, if any."""
        raw = key_bytes(request_key)
        is_open = request_key not in self._failed_tickets and self._accepted.contains(raw)
        return Leader(None) if is_open and not self._asked.contains(raw) else None

    def is_full(self, request: Request) -> bool:
        """Whether ``request`` would be a follower, and too many followers wait already."""
        leader = self._leaders.get(request.request_key)
        if leader is None and self._has_tickets:
            leader = self._leading_ticket(request.request_key)
        is_follower = leader is not None and leader.row_id != request.row_id
        return is_follower and self._followers >= MOST_FOLLOWERS

    def answer_for(self, request: Request) -> Completed | bool:
        """The answer, if it is in memory. True: ``request`` waits for it. False: it is to be sent."""
        if not self._is_on:
            return False
        key = request.request_key
        leader = self._leaders.get(key)
        if leader is None and self._has_tickets:
            leader = self._leading_ticket(key)
        if leader is not None and leader.row_id != request.row_id:
            self._leaders[key] = leader
            leader.followers.append(_light(request))
            self._followers += 1
            return True
        if leader is None and key in self._answers:
            return self._answers[key]
        raw = key_bytes(key)
        is_asked = not request.is_redo and (self._asked.contains(raw) or self._answered.contains(raw))
        if leader is None and key not in self._unfound and is_asked:
            self.late.append(_light(request))
            return True
        self._leaders.setdefault(key, Leader(request.row_id))
        return False

    def ended(self, request_key: str, outcome: Outcome) -> list[Request]:
        """The row of a leader has ended. Returns its followers."""
        leader = self._leaders.pop(request_key, None)
        if self._is_on and isinstance(outcome, Completed):
            self._asked.add(key_bytes(request_key))
            self._answers[request_key] = outcome
            while len(self._answers) > ANSWERS_KEPT:
                self._answers.popitem(last=False)
        elif self._has_tickets and self._accepted.contains(key_bytes(request_key)):
            self._failed_tickets.add(request_key)
        if leader is None:
            return []
        self._followers -= len(leader.followers)
        return leader.followers

    def take_late(self) -> list[Request]:
        late, self.late = self.late, []
        return late

    def not_found(self, request_key: str) -> None:
        """No answer was on the disk after all. The request is to be sent."""
        self._unfound.add(request_key)


def _light(request: Request) -> Request:
    return request._replace(messages=b"")


def is_shared(outcome: Outcome) -> bool:
    """Whether followers share the outcome: an answer, or a failure that a second request would only pay for again."""
    return isinstance(outcome, Completed) or outcome.error_kind in PAID_FAILURES | {"request_rejected"}


_FIRST = Tries()


class LaterRows:
    """The rows that are asked in a later pass over the manifest, with their tries so far.

    ``last``: rows that are asked last, because they stopped the run before this one.
    """

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
