"""Find the recipes of an output whose answers can be read again: they differ from the job's recipe in [answer] only."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batchvision.checkpoint import load_recipe
from batchvision.errors import CheckpointDamaged, JobInvalid
from batchvision.job import Job, recipe_document, recipe_from_document
from batchvision.records import Recipe


def recipes_alike(job: Job) -> dict[str, Recipe]:
    """The recipes of the output that differ from the job's recipe in [answer] at most, by recipe_id.

    Raises JobInvalid if no recipe of the output does.
    """
    now = _without_answer(recipe_document(job.recipe))
    alike: dict[str, Recipe] = {}
    differing: set[str] = set()
    for path in sorted((job.output_path / "recipes").glob("*.json")):
        document = _document(job.output_path, path.stem)
        if document is None:
            continue
        then = _without_answer(document)
        if then == now:
            alike[path.stem] = recipe_from_document(document)
        else:
            differing |= {name for name in now.keys() | then.keys() if now.get(name) != then.get(name)}
    if not alike:
        changed = f": {', '.join(sorted(differing))} changed as well" if differing else ""
        raise JobInvalid(
            f"no answer in {job.output_path} can be read again{changed}. reparse serves a job of which only [answer] "
            "has changed; for the rest, `batchvision run JOB --on-recipe-change redo` asks again"
        )
    return alike


def _document(output: Path, recipe_id: str) -> dict[str, Any] | None:
    """A recipe of the output; ``None`` if the file does not hold the recipe of its name."""
    try:
        document = load_recipe(output, recipe_id)
        return document if recipe_from_document(document).recipe_id == recipe_id else None
    except (CheckpointDamaged, KeyError, TypeError, ValueError):
        return None


def _without_answer(document: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != "answer"}
