"""The table ``loads``: the parts that earlier loads took, by sha256, and the output that a job's rows come from.

A part that was padded or merged since then has another sha256. Its metadata names the earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchvision.checkpoint import TIMESTAMP, ancestors_of, batches_of, earlier_sha256, part_file
from batchvision.records import PartFile

#: The names ``table`` and ``rows`` are reserved words in some dialects.
LOADS = pa.schema(
    [
        ("job", pa.string()),
        ("table_name", pa.string()),
        ("part", pa.string()),
        ("sha256", pa.string()),
        ("row_count", pa.int64()),
        ("loaded_at", TIMESTAMP),
    ]
)
LOADS_KEY = ("job", "table_name", "sha256")
#: The ``table_name`` of the row that has the id of the output in ``sha256``. It is the first row of each job.
OUTPUT_ENTRY = "output"


class NewPart(NamedTuple):
    """A part with rows that no load has taken. ``is_new``: which rows."""

    path: Path
    file: PartFile
    is_new: NDArray[np.bool_]

    @property
    def batches(self) -> Iterator[pa.RecordBatch]:
        """The new rows."""
        at = 0
        for batch in batches_of(self.path):
            chosen = self.is_new[at : at + batch.num_rows]
            yield batch if chosen.all() else batch.filter(pa.array(chosen))
            at += batch.num_rows


def new_part(output: Path, path: Path, known: frozenset[str]) -> NewPart | None:
    """The part, or ``None`` where earlier loads took every row. Raises FileNotFoundError, CheckpointDamaged."""
    file = part_file(output, path)
    if not known.isdisjoint((file.sha256, *earlier_sha256(path))):
        return None
    is_new = np.ones(file.rows, np.bool_)
    for each in ancestors_of(path):
        if not known.isdisjoint(each.sha256):
            is_new[each.start : each.stop] = False
    return NewPart(path, file, is_new) if is_new.any() else None


def output_row(job: str, output_id: str, at: datetime) -> pa.RecordBatch:
    """The row of ``loads`` that names the output of a job's rows."""
    row = {"job": job, "table_name": OUTPUT_ENTRY, "part": "", "sha256": output_id, "row_count": 0, "loaded_at": at}
    return pa.RecordBatch.from_pylist([row], schema=LOADS)


def load_rows(job: str, parts: list[NewPart], at: datetime) -> pa.RecordBatch:
    """The rows of ``loads`` for new parts."""
    rows = [
        {
            "job": job,
            "table_name": part.file.table,
            "part": part.file.path,
            "sha256": part.file.sha256,
            "row_count": part.file.rows,
            "loaded_at": at,
        }
        for part in parts
    ]
    return pa.RecordBatch.from_pylist(rows, schema=LOADS)
