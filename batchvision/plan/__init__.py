"""What a run would do: rows, images, requests, what they may cost. Reads manifest, images and output; sends nothing.

Rule: the same survey and feed as a run, so that the counts are the run's own. Who wants to know more of the requests
(``pilot/``) is shown each as it is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from batchvision.checkpoint import OutputView, Standing
from batchvision.checkpoint.books import Books
from batchvision.checkpoint.schema import failures_of
from batchvision.errors import RowFault
from batchvision.feed import NewStanding, Selection, Survey, feed, survey
from batchvision.feed import Standing as FeedStanding
from batchvision.garbage import rarely_collected
from batchvision.job import Job
from batchvision.plan.bodies import bodies, shortened
from batchvision.plan.counts import Plan, RowCounts, Sums
from batchvision.plan.looking import Distinct, Looking, Seen
from batchvision.pricelist import quote
from batchvision.providers import dialect
from batchvision.records import Exchange, Lane, Row
from batchvision.wiring import estimator_of

__all__ = ["Looking", "Plan", "Seen", "plan", "shortened", "standing_of"]

#: Reasons for invalid rows that are kept to be shown.
REASONS_SHOWN = 10
#: Is shown each request that would be sent; rows that share another's are not.
Watch = Callable[[Seen], None]


async def plan(
    job: Job, selection: Selection | None = None, *, show_requests: int = 0, watch: Watch = lambda seen: None
) -> Plan:
    """Look at everything a run of ``job`` would do. Raises JobInvalid as a run would."""
    selection = selection or Selection(retry_failed=job.limits.retry_kinds)
    surveyed = survey(job, selection)
    standing = standing_of(job)
    prices = quote(job)
    looking = Looking(job, estimator_of(job, prices.prices))
    drawn = Plan(
        rows=RowCounts(total=surveyed.rows),
        images=looking.images,
        cost=Sums(),
        reasons=[],
        requests_shown=[],
        recipe_id=job.recipe.recipe_id,
        lane=job.delivery.lane_used,
        prices=prices,
        price_warning=prices.warning(datetime.now(UTC).date(), job),
    )
    distinct = Distinct(standing) if job.limits.deduplicate else None
    shown: list[Row] = []
    with rarely_collected():
        for rows in _rows_to_do(job, surveyed, standing, selection, drawn.rows):
            seen = list(_seen(rows, looking, standing, drawn))
            shown += [each.row for each in seen[: show_requests - len(shown)]]
            for each in seen if distinct is None else distinct.first(seen):
                drawn.cost.add(each.estimate)
                watch(each)
    drawn.seconds = _seconds_at_limits(job, drawn.cost)
    if isinstance(standing, Standing):
        others = standing.done_other_recipe
        drawn.done_elsewhere = (others.rows, others.ticks)
    if shown:
        drawn.requests_shown = await bodies(job, looking.estimator, shown)
    return drawn


def standing_of(job: Job) -> FeedStanding:
    """How rows stand by the sealed tables and the journals, read without the lock."""
    view = OutputView(job.output_path)
    if not view.exists:
        return NewStanding()
    work = view.open_work()
    failed = [failed for batch in view.rows("failures") for failed in failures_of(batch)]
    books = Books(
        failures={each.row_id: each for each in failed},
        carries={carry.row_id: carry for carry in work.held},
        open={intent.exchange_id: Exchange(intent, ticket="open") for intent in work.tickets},
    )
    return Standing.read(job.output_path, books, job.recipe.recipe_id)


def _rows_to_do(
    job: Job, surveyed: Survey, standing: FeedStanding, selection: Selection, counts: RowCounts
) -> Iterator[tuple[Row, ...]]:
    """The feed's rows, some at a time; what it does not give is counted here."""
    for batch in feed(job, surveyed, standing, selection):
        counts.done += batch.done
        counts.failed_kept += batch.failed_kept
        counts.failed_before += batch.failed_kept
        counts.awaiting += batch.awaiting
        counts.held += batch.held
        counts.left += batch.left
        yield batch.rows


def _seen(rows: tuple[Row, ...], looking: Looking, standing: FeedStanding, drawn: Plan) -> Iterator[Seen]:
    """The rows that can be sent, looked at and counted; those that cannot are noted."""
    for row in rows:
        failed_before = standing.failed_before(row.row_id, row.skip_key) is not None
        drawn.rows.failed_before += failed_before
        try:
            seen = looking.at(row)
        except RowFault as fault:
            _note_invalid(drawn, row, fault)
            continue
        drawn.rows.to_do += 1
        drawn.rows.retried += failed_before
        yield seen


def _note_invalid(drawn: Plan, row: Row, fault: RowFault) -> None:
    drawn.rows.invalid += 1
    if len(drawn.reasons) < REASONS_SHOWN:
        drawn.reasons.append((row.row_id, row.problem or f"{fault.kind}: {fault.message}"))


def _seconds_at_limits(job: Job, sums: Sums) -> dict[Lane, float]:
    """How long the job's own rates make it take, lane by lane; none without a rate. A ticket is polled once at the
    least, and polls take their turn among the requests."""
    limits = job.limits
    rates = [limits.requests_per_second, limits.requests_per_minute and limits.requests_per_minute / 60]
    given = [rate for rate in rates if rate]
    if not given and not limits.tokens_per_minute:
        return {}
    for_tokens = sums.tokens / limits.tokens_per_minute * 60 if limits.tokens_per_minute else 0.0
    sent = {Lane.ONLINE: sums.requests, Lane.DEFERRED: 2 * sums.requests}
    lanes = [lane for lane in sent if lane in dialect(job.provider.name).lanes]
    return {lane: max(sent[lane] / min(given) if given else 0.0, for_tokens) for lane in lanes}
