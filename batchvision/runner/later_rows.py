"""The rows that are asked in a later pass over the manifest, with their tries so far."""

from __future__ import annotations

from batchvision.keys import row_digest
from batchvision.records import Tries

_FIRST = Tries()


class LaterRows:
    """``last``: rows that are asked after all others, because they stopped the run before this one."""

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
