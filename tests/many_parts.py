"""Outputs of many small parts, sealed without a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from checkpoint_rows import COLUMNS, START, a_completed, an_attempt, an_intent

from batchvision.checkpoint import OutputView
from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.manifest_index import RowsMet, write_index
from batchvision.checkpoint.parts import dated_path, seal
from batchvision.checkpoint.registry import register
from batchvision.checkpoint.row_keys import pair
from batchvision.checkpoint.schema import TableSchemas
from batchvision.records import Completed

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


def index_of(output: Path, *current: Completed) -> None:
    """A run that has ended left it: the answers that its manifest has now."""
    met = RowsMet()
    for answer in current:
        met.add(pair(answer.row_id, answer.request_key))
    met.is_complete = True
    write_index(LocalDisk(), output, "0of1", "run1", met, ())


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
