"""Compare the current answers of an output with those of another output, or with those after an earlier run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchvision.accuracy import accuracy_words, measure
from batchvision.checkpoint import OutputView, newest_summaries, read_summary
from batchvision.commands.read import schema_of_table
from batchvision.commands.report.answers import AnswerForm, label_of, recipe_of, value_text
from batchvision.commands.report.values import Beside, Change, Comparison, LabelAgreement, PropertyAgreement
from batchvision.commands.status import open_output
from batchvision.errors import JobInvalid
from batchvision.records import RunSummary

#: Answers of more different values have no agreement by label.
MOST_LABELS = 50
#: Other labels that are named beside one label.
INSTEAD_SHOWN = 3
_CONFIDENCE = "answer_label_confidence"


@dataclass(frozen=True, slots=True)
class OtherSide:
    """The answers to compare with. ``at``: the end of an earlier run of the same output."""

    name: str
    view: OutputView
    run: RunSummary | None
    at: datetime | None = None

    @classmethod
    def of_output(cls, output: Path) -> OtherSide:
        """The current answers of another output. Raises JobInvalid without an output."""
        view = open_output(output)
        return cls(str(output), view, view.latest())

    @classmethod
    def of_run(cls, output: Path, run_id: str) -> OtherSide:
        """The answers of an output after a run. Raises JobInvalid, and CheckpointDamaged for its summary."""
        path = output / "runs" / f"{run_id}.json"
        if not path.is_file():
            last = ", ".join(run.run_id for run in islice(newest_summaries(output), 5)) or "none"
            raise JobInvalid(
                f"there is no output at {run_id}, and {output} has no run of that name; its last runs: {last}"
            )
        run = read_summary(path)
        return cls(f"run {run_id}", open_output(output), run, datetime.fromisoformat(run.finished_at))

    def table(self, form: AnswerForm) -> pa.Table:
        """row_id, cost and answer of each row, in the columns that the output has."""
        texts = ("output_text", "output_json") if form.main in (None, "output_text") else ()
        names = {"row_id", "row_cost_ticks", "cost_source", *texts, *form.columns}
        recipe_id = None if self.run is None else self.run.recipe_id
        existing = [name for name in schema_of_table(self.view, "results").names if name in names]
        batches = list(self.view.current_results(recipe_id, existing, at=self.at))
        return pa.Table.from_batches(batches) if batches else pa.table({"row_id": pa.array([], pa.string())})


class Comparing:
    """Looks up the other answer of each row, and counts."""

    def __init__(self, form: AnswerForm, other: OtherSide) -> None:
        self._other = other
        self._form = form
        recipe = recipe_of(other.view.output, other.run)
        self._other_form = AnswerForm.of(recipe)
        self._model = "" if recipe is None else f"{recipe.model} at {recipe.provider}"
        self._table = other.table(self._other_form)
        self._is_met = np.zeros(len(self._table), np.bool_)
        self._changes = Counter[Change]()
        self._labels: Counter[tuple[str, str]] | None = None if form.main in (None, "output_text") else Counter()
        common = [name for name in form.columns if name in self._other_form.columns and name != _CONFIDENCE]
        self._same = dict.fromkeys(common, 0)
        self._cost_rows = self._ticks = self._other_ticks = 0

    def beside(self, batch: pa.RecordBatch, *, is_failed: bool) -> Iterator[Beside]:
        """The other answer of each row of a batch of ``results`` or ``failures``."""
        places = pc.index_in(batch["row_id"], value_set=self._table["row_id"])
        if not is_failed:
            self._is_met[places.drop_null().to_numpy()] = True
        others = self._table.take(places).to_pylist()
        for row, other in zip(batch.to_pylist(), others, strict=True):
            change = self._change(row, other, is_failed=is_failed)
            self._changes[change] += 1
            if other["row_id"] is None:
                yield Beside(change)
            else:
                yield Beside(change, label_of(other), self._other_form.text(other), other["row_cost_ticks"])

    def _change(self, row: Mapping[str, Any], other: Mapping[str, Any], *, is_failed: bool) -> Change:
        if other["row_id"] is None:
            return Change.FAILED if is_failed else Change.NEW
        if is_failed:
            return Change.LOST
        self._add_cost(row, other)
        for name in self._same:
            self._same[name] += _spelling(row.get(name)) == _spelling(other.get(name))
        if self._labels is not None:
            pair = self._other_form.text(other), self._form.text(row)
            self._labels[pair] += 1
            if len(self._labels) > MOST_LABELS**2:
                self._labels = None
        return Change.SAME if self._is_same(row, other) else Change.CHANGED

    def _is_same(self, row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
        """Compare the main property; else each common property; else the texts."""
        main, other_main = self._form.main, self._other_form.main
        if main is not None and main == other_main:
            return _spelling(row.get(main)) == _spelling(other.get(main))
        if self._same:
            return all(_spelling(row.get(name)) == _spelling(other.get(name)) for name in self._same)
        return _spelling(self._form.text(row)) == _spelling(self._other_form.text(other))

    def _add_cost(self, row: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        if "unknown" not in (row["cost_source"], other["cost_source"]):
            self._cost_rows += 1
            self._ticks += row["row_cost_ticks"] or 0
            self._other_ticks += other["row_cost_ticks"] or 0

    def comparison(self) -> Comparison:
        """The counts of all rows. Only after both tables."""
        counts, labels = self._changes, self._labels or Counter()
        measured = measure(labels.elements())
        rows = counts[Change.SAME] + counts[Change.CHANGED]
        return Comparison(
            name=self._other.name,
            model=self._model,
            rows=rows,
            same=counts[Change.SAME],
            changed=counts[Change.CHANGED],
            only_here=counts[Change.NEW],
            only_there=int(len(self._is_met) - self._is_met.sum()),
            kappa=None if measured is None else measured.kappa,
            labels=tuple(
                LabelAgreement(each.label, each.expected, each.right, _instead(labels, each.label))
                for each in (() if measured is None or len(measured.labels) > MOST_LABELS else measured.labels)
            ),
            properties=tuple(PropertyAgreement(name, rows, same) for name, same in self._same.items()),
            cost_rows=self._cost_rows,
            cost_ticks=self._ticks,
            other_cost_ticks=self._other_ticks,
            accuracy=() if self._other.run is None else tuple(accuracy_words(self._other.run.accuracy)),
        )


def _instead(labels: Counter[tuple[str, str]], label: str) -> tuple[tuple[str, int], ...]:
    """The most frequent other labels of rows that have ``label`` in the other output."""
    found = Counter({here: rows for (there, here), rows in labels.items() if there == label != here})
    return tuple(found.most_common(INSTEAD_SHOWN))


def _spelling(value: Any) -> object:
    """The value, so that equal answers are equal: lists in any order, JSON by content, texts without extra spaces."""
    if isinstance(value, list):
        return sorted(map(value_text, value))
    if isinstance(value, str):
        if value.startswith(("{", "[")):
            try:
                return json.loads(value)
            except ValueError:
                pass
        return " ".join(value.split())
    return value
