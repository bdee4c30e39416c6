"""Outputs of many small parts, sealed without a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from checkpoint_rows import COLUMNS, START, a_completed, an_attempt, an_intent

from batchvision.checkpoint import OutputView
from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.manifest_index import RowsMet, write_index
from batchvision.checkpoint.parts import dated_path, seal
from batchvision.checkpoint.registry import register
from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pair
from batchvision.checkpoint.row_keys import pairs as packed_pairs
from batchvision.checkpoint.schema import TableSchemas
from batchvision.records import Completed, Failed, PartFile, RunSummary

SIZES = (3, 1, 4, 2)
ROWS = [f"row{number}" for number in range(sum(SIZES))]


def an_output(output: Path, sizes: Sequence[int] = SIZES, run_id: str = "run1", first: int = 0) -> Path:
    """Some parts of ``results`` and of ``attempts``, as one run seals them."""
    output.mkdir(parents=True, exist_ok=True)
    register(LocalDisk(), output, "night", COLUMNS)
    tables = TableSchemas("night", COLUMNS, lambda text: text)
    for seq, size in enumerate(sizes, 1):
        intents = [an_intent(number, run_id=run_id) for number in range(first, first + size)]
        made = {
            "results": tables.results([a_completed(intent) for intent in intents]),
            "attempts": tables.attempts([an_attempt(intent) for intent in intents]),
        }
        for name, table in made.items():
            seal(LocalDisk(), output, dated_path(name, "0of1", run_id, START, seq), table)
        first += size
    return output


def rows_of(output: Path, table: str = "results") -> list[str]:
    """As readers of ours see them."""
    return [row_id for batch in OutputView(output).rows(table, ("row_id",)) for row_id in batch["row_id"].to_pylist()]


# ---------------------------------------------------------------------------------- rows with several answers


def an_answer_of(row: int, recipe: str, minutes: int, key: str = "") -> Completed:
    intent = an_intent(row, recipe_id=recipe, request_key=f"{recipe}-{row}{key}")
    return a_completed(intent, f"{recipe} said", updated_at=START + timedelta(minutes=minutes))


def answered(output: Path, *sealed: Sequence[Completed]) -> Path:
    output.mkdir(exist_ok=True)
    register(LocalDisk(), output, "night", COLUMNS)
    tables = TableSchemas("night", COLUMNS, lambda text: text)
    for seq, answers in enumerate(sealed, 1):
        seal(LocalDisk(), output, dated_path("results", "0of1", "run1", START, seq), tables.results(answers))
        ledger = [
            an_attempt(an_intent(int(answer.row_id[3:]), recipe_id=answer.intent.recipe_id)) for answer in answers
        ]
        seal(LocalDisk(), output, dated_path("attempts", "0of1", "run1", START, seq), tables.attempts(ledger))
    return output


def many_answers(output: Path, rows: int, part_rows: int = 10_000) -> Path:
    """Parts with one answer for each of many rows, made of columns so that a million takes seconds."""
    register(LocalDisk(), output, "night", COLUMNS)
    one = TableSchemas("night", COLUMNS, str).results([an_answer_of(0, "a", 1)])
    for seq, first in enumerate(range(0, rows, part_rows), 1):
        numbers = range(first, min(rows, first + part_rows))
        table = one.take(pa.array([0] * len(numbers)))
        for name, texts in (("row_id", "row{}"), ("request_key", "{:032x}"), ("skip_key", "{:032x}")):
            column = pa.array([texts.format(number) for number in numbers])
            table = table.set_column(table.schema.get_field_index(name), name, column)
        seal(LocalDisk(), output, dated_path("results", "0of1", "run1", START, seq), table)
    return output


def index_of_all(output: Path) -> None:
    """The index of a manifest that has every row of the output."""
    met = RowsMet()
    for batch in OutputView(output).rows("results", ("row_id", "request_key")):
        met.add(packed_pairs(packed_ids(batch["row_id"]), packed_keys(batch["request_key"])))
    met.is_complete = True
    write_index(LocalDisk(), output, "0of1", "run1", met, ())


def index_of(output: Path, *current: Completed, failed: Sequence[Failed] = ()) -> None:
    """A run that has ended left it: the answers that its manifest has now."""
    met = RowsMet()
    for answer in current:
        met.add(pair(answer.row_id, answer.request_key))
    met.is_complete = True
    write_index(LocalDisk(), output, "0of1", "run1", met, failed)


def pairs(output: Path) -> list[tuple[str, str]]:
    batches = OutputView(output).rows("results", ("row_id", "recipe_id", "updated_at"))
    return [(row["row_id"], row["recipe_id"]) for batch in batches for row in batch.to_pylist()]


#: Rows 1, 2 and 4 have several answers.
OLD_AND_NEW = (
    [an_answer_of(1, "a", 1), an_answer_of(2, "a", 1), an_answer_of(3, "a", 1), an_answer_of(4, "b", 1)],
    [an_answer_of(1, "b", 5), an_answer_of(2, "b", 5), an_answer_of(4, "b", 9, "new image")],
    [an_answer_of(2, "c", 9), an_answer_of(5, "c", 9)],
)
#: What a manifest may have of them; row 5 has left it.
CURRENT = (OLD_AND_NEW[1][0], OLD_AND_NEW[0][1], OLD_AND_NEW[0][2], OLD_AND_NEW[1][2])


def a_summary() -> RunSummary:
    """Of a run with three rows."""
    return RunSummary(
        run_id="run1",
        job="night",
        recipe_id="recipe",
        manifest="photos.csv",
        rows_total=3,
        rows_completed=1,
        rows_failed=1,
        rows_pending=1,
        rows_ambiguous=0,
        rows_quarantined=0,
        tickets_open=0,
        requests_sent=2,
        retries=0,
        failures_by_kind={"refused": 1},
        prompt_tokens=1,
        completion_tokens=2,
        reasoning_tokens=3,
        image_tokens=4,
        cached_tokens=5,
        cost_usd=0.1,
        cost_ticks=10**9,
        ambiguous_ticks=0,
        started_at="2026-11-20T22:30:00+00:00",
        finished_at="2026-11-20T22:31:00+00:00",
        duration_seconds=60.0,
        stop_reason=None,
        exit_code=3,
        parts=(PartFile("results", "results/run_date=2026-11-20/part-0of1-run1-000001.parquet", 1, "ab"),),
        versions={"batchvision": "0"},
        config={"name": "night"},
    )
