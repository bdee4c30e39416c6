"""One run, from the manifest to the summary: the whole night on one screen (see :func:`run_async`).

The data flows one way: the feed streams rows, a lane delivers them exchange by exchange, the store's one writer makes
everything durable and seals the tables. What flows back is the disk's acknowledgement, the budget's signals and the
stop.
"""

from __future__ import annotations

import asyncio
import logging
import random
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import anyio
import pyarrow as pa
from anyio.streams.memory import MemoryObjectSendStream

from batchvision.checkpoint import Columns, OutputLock, OutputView, Recovery, RowIndex, Store, reserve_bytes
from batchvision.errors import DeadlineReached, DiskFailed, JobInvalid, OutputHeld, StopRun
from batchvision.eventloop import loop_time
from batchvision.http import ProviderClient
from batchvision.images import ImageSource
from batchvision.interruption import drained, run_in_thread
from batchvision.job import Job, recipe_document, recipe_from_document
from batchvision.limits import Caps
from batchvision.money import quote
from batchvision.offload import threads
from batchvision.records import Completed, Counters, Failed, Lane, Purpose, Recipe, Row, RunSummary, WaitNotice
from batchvision.runner import wiring
from batchvision.runner.exchange import EndedExchange, Exchanges, Terms
from batchvision.runner.feed import FeedBatch, Selection, Survey, count_other_cells, drawn, feed, survey
from batchvision.runner.lanes import POLLERS, DeferredLane, Delivery, OnlineLane, RequestDeduplicator, rows_at_once
from batchvision.runner.open_tickets import OpenTickets, place_of
from batchvision.runner.refusing import refuse_to_buy_again
from batchvision.runner.summary import Left, summarize
from batchvision.runner.waits import Waits
from batchvision.runner.wiring import RunDependencies
from batchvision.secrets import Secrets
from batchvision.stopping import Interrupted, StopSignal, interrupt, listening, stop_at_deadline, stop_at_signals

log = logging.getLogger(__name__)

LARGE_ROWS_READ_AHEAD = 16  #: of rows that hold images: as many batches would be in memory
ROWS_READ_AHEAD = 512  #: between feed and lane, of a batch that is in memory anyway: workers come for rows in bursts

Watch = Callable[[Counters], Coroutine[Any, Any, None]]


async def run_async(
    job: Job,
    *,
    selection: Selection | None = None,
    drain_timeout_seconds: float = 25.0,
    watch: Watch | None = None,
    environ: Mapping[str, str] | None = None,
    dependencies: RunDependencies | None = None,
    purpose: Purpose = Purpose.RUN,
    elapsed_seconds: float = 0.0,
) -> RunSummary:
    """Ask about every row of the job that has no answer yet, and return what happened.

    ``selection`` narrows the manifest. ``watch`` is a task that is given the live counters and cancelled at the end.
    After SIGINT or SIGTERM, or where the task is cancelled, nothing more is sent, and what is in flight may finish
    within ``drain_timeout_seconds``; a second one cuts it off. A cancelled task raises CancelledError at the end, when
    the summary is in ``runs/``.
    ``limits.max_runtime_seconds`` counts from this call, less ``elapsed_seconds``: the age of the command's process.
    With the purpose SWEEP no outcome is published: what was asked, and what it cost, is in the ledger alone.

    Raises StopRun (JobInvalid, OutputHeld, CheckpointDamaged ...) where the run cannot begin. Once it has begun, every
    end, good or bad, is in the summary: ``stop_reason``, ``exit_code``, ``message``.
    """
    session = RunSession(job, selection or Selection(), environ, dependencies or RunDependencies(), purpose)
    session.run_began_at = loop_time()
    session.began_at = session.run_began_at - elapsed_seconds
    drain = partial(session.drain, drain_timeout_seconds)
    return await drained(_whole_run(session, drain_timeout_seconds, watch), drain)


async def _whole_run(session: RunSession, drain_timeout_seconds: float, watch: Watch | None) -> RunSummary:
    selection, disk = session.selection, wiring.disk_of(session.job, session.dependencies)
    with await session.offload(Store.lock, session.job.output_path, selection.shard_name, disk) as lock:
        try:
            return await _locked_run(session, lock, drain_timeout_seconds, watch)
        except JobInvalid as refusal:
            await session.collect_before_refusing(lock, refusal)
            raise


async def _locked_run(
    session: RunSession, lock: OutputLock, drain_timeout_seconds: float, watch: Watch | None
) -> RunSummary:
    job = session.job
    session.survey = await session.offload(survey, job, session.selection, None, session.secrets)
    with await session.offload(session.open_store, lock, session.survey.typed_keep) as store:
        await session.look_at_what_is_there(store)
        async with wiring.connected(job, session.access, session.secrets, session.dependencies) as (client, images):
            delivery = session.delivery(client, images)
            async with anyio.create_task_group() as writing:
                writing.start_soon(session.write)
                async with anyio.create_task_group() as watching:
                    if watch is not None:
                        watching.start_soon(watch, session.counters)
                    await session.until_stopped(delivery, drain_timeout_seconds)
                    await session.close(delivery)
                    session.count_at_the_end(delivery)
                    watching.cancel_scope.cancel()
        await session.merge_parts()
        await session.count_kept_cells()
        return session.finish(delivery)


def run(
    job: Job,
    *,
    selection: Selection | None = None,
    drain_timeout_seconds: float = 25.0,
    watch: Watch | None = None,
    environ: Mapping[str, str] | None = None,
) -> RunSummary:
    """:func:`run_async`, waited for. Where a loop is running already (a notebook), the run has a thread of its own.

    Ctrl-C (SIGINT) and SIGTERM drain the run, there too: the summary says so (``stop_reason`` "interrupted").
    """
    start = partial(
        run_async,
        job,
        selection=selection,
        drain_timeout_seconds=drain_timeout_seconds,
        watch=watch,
        environ=environ,
    )
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return anyio.run(start)
    return run_in_thread(start)


def new_run_id(at: datetime, rng: random.Random) -> str:
    """Sorts by time; the tail keeps two runs of one second apart."""
    return f"{at:%Y%m%dT%H%M%SZ}-{rng.getrandbits(24):06x}"


class RunSession:
    """What one run holds; each method is one step of :func:`run_async`."""

    def __init__(
        self,
        job: Job,
        selection: Selection,
        environ: Mapping[str, str] | None,
        dependencies: RunDependencies,
        purpose: Purpose,
    ) -> None:
        """Find out what can be wrong before anything is opened. Raises JobInvalid."""
        key = job.api_key(environ)
        self.given = job
        self.job = wiring.job_within_open_files(wiring.share_of_job(job, selection.own_shard))
        self.selection = selection
        if selection.retry_failed is None:
            self.selection = replace(selection, retry_failed=job.limits.retry_kinds)
        self.dependencies = dependencies
        self.offload = dependencies.offload or threads()
        self._read = dependencies.offload or threads(
            1, may_abandon=True
        )  # the manifest, beside images on a disk that hangs
        self.started_at = dependencies.now()
        self.purpose = purpose
        self.run_id = purpose.mark(new_run_id(self.started_at, dependencies.rng))
        self.dialect = wiring.dialect_of(job, job.provider.name)
        self.access = wiring.access_of(job, key, environ, dependencies.transport)
        self.secrets = Secrets(*self.access.secrets)
        self.key = wiring.key_of(job, key, environ, self.secrets, self.offload)
        if self.access.network is not None:
            log.info("%s", self.access.network)
        if self.access.images.proxy is not None:
            log.info("%s", self.access.images)
        quoted = quote(job)
        for said in wiring.warnings_of(job, quoted, self.started_at):
            log.warning("%s", said)
        self.prices = quoted.prices
        self.estimator = wiring.estimator_of(job, self.prices)
        self.classifier = wiring.classifier_of(job, self.prices, self._recipe)
        self._recipes = {job.recipe.recipe_id: job.recipe}
        self.stop = StopSignal()
        self.counters = Counters()
        self.survey: Survey
        self.spent: wiring.Spent
        self.failures: list[Failed] = []  #: of rows of the manifest, at the end
        self.run_began_at = 0.0  #: by the loop's clock
        self.began_at = 0.0  #: where max_runtime_seconds begins, by the loop's clock
        self.store: Store
        self.row_index: RowIndex
        self.recovery: Recovery
        self.latest: RunSummary | None = None  # of the run before this one
        self.redo_recipes: frozenset[str] = frozenset()  # those whose rows may be asked again
        self.tickets = OpenTickets()
        self.waits = Waits(self.counters, self._note_wait, dependencies.now)
        self._wire: anyio.CancelScope | None = None  # around all that is in flight
        self._has_seen_all = False

    def _recipe(self, recipe_id: str) -> Recipe:
        """An answer found in the journal may be of an earlier recipe than the job's."""
        if recipe_id not in self._recipes:
            self._recipes[recipe_id] = recipe_from_document(self.store.load_recipe(recipe_id))
        return self._recipes[recipe_id]

    async def _note_wait(self, notice: WaitNotice | None) -> None:
        await self.offload(self.store.note_wait, notice)

    @property
    def _holds(self) -> bool:
        return self.job.limits.ambiguous == "hold"

    @property
    def _is_trial(self) -> bool:
        return self.purpose is Purpose.SWEEP

    # ---------------------------------------------------------------------------- before anything is sent

    def open_store(self, lock: OutputLock, keep: Sequence[tuple[str, pa.DataType]] | None) -> Store:
        """``keep`` None: with the columns that are registered already."""
        columns = Columns() if keep is None else Columns(tuple(keep), wiring.answer_columns_of(self.job))
        return Store.open(
            lock,
            job_name=self.job.name,
            run_id=self.run_id,
            started_at=self.started_at,
            columns=columns,
            secrets=self.secrets,
            keep_raw=self.job.output.keep_raw_answers or self._is_trial,  # of a trial nothing else is kept
            ticket_place=place_of(self.job.base_url),
            reserve_bytes=reserve_bytes(rows_at_once(self.job.limits.concurrency) + POLLERS),
            disk=wiring.disk_of(self.job, self.dependencies),
            offload=self.dependencies.offload,
        )

    async def look_at_what_is_there(self, store: Store) -> None:
        """Recover what a crash left; find out what is done. Raises JobInvalid where done rows would be paid again."""
        recipe = self.job.recipe
        await self._recover(store)
        for sentence in (*self.recovery.sentences(), *self.tickets.sentences()):
            log.warning("%s", sentence)
        self.latest = await self.offload(store.latest_summary)
        if not self._is_trial:
            self.selection = await self._read(drawn, self.job, self.survey, self.row_index, self.selection)
            self.redo_recipes = await refuse_to_buy_again(
                self.job, self.survey, self.row_index, self.selection, self.offload
            )
        await self.offload(self.store.write_recipe, recipe.recipe_id, recipe_document(recipe))
        self.counters.rows_total = self.survey.rows
        self.counters.rows_ambiguous = len(self.recovery.ambiguous)
        self.counters.ambiguous_ticks = sum(intent.bound_ticks or 0 for intent in self.recovery.ambiguous)
        self.counters.unbounded = sum(intent.bound_ticks is None for intent in self.recovery.ambiguous)

    async def _recover(self, store: Store) -> None:
        """What earlier runs left in the journal; tickets of another place that have expired are booked."""
        self.store = store
        self.recovery = await self.offload(store.recover, self.classifier.classify, self._holds)
        place, now = place_of(self.job.base_url), self.dependencies.now()
        self.tickets = OpenTickets.sorted(self.recovery.tickets, self.dialect.name, place, now)
        for exchange in self.tickets.expired:
            store.book(exchange.intent.exchange_id, self.classifier.classify(exchange))
        self.row_index = await self.offload(store.row_index, self.job.recipe.recipe_id)
        self.spent = await self.offload(wiring.spent_of, self.job, now)

    async def collect_before_refusing(self, lock: OutputLock, refusal: JobInvalid) -> None:
        """Open tickets need no manifest and cost nothing more: each is asked for once before the run is refused."""
        if self._is_trial or not OutputView(self.job.output_path).open_work().tickets:
            return
        with suppress(StopRun), await self.offload(self.open_store, lock, None) as store:
            await self._recover(store)
            self.stop.request(refusal)  # nothing is sent
            async with wiring.connected(self.job, self.access, self.secrets, self.dependencies) as (client, images):
                delivery = self.delivery(client, images, is_capped=False)
                async with anyio.create_task_group() as writing:
                    writing.start_soon(self.write)
                    await self._collector(delivery).collect(self.tickets.here)
                    await self.close(delivery)
            log.warning(
                "%d answers of open tickets were collected before the refusal", len(delivery.exchanges.collected)
            )

    def delivery(self, client: ProviderClient, images: ImageSource, *, is_capped: bool = True) -> Delivery:
        """All that a lane needs to take a row from here to its outcome. ``is_capped`` False: nothing is sent."""
        job, limits = self.job, self.job.limits
        now = self.dependencies.now
        shard = self.selection.own_shard
        caps = wiring.caps_of(job, self.prices, self.estimator, self.spent, now, shard) if is_capped else Caps([])
        caps.commit(self.tickets.not_here_ticks)
        refusals = wiring.refusals_of(job, self.latest)
        budget = wiring.budget_of(job, caps, was_answered=refusals.is_proven)
        budget.pacing.tell = self.waits.tell
        terms = Terms(
            run_id=self.run_id,
            purpose=self.purpose,
            recipe=job.recipe,
            keep_names=tuple(column.name for column in job.keep_columns),
            timeout_seconds=limits.request_timeout_seconds,
            stream=job.delivery.stream,
            raised_max_tokens=self.dialect.raised_max_tokens(job.recipe),
            quarantine_after_runs=limits.quarantine_after_runs,
            holds=self._holds,
            caching=wiring.caching_of(self.given),  # all shards use the same conversations
            zone=ZoneInfo(job.timezone),
            prices=self.prices.record() if self.prices else {},
        )
        exchanges = Exchanges(
            terms,
            store=self.store,
            row_index=self.row_index,
            client=client,
            budget=budget,
            dialect=self.dialect,
            classifier=self.classifier,
            counters=self.counters,
            stop=self.stop,
            offload=self.offload,
            learn=self.estimator.learn,
            forms=wiring.forms_of(job),
            now=self.dependencies.now,
            rng=self.dependencies.rng,
            key=self.key,
        )
        return Delivery(
            exchanges,
            wiring.preparer_of(job, self.estimator, images),
            self.row_index,
            self.counters,
            self.stop,
            lambda: budget.failures_in_a_row,
            limits.max_failed.allows,
            self.selection.retries,
            RequestDeduplicator(self.row_index.answered, is_on=limits.deduplicate and not self._is_trial),
            refusals,
            last=frozenset(self.latest.stopped_by if self.latest is not None else ()),
        )

    # ---------------------------------------------------------------------------- the night itself

    async def write(self) -> None:
        """The one writer. Where the disk fails, nothing more is sent; and where it takes no answer any more, none is
        waited for."""
        try:
            await self.store.run()
        except StopRun as reason:
            self.stop.request(reason)
            if not self.store.takes_answers and self._wire is not None:
                self._wire.cancel()

    async def until_stopped(self, delivery: Delivery, drain_timeout_seconds: float) -> None:
        """Deliver, and beside it listen for what ends a run: signals and the job's own deadline."""
        wire = self._wire = anyio.CancelScope()
        async with anyio.create_task_group() as beside:
            beside.start_soon(stop_at_deadline, self.stop, self.job.limits.max_runtime_seconds, self.began_at)
            beside.start_soon(stop_at_signals, self.stop, wire, drain_timeout_seconds)
            beside.start_soon(self.waits.run)
            with wire:
                await self._deliver(delivery)
            beside.cancel_scope.cancel()
        await self.waits.end()

    def drain(self, timeout_seconds: float) -> bool:
        """The caller of the run cancels it. False: nothing has been in flight yet."""
        if self._wire is None:
            return False
        interrupt(self.stop, self._wire, Interrupted("cancelled", signal.SIGINT), timeout_seconds)
        return True

    async def _deliver(self, delivery: Delivery) -> None:
        """Pass after pass over the manifest: a later one asks again what an earlier one had to let go of."""
        lane, collector = self._lanes(delivery)
        tickets = self.tickets.here
        only: frozenset[bytes] | None = None
        while True:
            ahead = LARGE_ROWS_READ_AHEAD if self.survey.holds_images else ROWS_READ_AHEAD
            send, rows = anyio.create_memory_object_stream[Row](ahead)
            with send, rows:  # a task that is cancelled before it begins closes nothing
                async with anyio.create_task_group() as session:
                    session.start_soon(self._feed, send, only)
                    if collector is None or not tickets:
                        await lane.deliver(rows, tickets)
                    else:
                        session.start_soon(collector.collect, tickets)
                        await lane.deliver(rows)
            await delivery.serve_late()
            tickets, only = (), delivery.next_pass()
            if self.stop.is_set or not only:
                delivery.end()
                return

    def _lanes(self, delivery: Delivery) -> tuple[OnlineLane | DeferredLane, DeferredLane | None]:
        """The job's lane and, beside an online one, the lane that collects the tickets of an earlier deferred run."""
        deferred = self._collector(delivery)
        if self.job.delivery.lane_used is Lane.DEFERRED:
            return deferred, None
        return OnlineLane(delivery, concurrency=self.job.limits.concurrency), deferred

    def _collector(self, delivery: Delivery) -> DeferredLane:
        how = self.job.delivery
        return DeferredLane(
            delivery,
            concurrency=self.job.limits.concurrency,
            max_open_tickets=how.max_open_tickets,
            max_ticket_wait_seconds=how.max_ticket_wait_seconds,
            now=self.dependencies.now,
            rng=self.dependencies.rng,
        )

    async def _feed(self, rows: MemoryObjectSendStream[Row], only: frozenset[bytes] | None) -> None:
        """Stream what is to do; the manifest is read in a thread. After a stop the rest is counted, and not sent."""
        selection = self.selection if only is None else replace(self.selection, only=only)
        batches = feed(self.job, self.survey, self.row_index, selection)
        with rows:
            try:
                while (batch := await self._read(next, batches, None)) is not None:
                    if only is None:
                        self._count(batch)
                    with self.stop.interruptible(), suppress(anyio.BrokenResourceError):
                        for row in batch.rows:
                            try:  # as many as there is room for at once: a row at a time would have the workers wait
                                rows.send_nowait(row)
                            except anyio.WouldBlock:
                                await rows.send(row)
            except StopRun as reason:  # the manifest changed under our hands
                self.stop.request(reason)
                return
        self.row_index.met.is_complete = self.survey.rows_in_manifest > 0
        if only is None:  # a later pass meets some rows only
            self._has_seen_all = selection.sees_all and self.survey.rows_in_manifest > 0

    def _count(self, batch: FeedBatch) -> None:
        self.counters.rows_done_before += batch.done
        self.counters.rows_failed += batch.failed_kept
        self.counters.rows_failed_before += batch.failed_kept
        self.counters.rows_kept += batch.kept
        self.counters.images_found += batch.images_found
        self.counters.rows_left += batch.left - batch.kept

    # ---------------------------------------------------------------------------- the end

    async def close(self, delivery: Delivery) -> None:
        """What was cut off on the wire is ambiguous; then seal everything. A disk that fails now still ends the run."""
        with suppress(StopRun):
            await self.store.flush()
        for exchange in self.store.cut_off:
            delivery.exchanges.book(EndedExchange(exchange, self.classifier.classify(exchange)))
        delivery.exchanges.spare_missing()
        try:
            await self.store.close(complete=self._has_seen_all)
            if not self._is_trial and not isinstance(self.stop.reason, DiskFailed | OutputHeld):
                await self.store.write_index()
        except StopRun as reason:
            self.stop.request(reason)

    async def merge_parts(self) -> None:
        """Few files for the next start to read; only as long as nobody waits for the end of this run."""
        if isinstance(self.stop.reason, Interrupted | DeadlineReached | DiskFailed | OutputHeld):
            return
        async with listening(self.job.limits.max_runtime_seconds, self.began_at) as leave:
            try:
                await self.store.merge_parts(lambda: not (leave.is_set or self.stop.is_interrupted))
            except StopRun as reason:
                self.stop.request(reason)
        if isinstance(leave.reason, Interrupted):
            self.stop.request(leave.reason)

    def count_at_the_end(self, delivery: Delivery) -> None:
        """The counts that only a whole pass over the manifest knows. Rows that left the manifest are not counted."""
        collected = delivery.exchanges.collected
        self.counters.rows_completed += sum(
            isinstance(outcome, Completed) and self.row_index.has_seen(outcome) for outcome in collected
        )
        gone = {(each.row_id, each.request_key) for each in collected if not self.row_index.has_seen(each)}
        failures = self.store.failures() if self.survey.rows_in_manifest else ()
        self.failures = [failed for failed in failures if (failed.row_id, failed.request_key) not in gone]
        self.counters.rows_failed = len(self.failures)

    async def count_kept_cells(self) -> None:
        """Answered rows whose kept cells are other ones by now; not where somebody waits for the end of this run."""
        if self.stop.is_set or self.purpose is not Purpose.RUN:
            return
        with suppress(StopRun):  # the manifest is being written again: the next run counts
            self.counters.rows_with_other_kept_cells = await self.offload(
                count_other_cells, self.job, self.survey, self.row_index, self.secrets.mask, self.latest
            )

    def _left(self) -> Left:
        counters, tickets, held = self.counters, self.store.tickets_open, self.store.held_count
        is_empty = not self.survey.rows_in_manifest and len(self.row_index.paid_rows()) > 0
        has_none = counters.rows_total > 0 and not counters.rows_done_before + counters.rows_completed
        return Left(self.failures, tickets, held, counters.rows_kept, without_answers=is_empty or has_none)

    def finish(self, delivery: Delivery) -> RunSummary:
        """What the run did, written to ``runs/``."""
        summary = summarize(
            self.given,
            self.counters,
            run_id=self.run_id,
            started_at=self.started_at,
            finished_at=self.dependencies.now(),
            reason=self.stop.reason,
            left=self._left(),
            parts=self.store.parts_to_list(),
            spent=delivery.exchanges.spending.document(),
            duration_seconds=loop_time() - self.run_began_at,
            provider_answered=delivery.refused.is_proven,
            stopped_by=delivery.refused.stopped_by,
        )
        summary = replace(
            summary,
            command=self.purpose.value,
            is_trial=self.selection.is_trial or self.purpose is not Purpose.RUN,
            redo_recipes=tuple(sorted(self.redo_recipes)),
            message=self.secrets.mask_document(summary.message),
            config=self.secrets.mask_document(dict(summary.config)),
        )
        try:
            self.store.write_summary(summary)
        except DiskFailed as reason:
            if not self.stop.is_set:  # otherwise the run's end says enough
                ended = {"exit_code": reason.exit_code, "stop_reason": reason.kind, "message": reason.message}
                summary = replace(summary, **ended)  # type: ignore[arg-type]
        return summary
