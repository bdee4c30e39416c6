"""Choose the rows of a run. Pure.

A shard has its own rows only. Rows that ``limit``, ``sample`` and ``only`` leave out stay pending for a later run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from batchvision.keys import row_digest
from batchvision.records import Failed, Shard


@dataclass(frozen=True, slots=True)
class Selection:
    """The choice that the flags of ``run`` make.

    ``limit``: the number of rows to do, from the first. ``sample``: the number of rows to draw from those to do. The
    same ``seed`` and rows give the same draw. ``positions``: the drawn rows. ``shard``: counts from 0.
    ``shards_at_once``: so many shards run at the same time (None: all). ``recut``: consent to another number of shards.
    ``retry_failed``: error kinds that are tried again (None: each kind). ``only``: ``row_digest(row_id, "")`` of the
    only rows of this pass. ``redo``: the same of the rows that are asked again although they are done; no other row is
    to do then. ``allow_empty``: a manifest without rows is accepted, even if the output has answers.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    positions: frozenset[int] | None = None
    shard: int = 0
    shards: int = 1
    shards_at_once: int | None = None
    recut: bool = False
    retry_failed: frozenset[str] | None = None
    retry_quarantined: bool = False
    only: frozenset[bytes] | None = None
    redo: frozenset[bytes] | None = None
    allow_empty: bool = False

    @property
    def own_shard(self) -> Shard:
        return Shard(self.shard, self.shards)

    @property
    def shard_name(self) -> str:
        """The shard's name in the output's files."""
        return self.own_shard.name

    @property
    def sees_all(self) -> bool:
        """Whether a pass covers each row of the manifest. Then a row that it does not meet has left the manifest."""
        return (self.limit, self.sample, self.only, self.redo) == (None, None, None, None)

    @property
    def is_trial(self) -> bool:
        """Whether the user tries the job with a few rows."""
        return self.limit is not None or self.sample is not None

    def own(self, row_ids: Iterable[str]) -> list[int]:
        """The places of this shard's rows."""
        own = self.own_shard
        return [place for place, row_id in enumerate(row_ids) if own.owns(row_id)]

    def redoes(self, row_id: str) -> bool:
        """Whether the row is asked again in this pass if it is done."""
        if self.redo is None:
            return False
        digest = row_digest(row_id, "")
        return digest in self.redo and (self.only is None or digest in self.only)

    def retries(self, failed: Failed | None) -> bool:
        """Whether a row that failed before is to do again."""
        if failed is None:
            return True
        if failed.quarantined and not self.retry_quarantined:
            return False
        return self.retry_failed is None or failed.error_kind in self.retry_failed


class Chooser:
    """Decides for each row to do, in order, whether this pass sends it."""

    def __init__(self, selection: Selection) -> None:
        self._only = selection.only if selection.redo is None else frozenset[bytes]()
        self._left = selection.limit
        self._drawn = selection.positions

    @property
    def counts(self) -> bool:
        """Whether the number of sent rows is limited."""
        return self._left is not None

    @property
    def takes_none(self) -> bool:
        """Whether the limit is reached."""
        return self._left is not None and self._left <= 0

    @property
    def takes_some(self) -> bool:
        """Whether ``takes`` has to decide about each row that comes: it takes neither each row nor no row."""
        return not self.takes_none and (self._drawn, self._only, self._left) != (None, None, None)

    def takes(self, position: int, row_id: str, *, is_sent: bool) -> bool:
        """``is_sent``: False for a row that costs nothing. It does not count toward the limit."""
        if self._drawn is not None and position not in self._drawn:
            return False
        if self._only is not None and row_digest(row_id, "") not in self._only:
            return False
        if self._left is None:
            return True
        if self.takes_none:
            return False
        self._left -= is_sent
        return True
