"""Count the rows that a run would buy again, and refuse with the cost of each way out, before any request is sent.

Rule: the words and numbers are those of ``plan``, which is drawn only where a run is refused.
"""

from __future__ import annotations

from batchvision.checkpoint import Standing, newest_summaries
from batchvision.errors import JobInvalid
from batchvision.feed import ChangeCounter, Changes, LocalImages, Selection, Survey, stretches
from batchvision.guards import (
    agreed_recipes,
    are_too_many_changed,
    empty_words,
    missing_words,
    recipes_to_redo,
    rows_not_agreed,
)
from batchvision.images import Offload
from batchvision.job import Job
from batchvision.plan import plan


async def refuse_to_buy_again(
    job: Job, surveyed: Survey, standing: Standing, selection: Selection, offload: Offload
) -> frozenset[str]:
    """Recipes that this run may ask again. Raises JobInvalid without consent, or when the manifest or its images seem
    to be missing."""
    if not surveyed.rows_in_manifest and not selection.allow_empty:
        paid = await offload(standing.paid_rows)
        if len(paid):
            raise JobInvalid(empty_words(job, len(paid)))
    found, images = await offload(_look, job, surveyed, standing, selection)
    if images.are_all_missing:
        raise JobInvalid(missing_words(job, images))
    agreed = agreed_recipes(job, newest_summaries(job.output_path))
    if rows_not_agreed(job, found, agreed) or are_too_many_changed(job, found):
        drawn = await plan(job, selection)
        raise JobInvalid(drawn.refusals)
    return recipes_to_redo(job, found, agreed)


def _look(job: Job, surveyed: Survey, standing: Standing, selection: Selection) -> tuple[Changes, LocalImages]:
    """One pass over the manifest, to its end only where something was paid for."""
    counter, images = ChangeCounter(job, standing), LocalImages(job)
    for stretch in stretches(job, surveyed, standing, selection):
        counter.add(stretch)
        images.add(stretch)
        if counter.nothing_was_paid and images.is_settled:
            return Changes(), images
    return counter.found, images
