"""Sums of the ledger, by shard."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from batchvision.checkpoint.lineage import Name
from batchvision.checkpoint.parts import batches_of, part_paths
from batchvision.records import Shard


class LedgerSums(NamedTuple):
    """Ticks of attempts of known cost, and bounds of attempts of unknown end."""

    spent_ticks: int
    ambiguous_ticks: int

    def plus(self, other: LedgerSums) -> LedgerSums:
        return LedgerSums(self.spent_ticks + other.spent_ticks, self.ambiguous_ticks + other.ambiguous_ticks)

    @property
    def ticks(self) -> int:
        """What counts toward a cap."""
        return self.spent_ticks + self.ambiguous_ticks


NOTHING = LedgerSums(0, 0)


def read_sums(output: Path) -> LedgerSums:
    """The ledger's sums, a column at a time."""
    total = NOTHING
    for sums in spent_by_shard(output).values():
        total = total.plus(sums)
    return total


def spent_by_shard(output: Path, since: datetime | None = None) -> Mapping[Shard, LedgerSums]:
    """The sums of all attempts that were sent from ``since`` on.

    Reads every part: a run may last for any number of days, so the date of a part's run excludes nothing.
    """
    names = ("cost_ticks", "bound_ticks") if since is None else ("cost_ticks", "bound_ticks", "sent_at")
    earliest = None if since is None else pa.scalar(since.astimezone(UTC), pa.timestamp("us", "UTC"))
    sums: dict[Shard, LedgerSums] = {}
    for path in part_paths(output, "attempts"):
        shard = _shard_of(path)
        for batch in batches_of(path, names):
            rows = batch if earliest is None else batch.filter(pc.greater_equal(batch["sent_at"], earliest))
            sums[shard] = sums.get(shard, NOTHING).plus(LedgerSums(_sum(rows["cost_ticks"]), _sum(rows["bound_ticks"])))
    return sums


def _sum(ticks: pa.Array) -> int:
    return pc.sum(ticks).as_py() or 0


def _shard_of(path: Path) -> Shard:
    name = Name.of(path.name)
    return Shard() if name is None else Shard.named(name.shard)
