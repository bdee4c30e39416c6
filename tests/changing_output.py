"""An output that changes as runs change it: rows answered anew, rows that leave, another recipe and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from checkpoint_rows import COLUMNS, START, a_completed, a_failed, an_attempt, an_intent
from many_parts import a_summary

from batchvision.checkpoint import compact
from batchvision.checkpoint.disk import LocalDisk
from batchvision.checkpoint.manifest_index import RowsMet, write_index
from batchvision.checkpoint.parts import dated_path, failures_path, seal
from batchvision.checkpoint.registry import register
from batchvision.checkpoint.row_keys import pair
from batchvision.checkpoint.schema import Columns, TableSchemas
from batchvision.checkpoint.summaries import write_summary
from batchvision.records import AttemptState, Completed, Failed, Intent
from batchvision.secrets import Secrets


class ChangingOutput:
    """Each run answers some rows, then its manifest has ``current`` answers and ``failed`` rows."""

    def __init__(self, path: Path, columns: Columns = COLUMNS, job: str = "night") -> None:
        self.path = path
        self.job = job
        self.columns = columns
        path.mkdir(parents=True, exist_ok=True)
        self.current: dict[int, Completed] = {}
        self.failed: dict[int, Failed] = {}
        self.answered: list[Completed] = []  #: every answer
        self.cells: dict[str, Any] = {}  #: kept cells of every row beside the title
        self.runs = 0

    def run(
        self, rows: Iterable[int] = (), recipe: str = "a", version: str = "", failing: Iterable[int] = ()
    ) -> ChangingOutput:
        """Answer rows under a recipe. ``version``: of their cells. ``failing``: rows that fail instead."""
        self.runs += 1
        run_id, at = f"run{self.runs}", START + timedelta(days=self.runs)
        self.columns = register(LocalDisk(), self.path, self.job, self.columns)
        tables, cells = TableSchemas(self.job, self.columns, str), self.cells

        def intent(row: int) -> Intent:
            key = f"{recipe}{row}{version}"
            keys = {"run_id": run_id, "recipe_id": recipe, "request_key": key, "skip_key": f"s{key}"}
            return an_intent(row, **keys, sent_at=at, keep=cells | {"title": f"title {row}"})

        answers = {
            row: a_completed(intent(row), f"{recipe}{version} says {row}", {"answer_score": row / 8}, finished_at=at)
            for row in rows
        }
        failures = {row: a_failed(intent(row), failed_at=at) for row in failing}
        attempts = [an_attempt(each.intent, answer=each.answer) for each in answers.values()]
        attempts += [an_attempt(intent(row), AttemptState.FAILED, error_kind="refused") for row in failures]
        if answers:
            results = tables.results(list(answers.values()))
            seal(LocalDisk(), self.path, dated_path("results", "0of1", run_id, at, 1), results)
        if attempts:
            seal(LocalDisk(), self.path, dated_path("attempts", "0of1", run_id, at, 1), tables.attempts(attempts))
        self.current |= answers
        self.answered += answers.values()
        self.failed = {row: each for row, each in (self.failed | failures).items() if row not in answers}
        self.end(recipe)
        return self

    def end(self, recipe: str = "a", *, leaving: Iterable[int] = (), current: Iterable[Completed] = ()) -> None:
        """What the end of a run writes: failures, the index of the manifest and the summary."""
        self.current |= {int(each.row_id[3:]): each for each in current}
        for row in leaving:
            del self.current[row]
        tables = TableSchemas(self.job, self.columns, str)
        seal(LocalDisk(), self.path, failures_path("0of1"), tables.failures(list(self.failed.values())))
        met = RowsMet()
        for answer in self.current.values():
            met.add(pair(answer.row_id, answer.request_key))
        met.is_complete = True
        failed = list(self.failed.values())
        write_index(LocalDisk(), self.path, "0of1", f"run{self.runs}", met, failed)
        summary = replace(a_summary(), run_id=f"run{self.runs}", job=self.job, recipe_id=recipe)
        write_summary(LocalDisk(), self.path, summary, Secrets())


def changes(output: ChangingOutput, rows: int = 12, anew: int = 3) -> Iterator[str]:
    """The changes of an output's life. After each the caller loads."""
    output.run(range(rows), failing=range(rows, rows + 3))
    yield "first load"
    output.run([*range(anew), rows], version="-anew")
    yield "rows answered anew, and a failed row with an answer"
    compact(output.path)
    yield "compact"
    under_a = dict(output.current)
    output.runs += 1
    output.end(leaving=range(4, 4 + anew))
    yield "rows left the manifest"
    output.run(range(rows - 1), recipe="b", failing=[rows - 1])
    yield "another recipe, under which a row fails"
    output.failed.pop(rows - 1)
    output.runs += 1
    output.end(current=under_a.values())
    yield "a return to the first recipe"
    compact(output.path, drop_superseded=True)
    yield "superseded answers dropped"
