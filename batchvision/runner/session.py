"""One run, from the manifest to the summary. :meth:`RunSession.run` reads from top to bottom as the run happens.

The data flows one way: the feed streams rows, a lane delivers them, and the store's one writer makes everything durable
and seals the tables. Acknowledgements of the disk, signals of the rate limiter and the stop flow back.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import anyio

from batchvision.checkpoint import OutputLock, OutputView, Store, remember_division
from batchvision.errors import DeadlineReached, JobInvalid, StopRun
from batchvision.eventloop import loop_time
from batchvision.interruption import drained
from batchvision.job import Job
from batchvision.manifest import Manifest
from batchvision.records import Completed, Counters, Purpose, Row, RunSummary
from batchvision.runner import wiring
from batchvision.runner.access import connected
from batchvision.runner.accuracy_limit import AccuracyLimit
from batchvision.runner.assembly import RunLanes, lanes_of, permits_of
from batchvision.runner.closing import RunEnd
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.feed import Selection, survey
from batchvision.runner.known_answers import right_answers
from batchvision.runner.lanes import SubmissionControl
from batchvision.runner.live_figures import LiveFigures
from batchvision.runner.opening import OpenedOutput, open_store
from batchvision.runner.passes import ManifestPass, ManifestPasses
from batchvision.runner.setup import RunSetup
from batchvision.stopping import Interrupted, interrupt, stop_at_deadline, stop_at_signals

log = logging.getLogger(__name__)

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
    """Ask about every row of the job that has no answer yet, and return the summary.

    ``selection`` narrows the manifest. ``watch`` is a task that takes the live counters; the run cancels it at its end.
    After SIGINT, SIGTERM or a cancellation the run sends nothing more. Requests in flight may end within
    ``drain_timeout_seconds``; a second signal cuts them off. A cancelled task raises CancelledError after the summary
    was written. The job's deadlines count from this call, less ``elapsed_seconds``: the age of the process.
    With the purpose SWEEP no outcome is published; the attempts are in the ledger.

    Raises StopRun (JobInvalid, OutputHeld, CheckpointDamaged ...) if the run cannot begin. Once it has begun, each end
    is in the summary: ``stop_reason``, ``exit_code``, ``message``.
    """
    setup = RunSetup(job, selection or Selection(), environ, dependencies or RunDependencies(), purpose)
    session = RunSession(setup, elapsed_seconds, drain_timeout_seconds)
    return await drained(session.run(watch), session.drain)


class CollectedTickets(NamedTuple):
    """Answers that open tickets had, rows that failed, and tickets that are still open."""

    answers: int
    failed: int
    left: int


async def _collect(lanes: RunLanes, output: OpenedOutput) -> None:
    for lane, tickets in output.tickets.by_lane.items():
        await lanes.by_tickets[lane].collect(tickets)


async def _cancel(lanes: RunLanes, output: OpenedOutput) -> None:
    for lane, tickets in output.tickets.by_lane.items():
        control = lanes.by_tickets[lane]
        if isinstance(control, SubmissionControl):
            await control.cancel(tickets)


async def cancel_async(
    job: Job, *, environ: Mapping[str, str] | None = None, dependencies: RunDependencies | None = None
) -> CollectedTickets:
    """Cancel the open batches of an output. What they have finished is kept and booked; their other rows fail as
    ``expired``, and the next run asks them. Deferred tickets stay. Raises StopRun."""
    setup = RunSetup(job, Selection(), environ, dependencies or RunDependencies(), Purpose.RUN)
    return await RunSession(setup, 0.0, 0.0).cancel()


class RunSession:
    """``elapsed_seconds``: the age of the process when the session was made."""

    def __init__(self, setup: RunSetup, elapsed_seconds: float, drain_timeout_seconds: float) -> None:
        self.setup = setup
        self.stop = setup.stop
        self._drain_timeout_seconds = drain_timeout_seconds
        self._started = loop_time()
        self._began_at = self._started - elapsed_seconds  # the job's deadlines count from here
        self._figures = LiveFigures(setup)
        self._store: Store | None = None
        self._wire: anyio.CancelScope | None = None  # around the requests in flight

    async def run(self, watch: Watch | None) -> RunSummary:
        """Hold the output, and run. If the run is refused, collect the open tickets first."""
        setup = self.setup
        disk = wiring.disk_of(setup.job, setup.dependencies)
        with await setup.offload(Store.lock, setup.job.output_path, setup.selection.shard_name, disk) as lock:
            if setup.purpose is Purpose.RUN:
                remember_division(lock, is_recut=setup.selection.recut)
            try:
                return await self._run_locked(lock, watch)
            except JobInvalid as refusal:
                await self._collect_before_refusing(lock, refusal)
                raise

    async def _run_locked(self, lock: OutputLock, watch: Watch | None) -> RunSummary:
        setup = self.setup
        surveyed = await setup.offload(survey, setup.job, setup.selection, None, setup.secrets)
        with await setup.offload(open_store, setup, lock, surveyed.typed_keep) as self._store:
            output = OpenedOutput(setup, self._store)
            await output.recover()
            await self._figures.begin(self._store)
            await output.examine(surveyed)
            async with (
                connected(setup.job, setup.access, setup.secrets, setup.dependencies) as (client, images),
                permits_of(setup, output, self._figures.tell) as permits,
            ):
                lanes = lanes_of(setup, output, client, images, permits)
                self._figures.rate = permits.rate
                limit = await self._accuracy_limit(surveyed.manifest, output.selection)
                passes = ManifestPasses(setup, surveyed, output, limit)
                end = RunEnd(setup, output, lanes.delivery)
                async with anyio.create_task_group() as writing:
                    writing.start_soon(self._write, self._store)
                    async with anyio.create_task_group() as watching:
                        if watch is not None:
                            watching.start_soon(watch, setup.counts.counters)
                        await self._until_stopped(partial(self._deliver, output, lanes, passes))
                        await end.close(has_seen_all=passes.has_seen_all)
                        end.count(surveyed)
                        watching.cancel_scope.cancel()
            await end.count_kept_cells(surveyed)
            await end.measure_accuracy(surveyed)
            return end.finish(surveyed, self._started)

    async def _collect_before_refusing(self, lock: OutputLock, refusal: JobInvalid) -> None:
        """Poll each open ticket once. That needs no manifest and costs nothing more."""
        setup = self.setup
        if setup.is_trial or not OutputView(setup.job.output_path).open_work().tickets:
            return
        self.stop.request(refusal)  # nothing is sent
        with suppress(StopRun):
            collected = await self._with_tickets(lock, _collect)
            log.warning("%d answers of open tickets were collected before the refusal", collected.answers)

    async def cancel(self) -> CollectedTickets:
        """Cancel the open batches, and book what they have finished. Raises StopRun."""
        setup = self.setup
        disk = wiring.disk_of(setup.job, setup.dependencies)
        with await setup.offload(Store.lock, setup.job.output_path, setup.selection.shard_name, disk) as lock:
            collected = await self._with_tickets(lock, _cancel)
        if isinstance(self.stop.reason, StopRun):
            raise self.stop.reason
        return collected

    async def _with_tickets(
        self, lock: OutputLock, act: Callable[[RunLanes, OpenedOutput], Coroutine[Any, Any, None]]
    ) -> CollectedTickets:
        """Open the output and act on its tickets. Nothing is sent for a row."""
        setup = self.setup
        with await setup.offload(open_store, setup, lock, None) as self._store:
            output = OpenedOutput(setup, self._store)
            await output.recover()
            async with (
                connected(setup.job, setup.access, setup.secrets, setup.dependencies) as (client, images),
                permits_of(setup, output, self._figures.tell, is_capped=False) as permits,
            ):
                lanes = lanes_of(setup, output, client, images, permits)
                async with anyio.create_task_group() as writing:
                    writing.start_soon(self._write, self._store)
                    await act(lanes, output)
                    await RunEnd(setup, output, lanes.delivery).close(has_seen_all=False)
            ends = lanes.delivery.booking.collected
            answers = sum(isinstance(each, Completed) for each in ends)
            return CollectedTickets(answers, len(ends) - answers, self._store.tickets_open)

    # ---------------------------------------------------------------------------- steps

    async def _deliver(self, output: OpenedOutput, lanes: RunLanes, passes: ManifestPasses) -> None:
        """Pass over the manifest until no row is left to ask again."""
        delivery, lane_used = lanes.delivery, self.setup.job.delivery.lane_used
        tickets = output.tickets.by_lane
        next_pass: ManifestPass | None = passes.first
        while next_pass is not None:
            send, rows = anyio.create_memory_object_stream[Row](passes.rows_ahead)
            with send, rows:  # a task that is cancelled before it begins closes nothing
                async with anyio.create_task_group() as beside:
                    beside.start_soon(passes.feed, send, next_pass)
                    for lane in tickets.keys() - {lane_used}:  # of an earlier run in another lane
                        beside.start_soon(lanes.by_tickets[lane].collect, tickets[lane])
                    await lanes.used.deliver(rows, tickets.get(lane_used, ()))
            await delivery.requests.serve_late()
            tickets, next_pass = {}, await passes.after(delivery.later.next_pass())
        delivery.end()

    async def _accuracy_limit(self, manifest: Manifest, selection: Selection) -> AccuracyLimit | None:
        """The check of ``limits.min_accuracy``. A trial asks the rows that it was given, and is not checked."""
        setup = self.setup
        if setup.job.limits.min_accuracy is None or setup.purpose is not Purpose.RUN or not selection.sees_all:
            return None
        return AccuracyLimit(setup.job, await setup.read(right_answers, setup.job, manifest, setup.secrets))

    async def _until_stopped(self, deliver: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Deliver; beside it, stop at a signal and at the job's deadline."""
        wire = self._wire = anyio.CancelScope()
        async with anyio.create_task_group() as beside:
            for at, reason in self._deadlines():
                beside.start_soon(stop_at_deadline, self.stop, at, reason)
            beside.start_soon(stop_at_signals, self.stop, wire, self._drain_timeout_seconds)
            beside.start_soon(self._figures.run)
            with wire:
                await deliver()
            beside.cancel_scope.cancel()
        await self._figures.end()

    def _deadlines(self) -> Iterator[tuple[float, DeadlineReached]]:
        """The job's deadlines, on the loop's clock. Both count from the start of the process."""
        job, seconds = self.setup.job, self.setup.job.limits.max_runtime_seconds
        if seconds is not None:
            key = "limits.max_runtime_seconds"
            reason = DeadlineReached(f"{key} ({seconds:g}) is over: run again to go on", key=key)
            yield self._began_at + seconds, reason
        began_at = self.setup.started_at - timedelta(seconds=self._started - self._began_at)
        ready_at = job.delivery.ready_at(began_at, ZoneInfo(job.timezone))
        if ready_at is not None:
            key = "delivery.ready_by"
            reason = DeadlineReached(f"{key} ({ready_at:%Y-%m-%d %H:%M %Z}) is here: run again to go on", key=key)
            yield self._began_at + (ready_at - began_at).total_seconds(), reason

    async def _write(self, store: Store) -> None:
        """Run the writer. On a disk failure stop sending. If answers can no longer be stored, cancel the requests in
        flight."""
        try:
            await store.run()
        except StopRun as reason:
            self.stop.request(reason)
            if not store.takes_answers and self._wire is not None:
                self._wire.cancel()

    def drain(self) -> bool:
        """Stop after a cancellation by the caller. False: nothing has been in flight yet."""
        if self._wire is None:
            return False
        interrupt(self.stop, self._wire, Interrupted("cancelled", signal.SIGINT), self._drain_timeout_seconds)
        return True
