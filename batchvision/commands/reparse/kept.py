"""Refresh the kept cells of answered rows from the manifest. No answer, key or cost changes."""

from __future__ import annotations

from batchvision.checkpoint import Disk, LocalDisk, all_locked
from batchvision.job import Job
from batchvision.keys import KEY_BYTES
from batchvision.records import Cell
from batchvision.runner import row_index_of
from batchvision.runner.feed import kept_cells_of, kept_now, survey
from batchvision.secrets import Secrets


def refresh_kept_cells(job: Job, secrets: Secrets, disk: Disk | None) -> int:
    """Rewrite changed kept cells under the locks of all shards. Returns the number of changed rows.

    Raises OutputHeld, DiskFailed, CheckpointDamaged.
    """
    if not job.keep_columns:
        return 0
    with all_locked(job.output_path, disk or LocalDisk()):
        surveyed, row_index = survey(job), row_index_of(job)
        kept = kept_cells_of(job, surveyed, row_index, secrets.mask)
        changed = kept.changed()
        wanted = {row for of_part in changed.values() for row in of_part.values()}
        if not wanted:
            return 0
        cells: dict[bytes, tuple[Cell, ...]] = {}
        for now in kept_now(job, surveyed, row_index):
            for at, each in enumerate(now.cells):
                row = now.rows[at * KEY_BYTES : (at + 1) * KEY_BYTES]
                if row in wanted:
                    cells[row] = each
        placed = {path: {at: cells[row] for at, row in of_part.items()} for path, of_part in changed.items()}
        return kept.refresh(placed, disk)
