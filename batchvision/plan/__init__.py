"""What a run would do: rows, images, requests, what they may cost. Reads manifest, images and output; sends nothing.

Rule: the same survey and feed as a run, so that the counts are the run's own. Who wants to know more of the requests
(``pilot/``) is shown each as it is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from batchvision.checkpoint import OutputView, Standing, load_recipe, newest_summaries
from batchvision.checkpoint.books import Books, Carries
from batchvision.checkpoint.schema import failures_of
from batchvision.errors import CheckpointDamaged, JobInvalid, RowFault
from batchvision.feed import (
    ChangeCounter,
    Changes,
    LocalImages,
    NewStanding,
    Selection,
    Stretch,
    Tally,
    stretches,
    survey,
)
from batchvision.feed import Standing as FeedStanding
from batchvision.guards import (
    Quote,
    agreed_recipes,
    are_too_many_changed,
    empty_words,
    missing_words,
    recipe_words,
    recipes_to_redo,
    row_words,
    rows_not_agreed,
)
from batchvision.job import Job
from batchvision.plan.bodies import bodies, shortened
from batchvision.plan.changed_columns import changed_columns
from batchvision.plan.counts import Plan, RowCounts, Sums
from batchvision.plan.looking import Distinct, Looking, Seen
from batchvision.pricelist import quote
from batchvision.providers import dialect
from batchvision.records import Exchange, ImageSize, Lane, Row
from batchvision.wiring import estimator_of

__all__ = ["Looking", "Plan", "Seen", "plan", "shortened", "standing_of"]

#: Reasons for invalid rows that are kept to be shown.
REASONS_SHOWN = 10
#: Is shown each request that would be sent; rows that share another's are not.
Watch = Callable[[Seen], None]
#: Of an image handed over as a URL.
UNKNOWN_SIZE: ImageSize = (None, None)


async def plan(
    job: Job, selection: Selection | None = None, *, show_requests: int = 0, watch: Watch | None = None
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
    counting = _Counting(drawn, looking, Distinct(standing) if job.limits.deduplicate else None, watch, show_requests)
    counter = ChangeCounter(job, standing) if isinstance(standing, Standing) else None
    local_images = LocalImages(job)
    for stretch in stretches(job, surveyed, standing, selection):
        counting.add(stretch)
        local_images.add(stretch)
        if counter is not None:
            counter.add(stretch)
    drawn.seconds = _seconds_at_limits(job, drawn.cost)
    if local_images.are_all_missing:
        drawn.refusals.append(missing_words(job, local_images))
    if isinstance(standing, Standing) and not surveyed.rows_in_manifest and len(standing.paid_rows()):
        drawn.refusals.append(empty_words(job, len(standing.paid_rows())))
    if counter is not None:
        await _add_changes(drawn, job, selection, counter.found)
    if counting.shown:
        drawn.requests_shown = await bodies(job, looking.estimator, counting.shown)
    return drawn


async def _add_changes(drawn: Plan, job: Job, selection: Selection, found: Changes) -> None:
    """What would be bought again, and whether a run is refused for it."""
    drawn.changes = found
    drawn.done_elsewhere = (found.rows_again + found.kept, found.ticks)
    agreed = agreed_recipes(job, newest_summaries(job.output_path))
    if rows := rows_not_agreed(job, found, agreed):
        others = frozenset(found.again) - recipes_to_redo(job, found, agreed)
        kept = await plan(_with(job, "output", on_recipe_change="new_rows_only"), selection)
        documents = list(_documents(job, others))
        drawn.refusals.append(recipe_words(rows, job, documents, _quote(drawn), _quote(kept)))
    if are_too_many_changed(job, found):
        kept = await plan(_with(job, "manifest", on_row_change="keep"), selection)
        columns = changed_columns(job, found.examples)
        drawn.refusals.append(row_words(job, found, columns, _quote(drawn), _quote(kept)))


def _with(job: Job, section: str, **settings: str) -> Job:
    """The job with another value in a section."""
    return job.model_copy(update={section: getattr(job, section).model_copy(update=settings)})


def _quote(drawn: Plan) -> Quote:
    return Quote(drawn.cost.requests, drawn.cost.likely_ticks)


def _documents(job: Job, recipe_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The stored recipes; one that is missing or damaged is left out."""
    for recipe_id in sorted(recipe_ids):
        with suppress(JobInvalid, CheckpointDamaged):
            yield load_recipe(job.output_path, recipe_id)


def standing_of(job: Job) -> FeedStanding:
    """How rows stand by the sealed tables and the journals, read without the lock."""
    view = OutputView(job.output_path)
    if not view.exists:
        return NewStanding()
    work = view.open_work()
    failed = [failed for batch in view.rows("failures") for failed in failures_of(batch)]
    books = Books(
        failures={each.row_id: each for each in failed},
        carries=Carries(work.held),
        open={intent.exchange_id: Exchange(intent, ticket="open") for intent in work.tickets},
    )
    return Standing.read(job.output_path, books, job.recipe.recipe_id)


@dataclass(slots=True)
class _Counting:
    """A plan while the rows of its manifest are counted. ``wanted``: how many of those to do are to be ``shown``."""

    drawn: Plan
    looking: Looking
    distinct: Distinct | None
    watch: Watch | None
    wanted: int
    shown: list[Row] = field(default_factory=list)

    def add(self, stretch: Stretch) -> None:
        self._pass_over(stretch.tally)
        if stretch.images.are_all_plain and self.watch is None and len(self.shown) >= self.wanted:
            self._add_columns(stretch)
        else:
            self._add_rows(stretch)

    def _pass_over(self, tally: Tally) -> None:
        counts = self.drawn.rows
        counts.done += tally.done
        counts.failed_kept += tally.failed_kept
        counts.failed_before += tally.failed_kept + len(tally.retried)
        counts.awaiting += tally.awaiting
        counts.held += tally.held
        counts.left += tally.left

    def _add_rows(self, stretch: Stretch) -> None:
        """Each row as a run would look at it."""
        for batch in stretch.batches():
            seen = list(self._seen(batch.rows, stretch.tally.retried))
            self.shown += [each.row for each in seen[: self.wanted - len(self.shown)]]
            for each in seen if self.distinct is None else self.distinct.first(seen):
                self.drawn.cost.add(each.estimate)
                if self.watch is not None:
                    self.watch(each)

    def _seen(self, rows: tuple[Row, ...], retried: Collection[int]) -> Iterator[Seen]:
        """The rows that can be sent, looked at and counted; those that cannot are noted."""
        for row in rows:
            try:
                seen = self.looking.at(row)
            except RowFault as fault:
                self._note_invalid(row.row_id, row.problem or f"{fault.kind}: {fault.message}")
                continue
            self.drawn.rows.to_do += 1
            self.drawn.rows.retried += row.position in retried
            yield seen

    def _add_columns(self, stretch: Stretch) -> None:
        """As :meth:`_add_rows`, of rows with plain URLs that nobody wants to see: none of them becomes an object."""
        places = stretch.sound_places()
        for place in stretch.problem_places():
            self._note_invalid(stretch.ids[place].as_py(), stretch.problems[place])
        self.drawn.rows.to_do += len(places)
        self.drawn.rows.retried += len(stretch.tally.retried.intersection(map(stretch.positions.__getitem__, places)))
        asked = stretch.url_rows(places, self.drawn.recipe_id)
        self.drawn.images.add_urls(sum(asked.images))
        kinds = list(zip(asked.text_chars, asked.images, strict=True))
        if self.distinct is not None:
            kinds = [kinds[place] for place in self.distinct.first_places(asked.request_keys)]
        for (chars, images), times in Counter(kinds).items():
            self.drawn.cost.add(self.looking.estimator.estimate(chars, [UNKNOWN_SIZE] * images), times)

    def _note_invalid(self, row_id: str, reason: str) -> None:
        self.drawn.rows.invalid += 1
        if len(self.drawn.reasons) < REASONS_SHOWN:
            self.drawn.reasons.append((row_id, reason))


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
