"""Decide whether a run needs consent: after a changed recipe, a changed manifest or missing inputs. Pure.

``feed`` counts the changes, ``counting`` estimates the costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batchvision.job import Job, changed_keys, recipe_document
from batchvision.records import Purpose, RunSummary
from batchvision.runner.feed import Changes, LocalImages
from batchvision.ticks import format_usd
from batchvision.wording import counted

#: Number of keys or columns that a message names.
KEYS_NAMED = 4


class RebuyQuote(NamedTuple):
    """Requests and cost of one choice. ``ticks`` is ``None`` without a price."""

    requests: int
    ticks: int | None

    def __str__(self) -> str:
        cost = "at an unknown price" if self.ticks is None else f"for about {format_usd(self.ticks)}"
        return counted(self.requests, "request") + (f" {cost}" if self.requests else "")


# ---------------------------------------------------------------------------------- the recipe


def agreed_recipes(job: Job, summaries: Iterable[RunSummary]) -> frozenset[str] | None:
    """Recipes that the last whole run could ask again under the job's recipe; ``None`` for every recipe.

    ``summaries``: the newest first. Trials (``--limit``, ``--sample``, a pilot) and ``reparse`` give no consent.
    """
    for summary in summaries:
        if summary.command != Purpose.RUN or summary.is_trial:
            continue
        if summary.recipe_id != job.recipe.recipe_id:
            break
        if summary.redo_recipes is not None:
            return frozenset(summary.redo_recipes)
        # summaries of an earlier version list no recipes
        policy = summary.config["output"]["on_recipe_change"]
        return frozenset() if policy == "new_rows_only" else None
    return frozenset()


def recipes_to_redo(job: Job, found: Changes, agreed: frozenset[str] | None) -> frozenset[str]:
    """Recipes that this run may ask again: the agreed ones, or every one under ``on_recipe_change = "redo"``."""
    if job.output.on_recipe_change == "redo" or agreed is None:
        return frozenset(found.again) | (agreed or frozenset())
    return agreed


def rows_not_agreed(job: Job, found: Changes, agreed: frozenset[str] | None) -> int:
    """Count the rows that a run would ask again without consent."""
    if job.output.on_recipe_change != "refuse":
        return 0
    allowed = recipes_to_redo(job, found, agreed)
    return sum(rows for recipe_id, rows in found.again.items() if recipe_id not in allowed)


def recipe_words(
    rows: int, job: Job, documents: Iterable[Mapping[str, Any]], redo: RebuyQuote, new_rows_only: RebuyQuote | None
) -> str:
    """The message for a changed recipe, with the cost of each choice. ``documents``: the earlier recipes."""
    now = recipe_document(job.recipe)
    changes = [changed_keys(document, now) for document in documents]
    keys = sorted({key for keys in changes for key in keys})
    named = ", ".join(keys[:KEYS_NAMED]) + (f" and {len(keys) - KEYS_NAMED} more" if len(keys) > KEYS_NAMED else "")
    words = [
        f"{counted(rows, 'row')} of this manifest {'was' if rows == 1 else 'were'} paid for under another recipe "
        f"({named or 'it'} changed), and would be asked again"
    ]
    if changes and all(key.startswith("answer.") for key in keys):
        words.append(
            "Only [answer] has changed: `batchvision reparse JOB` reads the stored answers again and costs nothing"
        )
    words.append(f"Type `--on-recipe-change redo` to ask them again: {redo}")
    kept = new_rows_only or RebuyQuote(0, 0)
    words.append(f"Or `--on-recipe-change new_rows_only` to keep what they have and ask only new rows: {kept}")
    return ". ".join(words)


# ---------------------------------------------------------------------------------- the manifest

#: A share of rows (20%) applies from this number of changed rows on.
LEAST_CHANGED = 100


def are_too_many_changed(job: Job, found: Changes, shards: int = 1) -> bool:
    """Whether more answered rows have changed than ``manifest.max_changed`` allows.

    A shard has a part of the rows, chosen by hash. So its part of :data:`LEAST_CHANGED` speaks for the whole manifest.
    """
    manifest = job.manifest
    if manifest.on_row_change != "refuse" or not found.changed:
        return False
    if manifest.max_changed.part is not None and found.changed * shards < LEAST_CHANGED:
        return False
    return not manifest.max_changed.allows(found.changed, max(found.paid, found.changed))


def row_words(job: Job, found: Changes, columns: Sequence[str], redo: RebuyQuote, keep: RebuyQuote) -> str:
    """The message for changed rows, with the cost of each choice."""
    named = ", ".join(columns[:KEYS_NAMED]) or "cells or images"
    return ". ".join(
        [
            f"{found.changed:,} of {counted(found.paid, 'row')} that were paid for have changed, more than "
            f"manifest.max_changed ({job.manifest.max_changed}) allows, and would be asked again: {named}",
            "What does not change the image belongs into manifest.ignore_url_parameters",
            f"Type `--on-row-change redo` to ask them again: {redo}, new rows included",
            f"Or `--on-row-change keep` to keep the answers they have, as long as they stay changed: {keep}",
        ]
    )


# ---------------------------------------------------------------------------------- missing manifests and images


def empty_words(job: Job, rows: int) -> str:
    """The message for an empty manifest beside an output with answers."""
    return (
        f"{job.manifest_name} has no rows, and {job.output_path} has paid answers of {counted(rows, 'row')}: was it "
        "written to its end? Nothing was changed. Type `--allow-empty` if it is meant to be empty"
    )


def missing_words(job: Job, images: LocalImages) -> str:
    """The message for missing local images."""
    return (
        f"none of the first {images.missing} local images to do can be found under manifest.root {job.root} (the first "
        f"is {images.example}): is the folder mounted? Correct manifest.root or the paths. Nothing was sent"
    )
