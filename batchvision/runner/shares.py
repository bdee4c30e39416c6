"""The part of a job that one run works on: its share of a shard, within the open files of the process."""

from __future__ import annotations

import logging

from batchvision.descriptors import SPARE_FILES, room_for_connections
from batchvision.errors import RAISE_OPEN_FILES, JobInvalid
from batchvision.job import Job
from batchvision.records import Shard
from batchvision.runner.lanes import POLLERS

log = logging.getLogger(__name__)


def share_of_job(job: Job, shard: Shard) -> Job:
    """The job with one shard's part of the rates and of the concurrency. :func:`caps_of` divides the cost caps.

    Raises JobInvalid if a shard would have no request on the wire.
    """
    if shard.of == 1:
        return job
    limits, n = job.limits, shard.of
    if limits.concurrency < n:
        raise JobInvalid(
            f"limits.concurrency = {limits.concurrency} is divided among the {n} shards, and none is left for some: "
            f"set it to at least {n}, or use fewer shards"
        )
    rates = {
        name: getattr(limits, name) for name in ("requests_per_minute", "requests_per_second", "tokens_per_minute")
    }
    share = {name: rate / n for name, rate in rates.items() if rate is not None}
    share["concurrency"] = _part(limits.concurrency, shard)
    tickets = max(1, _part(job.delivery.max_open_tickets, shard))
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


def _part(whole: int, shard: Shard) -> int:
    """The parts of all shards add up to ``whole``."""
    return whole // shard.of + (shard.number < whole % shard.of)
