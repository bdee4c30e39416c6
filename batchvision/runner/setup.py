"""The parts of a run that exist before its output is opened, and the part of the job that it works on."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from batchvision.descriptors import SPARE_FILES, room_for_connections
from batchvision.errors import RAISE_OPEN_FILES, JobInvalid
from batchvision.eventloop import RUN_ID, threads
from batchvision.job import Job
from batchvision.money import quote
from batchvision.records import Purpose, Shard
from batchvision.runner import wiring
from batchvision.runner.access import access_of, key_of
from batchvision.runner.booking import RunCounts
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.feed import Selection
from batchvision.runner.job_warnings import warnings_of
from batchvision.runner.lanes import POLLERS
from batchvision.stopping import LocalStopSignal

log = logging.getLogger(__name__)


def share_of_job(job: Job, shard: Shard, at_once: int | None = None) -> Job:
    """The job with one shard's part of the rates and of the concurrency. :func:`caps_of` divides the cost caps.

    ``at_once``: so many shards run at the same time; ``None``: all. Nothing is divided where ``limits.share`` names a
    budget. Raises JobInvalid if a shard would have no request on the wire.
    """
    if shard.of == 1:
        return job
    if job.output_url is not None:
        raise JobInvalid("an output in an object store has no shards: give each shard's job its own output.path")
    limits, n = job.limits, at_once or shard.of
    if limits.share is not None:
        return job
    if limits.concurrency < n:
        raise JobInvalid(
            f"limits.concurrency = {limits.concurrency} is divided among the {n} shards at work, and none is left for "
            f"some: set it to at least {n}, or run fewer at a time (--shards-at-once)"
        )
    rates = {
        name: getattr(limits, name) for name in ("requests_per_minute", "requests_per_second", "tokens_per_minute")
    }
    share = {name: rate / n for name, rate in rates.items() if rate is not None}
    share["concurrency"] = _part(limits.concurrency, n, shard.number)
    tickets = max(1, _part(job.delivery.max_open_tickets, n, shard.number))
    return job.model_copy(
        update={
            "limits": limits.model_copy(update=share),
            "delivery": job.delivery.model_copy(update={"max_open_tickets": tickets}),
        }
    )


def within_open_files(job: Job) -> Job:
    """The job with its concurrency lowered to the files that this process may open, and a warning about it.

    The soft limit is raised first. Raises JobInvalid if not one connection fits.
    """
    concurrency = job.limits.concurrency
    fitting = room_for_connections(concurrency + POLLERS) - POLLERS
    if fitting >= concurrency:
        return job
    if fitting < 1:
        raise JobInvalid(f"this process may open too few files for a run. {RAISE_OPEN_FILES}")
    log.warning(
        "limits.concurrency is lowered from %d to %d: this process may not open more files. "
        "Raise the limit (`ulimit -n %d`) to use it in full",
        concurrency,
        fitting,
        concurrency + POLLERS + 2 * SPARE_FILES,
    )
    return job.model_copy(update={"limits": job.limits.model_copy(update={"concurrency": fitting})})


def _part(whole: int, n: int, number: int) -> int:
    """The parts of ``n`` shards with consecutive numbers add up to ``whole``."""
    return whole // n + (number % n < whole % n)


def new_run_id(at: datetime, rng: random.Random) -> str:
    """Sorts by time. The random end distinguishes two runs of one second."""
    return f"{at:%Y%m%dT%H%M%SZ}-{rng.getrandbits(24):06x}"


class RunSetup:
    """``given`` is the job as it was given, ``job`` the share of it that this run works on."""

    def __init__(
        self,
        job: Job,
        selection: Selection,
        environ: Mapping[str, str] | None,
        dependencies: RunDependencies,
        purpose: Purpose,
    ) -> None:
        """Check the job, log its warnings and ask for its key. Raises JobInvalid."""
        key = job.api_key(environ)
        self.given = job
        self.job = within_open_files(share_of_job(job, selection.own_shard, selection.shards_at_once))
        self.selection = selection
        if selection.retry_failed is None:
            self.selection = replace(selection, retry_failed=job.limits.retry_kinds)
        self.dependencies = dependencies
        self.offload = dependencies.offload or threads()
        #: of the manifest: a thread of its own, because a disk with images may hang
        self.read = dependencies.offload or threads(1, may_abandon=True)
        self.started_at = dependencies.now()
        self.purpose = purpose if selection.redo is None else Purpose.REDO
        self.run_id = self.purpose.mark(new_run_id(self.started_at, dependencies.rng))
        RUN_ID.set(self.run_id)
        self.dialect = wiring.dialect_of(job, job.provider.name)
        self.access = access_of(job, key, environ, dependencies.transport)
        self.secrets = dependencies.secrets
        self.secrets.add(*self.access.secrets)
        self.key = key_of(job, key, environ, self.secrets, self.offload)
        if self.access.network is not None:
            log.info("%s", self.access.network)
        if self.access.images.proxy is not None:
            log.info("%s", self.access.images)
        quoted = quote(job)
        for warning in warnings_of(job, quoted, self.started_at):
            log.warning("%s", warning)
        self.prices = quoted.prices
        self.estimator = wiring.estimator_of(job, self.prices)
        self.stop = LocalStopSignal()
        self.counts = RunCounts(self.run_id, job.recipe.answer, ZoneInfo(job.timezone))

    @property
    def holds(self) -> bool:
        """A row that may have been billed stays pending."""
        return self.job.limits.ambiguous == "hold"

    @property
    def is_trial(self) -> bool:
        """Nothing of this run is published."""
        return self.purpose is Purpose.SWEEP
