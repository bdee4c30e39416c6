"""A run, and what follows it: the snapshot of the output, then the load into the job's database.

What follows also happens after a run that was stopped or cancelled. It does not happen where the run was refused
(exits 2 and 11) or the disk failed (exit 7).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial, reduce

import anyio

from batchvision import runner
from batchvision.commands.load import Destination, job_destination, load_of_job
from batchvision.commands.notify import Notifier
from batchvision.commands.snapshot import write_job_snapshot
from batchvision.commands.status import look
from batchvision.errors import DiskFailed, JobInvalid, OutputHeld, StopRun
from batchvision.eventloop import threads
from batchvision.interruption import drained, run_in_thread
from batchvision.job import Job
from batchvision.records import Counters, RunSummary
from batchvision.runner import RunDependencies, Watch
from batchvision.runner.feed import Selection
from batchvision.ticks import cost_words
from batchvision.wording import counted

log = logging.getLogger(__name__)

#: Exit codes that say more than that of a step after the run. Signals say more than all.
_COUNT_MORE = {7: (11, 2, 1), 8: (11, 2, 1, 7, 5, 4, 6)}
_SIGNALLED = 128


async def run_async(
    job: Job,
    *,
    selection: Selection | None = None,
    drain_timeout_seconds: float = 25.0,
    watch: Watch | None = None,
    environ: Mapping[str, str] | None = None,
    dependencies: RunDependencies | None = None,
    elapsed_seconds: float = 0.0,
) -> RunSummary:
    """Run the job (see :func:`batchvision.runner.run_async`), write its snapshot, load, and send its messages.

    A cancelled task raises CancelledError when snapshot and load have ended, too. The summary in the output holds the
    run's own end: a snapshot or a load that failed changes only the returned one. Messages of ``[notify]`` change
    nothing. Raises StopRun (JobInvalid, OutputHeld, CheckpointDamaged ...) if the run cannot begin.
    """
    dependencies = dependencies or RunDependencies()
    notifier = Notifier(job, os.environ if environ is None else environ, dependencies.secrets)
    start = partial(
        runner.run_async,
        job,
        selection=selection,
        drain_timeout_seconds=drain_timeout_seconds,
        watch=_with_start(notifier, watch),
        environ=environ,
        dependencies=dependencies,
        elapsed_seconds=elapsed_seconds,
    )
    try:
        summary = await _run_and_follow(job, start, environ, dependencies)
    except OutputHeld as held:  # the run at work sends the messages
        raise OutputHeld(held.message + await _so_far(job, dependencies)) from held
    except StopRun as error:
        await notifier.refused(error)
        raise
    await notifier.ended(summary)
    return summary


async def _so_far(job: Job, dependencies: RunDependencies) -> str:
    """A sentence about the output that another run holds, by all that is durable. Empty where it cannot be read."""
    try:
        status = await (dependencies.offload or threads())(look, job.output_path)
    except (StopRun, OSError):
        return ""
    failed, total = sum(status.failures_by_kind.values()), status.spending.total
    rows, cost = counted(status.rows_answered, "row"), cost_words(total.cost_ticks, total.unknown_cost)
    return f" So far {rows} of it have answers, {failed:,} failed, at {cost}."


def _with_start(notifier: Notifier, watch: Watch | None) -> Watch | None:
    """A watch that also reports the start. It begins when the run holds its output."""

    async def watched(counters: Counters) -> None:
        async with anyio.create_task_group() as both:
            both.start_soon(notifier.started)
            if watch is not None:
                await watch(counters)

    return watched if notifier.reports_starts else watch


async def _run_and_follow(
    job: Job,
    start: Callable[[], Awaitable[RunSummary]],
    environ: Mapping[str, str] | None,
    dependencies: RunDependencies,
) -> RunSummary:
    destination = job_destination(job, environ)  # before anything is sent
    try:
        summary = await start()
    except asyncio.CancelledError:
        with suppress(JobInvalid):  # nothing was ever run
            for fault in await _uncancelled(job, destination, dependencies):
                log.warning("%s", fault.message)
        raise
    if summary.exit_code in (JobInvalid.exit_code, OutputHeld.exit_code, DiskFailed.exit_code):
        return summary
    return reduce(_with, await _uncancelled(job, destination, dependencies), summary)


def run(
    job: Job,
    *,
    selection: Selection | None = None,
    drain_timeout_seconds: float = 25.0,
    watch: Watch | None = None,
    environ: Mapping[str, str] | None = None,
) -> RunSummary:
    """Call :func:`run_async` and wait for it. If a loop is running (a notebook), the run has a thread of its own.

    Ctrl-C (SIGINT) and SIGTERM drain the run, in a thread too; ``stop_reason`` is "interrupted" then.
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


async def _uncancelled(job: Job, destination: Destination | None, dependencies: RunDependencies) -> list[StopRun]:
    """Do what follows a run. A cancellation takes effect at its end. Returns what failed."""
    return await drained(_follow(job, destination, dependencies), lambda: True)


async def _follow(job: Job, destination: Destination | None, dependencies: RunDependencies) -> list[StopRun]:
    steps: list[Callable[[], object]] = []
    if job.snapshot_path is not None:
        steps.append(partial(write_job_snapshot, job, dependencies))
    if destination is not None:
        steps.append(partial(load_of_job, job, destination))
    faults = list[StopRun]()
    for step in steps:
        try:
            await (dependencies.offload or threads())(step)
        except JobInvalid:
            raise
        except OutputHeld as held:  # the next run writes the snapshot
            log.warning("%s", held.message)
        except StopRun as fault:
            faults.append(fault)
    return faults


def _with(summary: RunSummary, fault: StopRun) -> RunSummary:
    """The summary with the end that counts more: the run's own, or that of a step after it."""
    if summary.exit_code > _SIGNALLED or summary.exit_code in _COUNT_MORE[fault.exit_code]:
        log.warning("%s", fault.message)
        return summary
    message = "\n".join(filter(None, (summary.message, fault.message)))
    return replace(summary, exit_code=fault.exit_code, stop_reason=fault.kind, message=message)
