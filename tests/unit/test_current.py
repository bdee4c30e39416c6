"""The current answer of a row is chosen by recipe, then by time, then by key; rows that are failed now have none."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
from checkpoint_rows import START, an_answer, an_intent, ask, classify, open_store

from batchvision.checkpoint import OutputView

pytestmark = pytest.mark.anyio


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
