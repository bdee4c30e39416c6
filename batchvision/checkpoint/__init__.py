"""The checkpoint: an append-only journal that makes things durable, and the sealed Parquet tables made from it.

The rule: :class:`Store` is the one owner of an output's files; :class:`OutputView` reads them without its lock.
"""

from batchvision.checkpoint.books import Verdict, is_unclear
from batchvision.checkpoint.cells import type_of
from batchvision.checkpoint.compaction import Compacted, compact
from batchvision.checkpoint.disk import Disk, LocalDisk
from batchvision.checkpoint.kept_cells import KeptCells
from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.lock import Holder, OutputLock
from batchvision.checkpoint.paid_rows import PaidRows
from batchvision.checkpoint.recovery import Recovery
from batchvision.checkpoint.reserve import reserve_bytes
from batchvision.checkpoint.schema import Columns
from batchvision.checkpoint.shards import all_locked
from batchvision.checkpoint.spent import Sums, spent_by_shard
from batchvision.checkpoint.standing import Carried, RowState, Standing
from batchvision.checkpoint.store import Store
from batchvision.checkpoint.stored_answers import StoredAnswer, StoredAnswers
from batchvision.checkpoint.summaries import (
    load_recipe,
    newest_summaries,
    read_latest,
    summary_document,
    summary_text,
)
from batchvision.checkpoint.view import AmbiguousAttempt, OpenWork, OutputView
from batchvision.checkpoint.writer import SealAfter

__all__ = [
    "AmbiguousAttempt",
    "Carried",
    "Columns",
    "Compacted",
    "Disk",
    "Holder",
    "KeptCells",
    "KeySet",
    "LocalDisk",
    "OpenWork",
    "OutputLock",
    "OutputView",
    "PaidRows",
    "Recovery",
    "RowState",
    "SealAfter",
    "Standing",
    "Store",
    "StoredAnswer",
    "StoredAnswers",
    "Sums",
    "Verdict",
    "all_locked",
    "compact",
    "is_unclear",
    "load_recipe",
    "newest_summaries",
    "read_latest",
    "reserve_bytes",
    "spent_by_shard",
    "summary_document",
    "summary_text",
    "type_of",
]
