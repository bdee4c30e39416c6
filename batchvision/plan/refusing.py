"""Before a run buys again what is paid for: count it, and refuse with the price of each way out.

Rule: the words and numbers are those of ``plan``, which is drawn only where a run is refused.
"""

from __future__ import annotations

from batchvision.checkpoint import Standing, newest_summaries
from batchvision.errors import JobInvalid
from batchvision.feed import Selection, Survey, changes
from batchvision.guards import agreed_recipes, are_too_many_changed, recipes_to_redo, rows_not_agreed
from batchvision.images import Offload
from batchvision.job import Job
from batchvision.plan import plan


async def refuse_to_buy_again(
    job: Job, surveyed: Survey, standing: Standing, selection: Selection, offload: Offload
) -> frozenset[str]:
    """The recipes whose rows this run may ask again. Raises JobInvalid where a user has to say so first."""
    found = await offload(changes, job, surveyed, standing, selection)
    agreed = agreed_recipes(job, newest_summaries(job.output_path))
    if rows_not_agreed(job, found, agreed) or are_too_many_changed(job, found):
        drawn = await plan(job, selection)
        raise JobInvalid(drawn.refusals)
    return recipes_to_redo(job, found, agreed)
