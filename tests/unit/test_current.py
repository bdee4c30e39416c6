"""The current answer of a row is chosen by recipe, then by time, then by key. A failed row has no current answer."""

from __future__ import annotations

import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from checkpoint_rows import START, a_failed, an_answer, an_intent, ask, classify, open_store
from many_parts import CURRENT, OLD_AND_NEW, answered, index_of, index_of_all, many_answers

from batchvision.checkpoint import OutputView


@pytest.mark.anyio
async def test_the_choice_among_many_answers_is_the_one_made_row_by_row(tmp_path: Path) -> None:
    luck, answers = random.Random(1), list[tuple[str, str, int, str]]()
    for number in range(80):
        answers.append((f"row{luck.randrange(20)}", luck.choice(["old", "new"]), luck.randrange(5), f"key{number}"))
    for run, some in enumerate((answers[:50], answers[50:])):
        with open_store(tmp_path, run_id=f"run{run}") as store:
            store.recover(classify)
            for row_id, recipe, minute, key in some:
                intent = an_intent(1, exchange_id=key, row_id=row_id, request_key=key, recipe_id=recipe)
                raw = an_answer(key.encode())._replace(received_at=START + timedelta(minutes=minute))
                await ask(store, intent, raw)
            if run:
                failed = an_intent(1, exchange_id="failed", row_id="row3", request_key="failed")
                await ask(store, failed, an_answer(status=400))
            await store.close(complete=False)
    for recipe_id in ("old", "new", "other", None):
        best: dict[str, tuple[bool, int, str]] = {}
        for row_id, recipe, minute, key in answers:
            best[row_id] = max(best.get(row_id, (False, -1, "")), (recipe == recipe_id, minute, key))
        expected = {(row_id, key) for row_id, (_, _, key) in best.items() if row_id != "row3"}
        batches = OutputView(tmp_path).current_results(recipe_id, ("row_id", "output_text"))
        found = [(row["row_id"], row["output_text"]) for batch in batches for row in batch.to_pylist()]
        assert (len(found), set(found)) == (len(expected), expected)


# ---------------------------------------------------------------------------------- rows in the manifest


def _in_manifest(output: Path) -> dict[str, bool]:
    batches = OutputView(output).current_results(None, ("row_id",), with_in_manifest=True)
    return {row["row_id"]: row["in_manifest"] for batch in batches for row in batch.to_pylist()}


def test_in_manifest_is_false_for_rows_that_the_index_does_not_name(tmp_path: Path) -> None:
    answered(tmp_path, *OLD_AND_NEW)
    assert set(_in_manifest(tmp_path).values()) == {True}  # no run has written an index
    index_of(tmp_path, *CURRENT)
    assert _in_manifest(tmp_path) == {"row1": True, "row2": True, "row3": True, "row4": True, "row5": False}


def test_a_row_that_the_index_names_as_failed_is_in_the_manifest_after_its_answer_came(tmp_path: Path) -> None:
    answered(tmp_path, *OLD_AND_NEW)
    index_of(tmp_path, *CURRENT, failed=[a_failed(an_intent(5))])
    assert _in_manifest(tmp_path)["row5"]


def test_an_index_of_no_row_leaves_none_in_the_manifest(tmp_path: Path) -> None:
    answered(tmp_path, *OLD_AND_NEW)
    index_of(tmp_path)
    assert set(_in_manifest(tmp_path).values()) == {False}


def test_in_manifest_is_the_last_of_all_columns(tmp_path: Path) -> None:
    answered(tmp_path, *OLD_AND_NEW)
    plain, marked = (
        next(OutputView(tmp_path).current_results(None, with_in_manifest=is_marked)) for is_marked in (False, True)
    )
    assert marked.schema.names == [*plain.schema.names, "in_manifest"]
    assert marked.schema.field("in_manifest").type == pa.bool_()


#: Prints the peak of memory while the current rows of an output pass by, in bytes, and their number.
PEAK = """
import resource, sys
import pyarrow as pa
from pathlib import Path
from batchvision.checkpoint import OutputView
pa.set_memory_pool(pa.system_memory_pool())
batches = OutputView(Path(sys.argv[1])).current_results("a", ("row_id",), with_in_manifest=True)
rows = sum(batch.num_rows for batch in batches)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, rows)
"""


def _peak_bytes(output: Path) -> tuple[int, int]:
    done = subprocess.run([sys.executable, "-c", PEAK, str(output)], capture_output=True, text=True, check=True)
    peak, rows = map(int, done.stdout.split())
    return peak, rows


def test_choosing_the_current_rows_takes_at_most_60_bytes_a_row(tmp_path: Path) -> None:
    few, many = 100_000, 400_000
    for rows in (few, many):
        index_of_all(many_answers(tmp_path / str(rows), rows))
    (peak_of_few, _), (peak_of_many, found) = _peak_bytes(tmp_path / str(few)), _peak_bytes(tmp_path / str(many))
    assert found == many
    assert (peak_of_many - peak_of_few) / (many - few) < 60


def test_an_output_without_any_answer_has_no_current_row(tmp_path: Path) -> None:
    assert list(OutputView(tmp_path).current_results(None, with_in_manifest=True)) == []
