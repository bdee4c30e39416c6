"""The table ``runs``: one row for each summary. Scalars have columns of their own, everything else is JSON text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchvision.checkpoint import MONEY, TIMESTAMP, newest_summaries, summary_document, usd_of
from batchvision.records import RunSummary

#: ``loads`` has the parts.
_LEFT_OUT = frozenset({"parts"})
_OWN_TYPES = {"cost_usd": MONEY, "started_at": TIMESTAMP, "finished_at": TIMESTAMP}
_SCALARS = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}


def _type_of(name: str, annotation: str) -> pa.DataType:
    return _OWN_TYPES.get(name) or _SCALARS.get(annotation.removesuffix(" | None"), pa.string())


_ANNOTATIONS = {each.name: str(each.type) for each in fields(RunSummary) if each.name not in _LEFT_OUT}
RUNS = pa.schema([(name, _type_of(name, annotation)) for name, annotation in _ANNOTATIONS.items()])


def run_batches(output: Path) -> Iterator[pa.RecordBatch]:
    """The readable summaries of an output, the newest first."""
    for summary in newest_summaries(output):
        yield pa.RecordBatch.from_pylist([_row(summary)], schema=RUNS)


def _row(summary: RunSummary) -> dict[str, Any]:
    document = summary_document(summary)
    row = {name: _cell(document[name], annotation) for name, annotation in _ANNOTATIONS.items()}
    return row | {
        "cost_usd": usd_of(summary.cost_ticks),
        "started_at": datetime.fromisoformat(summary.started_at),
        "finished_at": datetime.fromisoformat(summary.finished_at),
    }


def _cell(value: Any, annotation: str) -> Any:
    if value is None or annotation.removesuffix(" | None") in _SCALARS:
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
