"""How a job's settings become the parts of a run. Plain construction: no loop, no file is opened but the examples'."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from batchvision.budget import LocalBudget
from batchvision.checkpoint import Disk
from batchvision.errors import JobInvalid
from batchvision.estimate import Estimator
from batchvision.exchange import Transport, utc_now
from batchvision.images import Fetcher, ImageSource, Offload, load_local
from batchvision.job import Job
from batchvision.lanes import POLLERS
from batchvision.money import Prices, SpendCap, prices_for, usd_to_ticks
from batchvision.outcome import Judge
from batchvision.pacing import Pacing, PacingLimits
from batchvision.prepare import Preparer
from batchvision.prompt import Conversation
from batchvision.providers import dialect
from batchvision.records import Recipe
from batchvision.retry import RetryPolicy
from batchvision.secrets import Secrets
from batchvision.transport import HttpFetcher, HttpTransport


@dataclass(frozen=True, slots=True)
class Seams:
    """Where a run touches the world, so that a test can put another in its place. The defaults are the real one.

    ``offload`` runs blocking work off the loop (None: threads; inline in virtual time). ``transport`` is used instead
    of a connection to the job's provider.
    """

    now: Callable[[], datetime] = utc_now
    rng: random.Random = field(default_factory=random.Random)
    disk: Disk | None = None
    offload: Offload | None = None
    transport: Transport | None = None


def prices_of(job: Job) -> Prices | None:
    """The job's own prices, over those known of its model."""
    return prices_for(job.provider.name, job.provider.model, job.provider.prices.model_dump())


def judge_of(job: Job, prices: Prices | None, recipe_of: Callable[[str], Recipe]) -> Judge:
    policy = RetryPolicy(job.limits.max_attempts, raise_once=job.answer.on_truncated == "raise_once")
    return Judge(recipe_of, policy, prices, job.limits.quarantine_after_runs)


def estimator_of(job: Job, prices: Prices | None) -> Estimator:
    return Estimator(job.recipe, prices)


def cap_of(job: Job, prices: Prices | None, estimator: Estimator, spent_ticks: int) -> SpendCap:
    """The job's cost cap over what all runs have spent. Raises JobInvalid where a cap could not be kept."""
    limits = job.limits
    for name in ("max_cost_usd_per_run", "max_cost_usd_per_day", "max_cost_usd_per_month"):
        if getattr(limits, name) is not None:
            raise JobInvalid(f"limits.{name} is not supported yet: use limits.max_cost_usd, which spans all runs")
    if limits.max_cost_usd is None:
        return SpendCap(None, spent_ticks)
    if estimator.estimate(0, [], 0).bound_ticks is None:
        missing = "a price: set provider.prices" if prices is None else "a bound: set provider.parameters.max_tokens"
        raise JobInvalid(f"limits.max_cost_usd cannot be kept without {missing}")
    return SpendCap(usd_to_ticks(limits.max_cost_usd), spent_ticks)


def budget_of(job: Job, cap: SpendCap, shards: int = 1) -> LocalBudget:
    """Rates divided among the shards; each keeps its part."""
    limits = job.limits
    per_second = [limits.requests_per_second, limits.requests_per_minute and limits.requests_per_minute / 60]
    given = [rate for rate in per_second if rate is not None]
    tokens = limits.tokens_per_minute
    return LocalBudget(
        Pacing(PacingLimits(min(given) / shards if given else None, tokens / shards if tokens else None)), cap
    )


def preparer_of(job: Job, estimator: Estimator, fetch: Fetcher, seams: Seams) -> Preparer:
    preparation = job.recipe.images
    raises = job.answer.on_truncated == "raise_once"
    examples = [load_local(path, Path("/"), preparation) for path in job.example_images]
    images = ImageSource(
        job.root,
        preparation,
        job.provider.image_mode,
        job.manifest.image_identity,
        fetch=fetch,
        offload=seams.offload,
    )
    return Preparer(
        job.recipe.recipe_id,
        Conversation(job.recipe, examples),
        images,
        estimator,
        skip_bad_images=job.manifest.on_bad_image == "skip_image",
        may_inline_urls=job.provider.image_mode != "url",
        raised_max_tokens=dialect(job.provider.name).raised_max_tokens(job.recipe) if raises else None,
    )


@asynccontextmanager
async def connected(
    job: Job, headers: Mapping[str, str], secrets: Secrets, seams: Seams
) -> AsyncIterator[tuple[Transport, Fetcher]]:
    """The provider's endpoint, with a connection for each request and poll, and the downloads of images."""
    async with AsyncExitStack() as stack:
        transport = seams.transport
        if transport is None:
            connections = job.limits.concurrency + POLLERS
            transport = await stack.enter_async_context(
                HttpTransport(job.base_url, headers, connections, secrets, clock=seams.now)
            )
        yield transport, await stack.enter_async_context(HttpFetcher(job.images.allow_private_hosts))
