"""Put together the parts that take a row from the feed to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from typing import NamedTuple

from batchvision.http import ProviderClient
from batchvision.images import ImageSource
from batchvision.limits import Pacing, Permits, RateLimiter, ReportWait, SpendCap, SpendCaps
from batchvision.providers import batch_dialect
from batchvision.records import Lane
from batchvision.runner import wiring
from batchvision.runner.batch_calls import BatchCalls
from batchvision.runner.batch_exchanges import BatchExchanges
from batchvision.runner.booking import Booking
from batchvision.runner.exchange import Exchanges, Intents, Settlement
from batchvision.runner.lanes import BatchLane, DeferredLane, Delivery, OnlineLane, RequestLane, TicketLane
from batchvision.runner.opening import OpenedOutput
from batchvision.runner.prepare import RowRequests
from batchvision.runner.provider_calls import ProviderCalls, Terms
from batchvision.runner.refusals import RefusedRows
from batchvision.runner.setup import RunSetup
from batchvision.runner.waiting_rows import LaterRows, RequestDeduplicator


@asynccontextmanager
async def permits_of(
    setup: RunSetup, output: OpenedOutput, tell: ReportWait, *, is_capped: bool = True
) -> AsyncIterator[Permits]:
    """The permits of a run. ``tell`` is called at each wait. ``is_capped`` False: nothing is sent."""
    job, dependencies = setup.job, setup.dependencies
    pacing: Pacing | None = None
    with ExitStack() as stack:
        cap: SpendCap = dependencies.spend_cap or SpendCaps()
        if is_capped and dependencies.spend_cap is None:
            shard = output.selection.own_shard
            open_ticks = output.tickets.here_ticks + output.tickets.not_here_ticks
            limits = wiring.limits_of(
                job, setup.prices, setup.estimator, output.spent, dependencies.now, shard, open_ticks
            )
            pacing, cap = stack.enter_context(limits)
        cap.commit(output.tickets.not_here_ticks)
        was_answered = wiring.refusals_of(job, output.latest).is_proven
        rate: RateLimiter | None = dependencies.rate_limiter
        yield Permits(rate or wiring.rate_limiter_of(job, tell, pacing, was_answered=was_answered), cap)


class RunLanes(NamedTuple):
    """The lane of the rows, and the lanes that collect tickets of earlier runs."""

    delivery: Delivery
    used: RequestLane
    by_tickets: Mapping[Lane, TicketLane]


def lanes_of(
    setup: RunSetup, output: OpenedOutput, client: ProviderClient, images: ImageSource, permits: Permits
) -> RunLanes:
    """The lanes of a run."""
    job, stop, counts, dependencies = setup.job, setup.stop, setup.counts, setup.dependencies
    row_index, classifier, store = output.row_index, output.classifier, output.store
    refusals = wiring.refusals_of(job, output.latest)
    terms = terms_of(setup)
    provider = ProviderCalls(terms, client, setup.dialect, wiring.forms_of(job), setup.key)
    settlement = Settlement(provider, classifier, permits, stop, setup.estimator.learn, dependencies.rng)
    intents = Intents(terms, row_index, provider)
    exchanges = Exchanges(intents, provider, store, permits, settlement, counts, stop)
    later = LaterRows(frozenset(output.latest.stopped_by if output.latest is not None else ()))
    deduplicator = RequestDeduplicator(row_index.answered, is_on=job.limits.deduplicate and not setup.is_trial)
    booking = Booking(terms, store, row_index, counts, deduplicator, later, setup.offload)
    preparer = wiring.preparer_of(job, setup.estimator, images)
    requests = RowRequests(preparer, row_index, output.selection, booking, deduplicator, later, stop)
    refused = RefusedRows(refusals, booking.book, classifier.of_the_row, stop.request)
    delivery = Delivery(exchanges, requests, booking, refused, later, job.limits.max_failed.allows, stop)
    deferred = DeferredLane(delivery, wiring.deferred_settings_of(job), dependencies.now, dependencies.rng)
    by_tickets: dict[Lane, TicketLane] = {Lane.DEFERRED: deferred}
    if setup.dialect.batch_form is not None:
        batches = batch_dialect(setup.dialect)
        members = BatchExchanges(batches, provider, intents, store, permits, settlement, counts)
        calls = BatchCalls(batches, provider, permits.rate)
        settings = wiring.batch_settings_of(job, batches, setup.run_id, store.folder)
        by_tickets[Lane.BATCH] = BatchLane(delivery, members, calls, settings, dependencies.now)
    online = OnlineLane(delivery, concurrency=job.limits.concurrency)
    return RunLanes(delivery, by_tickets.get(job.delivery.lane_used, online), by_tickets)


def terms_of(setup: RunSetup) -> Terms:
    """The settings of all exchanges. Shards of a job share the provider's cache, so they use its settings."""
    job = setup.job
    return Terms(
        run_id=setup.run_id,
        recipe=job.recipe,
        keep_names=tuple(column.name for column in job.keep_columns),
        timeout_seconds=job.limits.request_timeout_seconds,
        stream=job.delivery.stream,
        raised_max_tokens=setup.dialect.raised_max_tokens(job.recipe),
        quarantine_after_runs=job.limits.quarantine_after_runs,
        holds=setup.holds,
        caching=wiring.caching_of(setup.given),
        prices=setup.prices.record() if setup.prices else {},
        now=setup.dependencies.now,
        purpose=setup.purpose,
    )
