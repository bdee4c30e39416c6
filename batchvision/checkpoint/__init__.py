"""The checkpoint: an append-only journal, and the sealed Parquet tables made from it.

:class:`Store` is the one owner of an output's files. :class:`OutputView` reads them without a lock.
"""

from batchvision.checkpoint.cells import MONEY, TIMESTAMP, type_of, usd_of
from batchvision.checkpoint.compaction import Compacted, compact
from batchvision.checkpoint.current import IN_MANIFEST, UnsealedRows, are_of_redo, source_batches
from batchvision.checkpoint.disk import LocalDisk, disk_failed
from batchvision.checkpoint.figures import RunningFiles
from batchvision.checkpoint.journal_records import (
    Accepted,
    Closed,
    Received,
    Record,
    RowAnswer,
    RowFailed,
    SegmentHeader,
    Shared,
    Submission,
    SubmissionStep,
    Voided,
    is_unclear,
)
from batchvision.checkpoint.kept_cells import KeptCells
from batchvision.checkpoint.keyset import KeySet
from batchvision.checkpoint.lease import shared_type
from batchvision.checkpoint.lineage import Name, is_merged
from batchvision.checkpoint.lock import STATE_FOLDER, Holder, OutputLock, holder_at_work
from batchvision.checkpoint.manifest_index import index_paths
from batchvision.checkpoint.opening import disk_at, fetch_output, prove_store
from batchvision.checkpoint.paid_rows import PaidRows
from batchvision.checkpoint.parts import (
    DATED,
    FAILURES_TABLE,
    ancestors_of,
    batches_of,
    earlier_sha256,
    fitted,
    is_number,
    part_file,
    part_paths,
    schema_of,
    sha256_of,
    write_batches,
)
from batchvision.checkpoint.record_json import masked_answer
from batchvision.checkpoint.recovery import Recovery, Unsealed
from batchvision.checkpoint.registry import output_id, read_registry, registered_job
from batchvision.checkpoint.reserve import reserve_bytes
from batchvision.checkpoint.row_index import Carried, RowIndex, RowState
from batchvision.checkpoint.row_keys import packed_ids, pairs
from batchvision.checkpoint.run_state import RunState
from batchvision.checkpoint.schema import (
    ATTEMPTS,
    FAILURES,
    LATER_FAILURE_COLUMNS,
    RESULTS,
    Columns,
    TableColumn,
    attempts_schema,
    failures_of,
    failures_schema,
    results_schema,
)
from batchvision.checkpoint.shards import all_locked, remember_division
from batchvision.checkpoint.spent import LedgerSums, spent_by_shard
from batchvision.checkpoint.storage import Disk, JournalFiles, NewFile, PartStore
from batchvision.checkpoint.store import Store
from batchvision.checkpoint.stored_answers import StoredAnswers, StoredRequest
from batchvision.checkpoint.summaries import (
    load_recipe,
    newest_summaries,
    read_latest,
    read_summary,
    summary_document,
    summary_paths,
    summary_text,
)
from batchvision.checkpoint.view import AmbiguousAttempt, OpenWork, OutputView, ShardState, read_shard
from batchvision.checkpoint.writer import Projection, SealAfter, StoreSettings

__all__ = [
    "ATTEMPTS",
    "DATED",
    "FAILURES",
    "FAILURES_TABLE",
    "IN_MANIFEST",
    "LATER_FAILURE_COLUMNS",
    "MONEY",
    "RESULTS",
    "STATE_FOLDER",
    "TIMESTAMP",
    "Accepted",
    "AmbiguousAttempt",
    "Carried",
    "Closed",
    "Columns",
    "Compacted",
    "Disk",
    "Holder",
    "JournalFiles",
    "KeptCells",
    "KeySet",
    "LedgerSums",
    "LocalDisk",
    "Name",
    "NewFile",
    "OpenWork",
    "OutputLock",
    "OutputView",
    "PaidRows",
    "PartStore",
    "Projection",
    "Received",
    "Record",
    "Recovery",
    "RowAnswer",
    "RowFailed",
    "RowIndex",
    "RowState",
    "RunState",
    "RunningFiles",
    "SealAfter",
    "SegmentHeader",
    "ShardState",
    "Shared",
    "Store",
    "StoreSettings",
    "StoredAnswers",
    "StoredRequest",
    "Submission",
    "SubmissionStep",
    "TableColumn",
    "Unsealed",
    "UnsealedRows",
    "Voided",
    "all_locked",
    "ancestors_of",
    "are_of_redo",
    "attempts_schema",
    "batches_of",
    "compact",
    "disk_at",
    "disk_failed",
    "earlier_sha256",
    "failures_of",
    "failures_schema",
    "fetch_output",
    "fitted",
    "holder_at_work",
    "index_paths",
    "is_merged",
    "is_number",
    "is_unclear",
    "load_recipe",
    "masked_answer",
    "newest_summaries",
    "output_id",
    "packed_ids",
    "pairs",
    "part_file",
    "part_paths",
    "prove_store",
    "read_latest",
    "read_registry",
    "read_shard",
    "read_summary",
    "registered_job",
    "remember_division",
    "reserve_bytes",
    "results_schema",
    "schema_of",
    "sha256_of",
    "shared_type",
    "source_batches",
    "spent_by_shard",
    "summary_document",
    "summary_paths",
    "summary_text",
    "type_of",
    "usd_of",
    "write_batches",
]
