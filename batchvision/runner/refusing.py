"""Count the rows that a run would buy again, and refuse with the cost of each way out, before any request is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from batchvision.checkpoint import RowIndex, load_recipe, newest_summaries
from batchvision.errors import CheckpointDamaged, JobInvalid
from batchvision.eventloop import Offload
from batchvision.job import Job
from batchvision.runner.changed_columns import changed_columns
from batchvision.runner.counting import RequestTotals, count_requests
from batchvision.runner.feed import ChangeCounter, Changes, LocalImages, Selection, Survey, stretches
from batchvision.runner.guards import (
    RebuyQuote,
    agreed_recipes,
    are_too_many_changed,
    empty_words,
    missing_words,
    recipe_words,
    recipes_to_redo,
    row_words,
    rows_not_agreed,
)


async def refuse_to_buy_again(
    job: Job, surveyed: Survey, row_index: RowIndex, selection: Selection, offload: Offload
) -> frozenset[str]:
    """Recipes that this run may ask again. Raises JobInvalid without consent, or when the manifest or its images seem
    to be missing."""
    if not surveyed.rows_in_manifest and not selection.allow_empty:
        paid = await offload(row_index.paid_rows)
        if len(paid):
            raise JobInvalid(empty_words(job, len(paid)))
    found, images = await offload(_changes_of, job, surveyed, row_index, selection)
    if images.are_all_missing:
        raise JobInvalid(missing_words(job, images))
    agreed = agreed_recipes(job, newest_summaries(job.output_path))
    if rows_not_agreed(job, found, agreed) or are_too_many_changed(job, found, selection.shards):
        totals = await count_requests(job, surveyed, selection)
        raise JobInvalid(await rebuy_refusals(job, surveyed, selection, found, totals))
    return recipes_to_redo(job, found, agreed)


def _changes_of(job: Job, surveyed: Survey, row_index: RowIndex, selection: Selection) -> tuple[Changes, LocalImages]:
    """One pass over the manifest. It ends early if nothing was ever paid for."""
    counter, images = ChangeCounter(job, row_index), LocalImages(job)
    for stretch in stretches(job, surveyed, row_index, selection):
        counter.add(stretch)
        images.add(stretch)
        if counter.nothing_was_paid and images.is_settled:
            return Changes(), images
    return counter.found, images


async def rebuy_refusals(
    job: Job, surveyed: Survey, selection: Selection, found: Changes, redo: RequestTotals
) -> list[str]:
    """The messages that refuse a run: the rows it would buy again, and the cost of each way out.

    ``redo``: the requests of a run that buys them again.
    """
    agreed, refusals = agreed_recipes(job, newest_summaries(job.output_path)), []
    if rows := rows_not_agreed(job, found, agreed):
        kept = await count_requests(_with(job, "output", on_recipe_change="new_rows_only"), surveyed, selection)
        documents = list(_documents(job, frozenset(found.again) - recipes_to_redo(job, found, agreed)))
        refusals.append(recipe_words(rows, job, documents, _quote(redo), _quote(kept)))
    if are_too_many_changed(job, found, selection.shards):
        kept = await count_requests(_with(job, "manifest", on_row_change="keep"), surveyed, selection)
        columns = changed_columns(job, found.examples)
        refusals.append(row_words(job, found, columns, _quote(redo), _quote(kept)))
    return refusals


def _with(job: Job, section: str, **settings: str) -> Job:
    return job.model_copy(update={section: getattr(job, section).model_copy(update=settings)})


def _quote(totals: RequestTotals) -> RebuyQuote:
    return RebuyQuote(totals.requests, totals.likely_ticks)


def _documents(job: Job, recipe_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The stored recipes that can be read."""
    for recipe_id in sorted(recipe_ids):
        with suppress(JobInvalid, CheckpointDamaged):
            yield load_recipe(job.output_path, recipe_id)
