"""Compare the kept cells of answered rows with today's manifest. One pass, which changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from batchvision.checkpoint import KeptCells, packed_ids, pairs
from batchvision.keys import KEY_BYTES
from batchvision.records import Cell, RunSummary
from batchvision.runner.feed.selection import Selection
from batchvision.runner.feed.surveying import Survey
from batchvision.runner.feed.work import KnownRows, stretches

if TYPE_CHECKING:
    from batchvision.job import Job


class KeptNow(NamedTuple):
    """Answered rows of one stretch. ``rows``: hashes of id and skip_key, 16 bytes each. ``cells``: their kept cells."""

    rows: bytes
    cells: Sequence[tuple[Cell, ...]]


def kept_cells_of(job: Job, survey: Survey, row_index: KnownRows, mask: Callable[[str], str]) -> KeptCells:
    """Today's kept cells of the answered rows, ready to be compared with the stored cells."""
    kept = KeptCells(job.output_path, job.recipe.recipe_id, [column.name for column in job.keep_columns], mask)
    for now in kept_now(job, survey, row_index):
        kept.add(now.rows, now.cells)
    return kept


def count_other_cells(
    job: Job, survey: Survey, row_index: KnownRows, mask: Callable[[str], str], latest: RunSummary | None
) -> int:
    """How many answered rows have kept cells that differ from the stored ones. ``latest``: the run before this one.

    Reads nothing where nothing can have changed: no run came before, or manifest and kept columns are as they were.
    """
    if latest is None or not job.keep_columns:
        return 0
    began_ns = datetime.fromisoformat(latest.started_at).timestamp() * 1e9
    is_written_since = any(identity.modified_ns >= began_ns for _, identity in survey.inputs)
    keeps = job.config()["manifest"]["keep"]
    if not is_written_since and latest.config["manifest"].get("keep") == keeps:
        return 0
    return sum(map(len, kept_cells_of(job, survey, row_index, mask).changed().values()))


def kept_now(job: Job, survey: Survey, row_index: KnownRows) -> Iterator[KeptNow]:
    """The answered rows, stretch by stretch. Raises as ``stretches``."""
    for stretch in stretches(job, survey, row_index, Selection(limit=0)):
        others = set(row_index.not_done(stretch.ids, stretch.keys))
        done = [place for place in range(len(stretch.ids)) if place not in others and place not in stretch.problems]
        rows = pairs(packed_ids(stretch.ids), stretch.keys)
        chosen = b"".join(rows[place * KEY_BYTES : (place + 1) * KEY_BYTES] for place in done)
        yield KeptNow(chosen, stretch.kept_cells(done))
