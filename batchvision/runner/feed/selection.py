"""Which rows of the manifest a run is about, and which of those it sends. Pure.

A *shard* is about its own rows only; ``limit``, ``sample`` and ``only`` leave rows to a later run, which stay pending.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from batchvision.keys import row_digest
from batchvision.records import Failed, Shard


@dataclass(frozen=True, slots=True)
class Selection:
    """What the flags of ``run`` choose.

    ``limit``: the first so many rows that are to do. ``sample``, ``seed``: so many drawn at random from the rows that
    are to do, the same ones for the same seed and rows; ``positions``: those drawn. ``shard`` of ``shards`` counts from
    0.
    ``retry_failed``: the kinds that are tried again (None: all). ``only``: ``row_digest(row_id, "")`` of the rows
    that this pass is for. ``allow_empty``: a manifest without rows is meant, although the output has answers.
    """

    limit: int | None = None
    sample: int | None = None
    seed: int = 0
    positions: frozenset[int] | None = None
    shard: int = 0
    shards: int = 1
    retry_failed: frozenset[str] | None = None
    retry_quarantined: bool = False
    only: frozenset[bytes] | None = None
    allow_empty: bool = False

    @property
    def own_shard(self) -> Shard:
        return Shard(self.shard, self.shards)

    @property
    def shard_name(self) -> str:
        """As the output's files name it."""
        return self.own_shard.name

    @property
    def sees_all(self) -> bool:
        """Whether a pass asks about every row there is: what it does not meet is not in the manifest."""
        return self.limit is None and self.sample is None and self.only is None

    @property
    def is_trial(self) -> bool:
        """Whether a user has chosen some rows to try a job with."""
        return self.limit is not None or self.sample is not None

    def own(self, row_ids: Iterable[str]) -> list[int]:
        """The places of the rows that belong to this shard."""
        own = self.own_shard
        return [place for place, row_id in enumerate(row_ids) if own.owns(row_id)]

    def retries(self, failed: Failed | None) -> bool:
        """Whether a row that has failed before is to do again."""
        if failed is None:
            return True
        if failed.quarantined and not self.retry_quarantined:
            return False
        return self.retry_failed is None or failed.error_kind in self.retry_failed


class Chooser:
    """Decides for each row that is to do, in order, whether this pass sends it."""

    def __init__(self, selection: Selection) -> None:
        self._only = selection.only
        self._left = selection.limit
        self._drawn = selection.positions

    @property
    def counts(self) -> bool:
        """Whether there is a limit to the rows that are sent, or a sample of them is drawn."""
        return self._left is not None

    @property
    def takes_none(self) -> bool:
        """Whatever still comes."""
        return self._left is not None and self._left <= 0

    @property
    def takes_some(self) -> bool:
        """Neither all nor none of what still comes: each row is to be asked about."""
        return not self.takes_none and (self._drawn, self._only, self._left) != (None, None, None)

    def takes(self, position: int, row_id: str, *, is_sent: bool) -> bool:
        """``is_sent``: False for a row that is invalid; it costs nothing and does not count toward the limit."""
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
