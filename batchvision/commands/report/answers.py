"""Answers as a report shows, reviews and compares them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from batchvision.checkpoint import load_recipe
from batchvision.errors import CheckpointDamaged, JobInvalid
from batchvision.job import TEXT, main_property, recipe_from_document
from batchvision.prompt import answer_columns
from batchvision.records import AnswerSpec, Recipe, RunSummary


def recipe_of(output: Path, run: RunSummary | None) -> Recipe | None:
    """The recipe of a run. ``None`` where its file is missing or damaged."""
    try:
        return None if run is None else recipe_from_document(load_recipe(output, run.recipe_id))
    except (JobInvalid, CheckpointDamaged):
        return None


class AnswerForm(NamedTuple):
    """The answer columns of a recipe. Plain text has no columns.

    ``main``: the column that a single known answer is about. ``None``: the answers have several properties.
    """

    columns: tuple[str, ...]
    main: str | None

    @classmethod
    def of(cls, recipe: Recipe | None) -> AnswerForm:
        """The form of a recipe's answers; plain text where the recipe is missing."""
        spec = AnswerSpec() if recipe is None else recipe.answer
        names = {TEXT: "output_text"} | {column.property: column.name for column in answer_columns(spec)}
        main = main_property(spec)
        return cls(tuple(names.values())[1:], None if main is None else names[main])

    def text(self, row: Mapping[str, Any]) -> str:
        """The whole answer of a row of ``results``: the main property, or all properties as JSON.

        An answer of another form is shown as it came.
        """
        value = None if self.main is None else row.get(self.main)
        return str(row.get("output_json") or row.get("output_text") or "") if value is None else value_text(value)


PLAIN = AnswerForm((), "output_text")


def label_of(row: Mapping[str, Any]) -> str:
    """The label of an answer; "" without labels."""
    return value_text(row.get("answer_label"))


def value_text(value: Any) -> str:
    """A cell as text. A list is joined by ", ", or is JSON where an item has a comma."""
    match value:
        case None:
            return ""
        case list():
            texts = list(map(value_text, value))
            return json.dumps(texts, ensure_ascii=False) if any("," in each for each in texts) else ", ".join(texts)
        case bool():
            return "true" if value else "false"
        case bytes():
            return f"({len(value):,} bytes)"
        case Decimal() | float():
            return f"{value:g}"
        case _:
            return str(value)
