"""Send identical requests once (single-flight): the first row leads, its followers wait and share its answer.

Rule: an answer is shared only with rows of the same request_key. The leader bears the cost. A follower costs 0
(``cost_source = "shared"``), so that the sum over rows stays exact. Followers hold no image.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from batchvision.checkpoint import KeySet
from batchvision.errors import PAID_FAILURES
from batchvision.keys import key_bytes
from batchvision.records import Completed, Outcome, Request

ANSWERS_KEPT = 500  #: answers in memory
MOST_FOLLOWERS = 20_000  #: followers in memory; further rows are asked in the next pass
LATE_ROWS = 20_000  #: rows that wait together for one reading of the disk


@dataclass(slots=True)
class Leader:
    """A request under way, and the requests that wait for its answer."""

    row_id: str
    followers: list[Request] = field(default_factory=list)


class RequestDeduplicator:
    """``answered``: the keys of requests that earlier runs have answers of."""

    def __init__(self, answered: KeySet, *, is_on: bool = True) -> None:
        self._answered = answered
        self._is_on = is_on
        self._leaders: dict[str, Leader] = {}
        self._answers: OrderedDict[str, Completed] = OrderedDict()
        self._asked = KeySet()
        self._unfound: set[str] = set()
        self._followers = 0
        self.late: list[Request] = []  #: rows with an answer on the disk

    def __repr__(self) -> str:
        return f"<Sharing {len(self._leaders)} under way, {len(self.late)} late>"

    def lead(self, row_id: str, request_key: str) -> None:
        """A request under way since an earlier run."""
        if self._is_on:
            self._leaders.setdefault(request_key, Leader(row_id))

    def is_full(self, request: Request) -> bool:
        """Whether ``request`` would be a follower, and too many followers wait already."""
        leader = self._leaders.get(request.request_key)
        is_follower = leader is not None and leader.row_id != request.row_id
        return is_follower and self._followers >= MOST_FOLLOWERS

    def answer_for(self, request: Request) -> Completed | bool:
        """The answer, if it is in memory. True: ``request`` waits for it. False: it is to be sent."""
        if not self._is_on:
            return False
        key = request.request_key
        leader = self._leaders.get(key)
        if leader is not None and leader.row_id != request.row_id:
            leader.followers.append(_light(request))
            self._followers += 1
            return True
        if leader is None and key in self._answers:
            return self._answers[key]
        raw = key_bytes(key)
        is_asked = self._asked.contains(raw) or self._answered.contains(raw)
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
