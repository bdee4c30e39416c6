"""Parts of the three tables with kept and answer columns of every type, and the rows that a merge makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchvision.checkpoint import Columns, attempts_schema, failures_schema, results_schema

JOB = "o'clock \\ größe"
NOON = datetime(2026, 11, 20, 12, 0, 0, 123456, tzinfo=UTC)
#: Kept and answer columns of every type, with reserved and non-ASCII names.
COLUMNS = Columns(
    keep=(
        ("order", pa.string()),
        ("größe", pa.list_(pa.string())),
        ("select", pa.decimal128(38, 10)),
        ('quo"te', pa.int16()),
        ("bytes", pa.binary()),
        ("day", pa.date32()),
        ("naive", pa.timestamp("us")),
        ("aware", pa.timestamp("us", tz="UTC")),
        ("tiny", pa.int8()),
        ("real", pa.float32()),
    ),
    answers=(
        ("answer_label", pa.string()),
        ("answer_tags", pa.list_(pa.string())),
        ("answer_scores", pa.list_(pa.float64())),
        ("answer_json", pa.string()),
        ("answer_whole", pa.int64()),
        ("answer_is_new", pa.bool_()),
    ),
)
KEPT: dict[str, Any] = {
    "order": "é\n\"'\\; DROP",
    "größe": ["ä", "", "b,c"],
    "select": Decimal("12345678901234567890.0123456789"),
    'quo"te': -7,
    "bytes": b"\x00\xff",
    "day": date(2026, 2, 28),
    "naive": datetime.fromisoformat("2026-03-29T02:30"),
    "aware": NOON,
    "tiny": 3,
    "real": 0.5,
}
ANSWER: dict[str, Any] = {
    "answer_label": "shoe",
    "answer_tags": ["a", "b"],
    "answer_scores": [0.25, 1.0],
    "answer_json": '{"größe": [1, null]}',
    "answer_whole": 2**62,
    "answer_is_new": True,
}


def result(row_id: str, hours: int, **cells: Any) -> dict[str, Any]:
    at = NOON + timedelta(hours=hours)
    return {
        **dict.fromkeys(results_schema(COLUMNS).names),
        **{"job": JOB, "row_id": row_id, "request_key": f"{row_id}-{hours}", "updated_at": at, "finished_at": at},
        **{"image_ref": ["a.jpg", None], "cost_usd": Decimal("0.000000123"), "cost_ticks": 1230 + hours},
        **KEPT,
        **ANSWER,
        **cells,
    }


def other(schema: pa.Schema, row_id: str, **cells: Any) -> dict[str, Any]:
    return {**dict.fromkeys(schema.names), "job": JOB, "row_id": row_id, "request_key": "k", **KEPT, **cells}


class SampleOutput:
    """A folder with parts of the three tables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._schemas = {
            "results": results_schema(COLUMNS),
            "failures": failures_schema(COLUMNS),
            "attempts": attempts_schema(COLUMNS),
        }

    def write(self, table: str, part: str, rows: Sequence[dict[str, Any]]) -> None:
        path = self.folder / table / part
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows), schema=self._schemas[table]), path)

    def failed(self, *row_ids: str) -> None:
        self.write("failures", "part-0of1.parquet", [other(self._schemas["failures"], row_id) for row_id in row_ids])

    def attempt(self, part: str, *numbers: int) -> None:
        rows = [other(self._schemas["attempts"], "r1", attempt=number, run_id="run") for number in numbers]
        self.write("attempts", f"run_date=2026-11-20/{part}", rows)


def sample_output(folder: Path) -> SampleOutput:
    """Two rows, of which one has two answers, two failures and two attempts."""
    made = SampleOutput(folder)
    made.write("results", "run_date=2026-11-20/part-1.parquet", [result("r1", 0), result("r2", 0)])
    made.write("results", "run_date=2026-11-21/part-2.parquet", [result("r1", 5, answer_label="bag")])
    made.failed("f1", "f2")
    made.attempt("part-1.parquet", 1, 2)
    return made


def check_merged(rows: list[dict[str, Any]]) -> None:
    """Assert that these are the merged results of ``sample_output``: the newest answers, each cell as written."""
    assert sorted(row["row_id"] for row in rows) == ["r1", "r2"]
    expected = {"r1": result("r1", 5, answer_label="bag"), "r2": result("r2", 0)}
    for row in rows:
        assert row == expected[row["row_id"]]
