"""An output of many rows, made column by column."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from checkpoint_rows import COLUMNS, START, a_completed, an_attempt, an_intent
from many_parts import a_summary

from batchvision.checkpoint import packed_ids, pairs
from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.manifest_index import RowsMet, write_index
from batchvision.checkpoint.parts import dated_path, seal
from batchvision.checkpoint.registry import register
from batchvision.checkpoint.row_keys import packed_keys
from batchvision.checkpoint.schema import TableSchemas
from batchvision.checkpoint.summaries import write_summary
from batchvision.secrets import Secrets

PART_ROWS = 10_000
_ANSWER = "A red shoe with white laces on a grey floor, seen from the left. " * 2
_RAW = '{"id": "x", "model": "m", "choices": [{"message": {"content": "' + _ANSWER * 3 + '"}}], "usage": {}}'


def wide_output(path: Path, rows: int) -> Path:
    """An output whose manifest has ``rows`` rows, each with one answer."""
    path.mkdir(parents=True)
    register(LocalDisk(), path, "night", COLUMNS)
    tables, met = TableSchemas("night", COLUMNS, str), RowsMet()
    completed = a_completed(an_intent(0), _ANSWER, {"answer_score": 0.5})
    result = tables.results([completed])
    attempt = tables.attempts([an_attempt(completed.intent, answer=completed.answer)])
    for seq, cells in enumerate(_cells(rows), 1):
        for name, one in (("results", result), ("attempts", attempt)):
            seal(LocalDisk(), path, dated_path(name, "0of1", "run1", START, seq), _like(one, cells))
        met.add(pairs(packed_ids(cells["row_id"]), packed_keys(cells["skip_key"])))
    met.is_complete = True
    write_index(LocalDisk(), path, "0of1", "run1", met, ())
    write_summary(LocalDisk(), path, a_summary(), Secrets())
    return path


def _cells(rows: int) -> Iterator[dict[str, pa.Array]]:
    """The cells in which rows differ, a part at a time."""
    for first in range(0, rows, PART_ROWS):
        numbers = range(first, min(first + PART_ROWS, rows))
        texts = pa.array([f"{number:08}" for number in numbers])
        keys = pa.array([f"{number:032x}" for number in numbers])
        yield {
            "row_id": pc.binary_join_element_wise("product-", texts, ""),
            "request_key": keys,
            "skip_key": keys,
            "output_text": pc.binary_join_element_wise(_ANSWER, texts, ""),
            "raw_answer": pc.binary_join_element_wise(_RAW, texts, ""),
            "title": pc.binary_join_element_wise("Shoe ", texts, ""),
            "provider_request_id": keys,
        }


def _like(one: pa.Table, cells: dict[str, pa.Array]) -> pa.Table:
    rows = len(cells["row_id"])
    columns = [
        cells[each.name] if each.name in cells else pa.concat_arrays([one[each.name].combine_chunks()] * rows)
        for each in one.schema
    ]
    return pa.Table.from_arrays(columns, schema=one.schema)
