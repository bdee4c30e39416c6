"""Build the parts of a run from the settings of its job. Only the images of examples are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from batchvision.checkpoint import Disk, Store, disk_at, spent_by_shard, type_of
from batchvision.errors import JobInvalid
from batchvision.images import (
    Converter,
    Fetcher,
    ImageFolder,
    ImageSettings,
    ImageSource,
    LeastSize,
    Objects,
    load_local,
)
from batchvision.job import Job
from batchvision.limits import (
    LocalRateLimiter,
    LocalSpendCap,
    Pacing,
    RateSettings,
    ReportWait,
    SpendCap,
    SpendCaps,
    day_of,
    month_of,
    share_of,
)
from batchvision.money import Estimator, quote
from batchvision.prompt import REASONING_COLUMN, Conversation, answer_columns
from batchvision.providers import BatchDialect, Caching, Dialect, ResponseForms, caching, dialect
from batchvision.records import Lane, Recipe, RunSummary, Shard
from batchvision.runner.classify import Classifier
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.lanes import BatchSettings, DeferredSettings
from batchvision.runner.prepare import Preparer
from batchvision.runner.refusals import Refusals
from batchvision.runner.retry import RetryPolicy
from batchvision.runner.sharing import membership_of, shared_budget_path
from batchvision.ticks import Prices, usd_to_ticks

if TYPE_CHECKING:
    from pyarrow import DataType

#: The whole manifest as one shard.
WHOLE = Shard()


#: The keys of the cost caps.
PER_RUN = "max_cost_usd_per_run"
CAPS = ("max_cost_usd", PER_RUN, "max_cost_usd_per_day", "max_cost_usd_per_month")


class Spent(NamedTuple):
    """Ticks by shard, bounds of ambiguous attempts included."""

    in_all: Mapping[Shard, int]
    today: Mapping[Shard, int] = MappingProxyType({})
    this_month: Mapping[Shard, int] = MappingProxyType({})

    def by_key(self) -> Mapping[str, Mapping[Shard, int]]:
        """By the key of the cap that they count toward."""
        return dict(zip(("max_cost_usd", *CAPS[2:]), self, strict=True))


def disk_of(job: Job, dependencies: RunDependencies) -> Disk:
    """The disk of the output."""
    if dependencies.disk is not None:
        return dependencies.disk
    return disk_at(job.output_path, job.output_url, job.output.sync_seconds, group_readable=job.output.group_readable)


def bring_up_to_date(job: Job, dependencies: RunDependencies) -> None:
    """Make the local copy of an output in an object store what the store holds. Raises OutputHeld, DiskFailed."""
    if job.output_url is not None:
        Store.lock(job.output_path, disk=disk_of(job, dependencies)).release()


def prices_of(job: Job) -> Prices | None:
    """The prices of the job, or the known prices of its model."""
    return quote(job).prices


def dialect_of(job: Job, name: str) -> Dialect:
    """The dialect ``name``. The messages of the job's own dialect name the source of its key."""
    return dialect(name).with_key_from(job.key_source) if name == job.provider.name else dialect(name)


def answer_columns_of(job: Job) -> tuple[tuple[str, DataType], ...]:
    """The columns of answers; last the thoughts, if they are kept."""
    names = [(column.name, column.type_name) for column in answer_columns(job.recipe.answer)]
    if job.output.keep_reasoning:
        names.append((REASONING_COLUMN, "string"))
    return tuple((name, type_of(type_name)) for name, type_name in names)


def classifier_of(job: Job, prices: Prices | None, recipe_of: Callable[[str], Recipe]) -> Classifier:
    policy = RetryPolicy(
        job.limits.max_attempts,
        raise_once=job.answer.on_truncated == "raise_once",
        holds=job.limits.ambiguous == "hold",
        quarantine_after_runs=job.limits.quarantine_after_runs,
    )
    dialects = cache(partial(dialect_of, job))
    return Classifier(recipe_of, policy, prices, dialects, job.recipe, keep_reasoning=job.output.keep_reasoning)


def refusals_of(job: Job, latest: RunSummary | None) -> Refusals:
    """The refusals of a run. The answers of the run before it count if it asked the same model at the same URL."""
    if latest is None or not latest.provider_answered:
        is_same = False
    else:
        then, now = latest.config.get("provider", {}), job.config()["provider"]
        is_same = all(then.get(name) == now[name] for name in ("name", "base_url", "model"))
    return Refusals(is_proven=is_same, known_rows=frozenset(latest.stopped_by if latest is not None else ()))


def forms_of(job: Job) -> ResponseForms:
    streams = job.delivery.stream and job.delivery.lane_used is Lane.ONLINE
    return ResponseForms(job.provider.response_format, has_schema=job.recipe.answer.schema is not None, streams=streams)


def caching_of(job: Job) -> Caching:
    provider = job.provider
    return caching(
        dialect(provider.name),
        job.recipe.recipe_id,
        job.limits.concurrency,
        prompt_cache=provider.prompt_cache == "auto",
        answers=provider.response_cache,
        answers_ttl_seconds=provider.response_cache_ttl_seconds,
        own_headers=provider.headers,
    )


def estimator_of(job: Job, prices: Prices | None) -> Estimator:
    is_kept = dialect(job.provider.name).conversation_header is not None
    caches_prefix = is_kept and job.provider.prompt_cache == "auto"
    return Estimator(job.recipe, prices, caches_prefix=caches_prefix, in_batch=job.delivery.lane_used is Lane.BATCH)


def caps_of(
    job: Job,
    prices: Prices | None,
    estimator: Estimator,
    spent: Spent,
    now: Callable[[], datetime],
    shard: Shard = WHOLE,
) -> SpendCaps:
    """A shard's share of the cost caps, less the money already spent. Raises JobInvalid if a cap could not be kept."""
    zone = ZoneInfo(job.timezone)
    whose = f" (the share of shard {shard})" if shard.of > 1 else ""
    periods = {"max_cost_usd_per_day": day_of(now, zone), "max_cost_usd_per_month": month_of(now, zone)}
    caps = [
        share_of(ticks, spent.by_key().get(key, {}), shard, key + whose, periods.get(key))
        for key, ticks in _cap_ticks(job, prices, estimator).items()
    ]
    return SpendCaps(caps)


def _cap_ticks(job: Job, prices: Prices | None, estimator: Estimator) -> dict[str, int]:
    """The caps of the job by key. Raises JobInvalid if a cap could not be kept."""
    caps = {key: usd for key in CAPS if (usd := getattr(job.limits, key)) is not None}
    if caps and estimator.estimate(0, [], 0).bound_ticks is None:
        missing = "a price: set provider.prices" if prices is None else "a bound: set provider.parameters.max_tokens"
        raise JobInvalid(f"limits.{next(iter(caps))} cannot be kept without {missing}")
    return {key: usd_to_ticks(usd) for key, usd in caps.items()}


def spent_of(job: Job, now: datetime) -> Spent:
    """The money that was, or may have been, spent before this run.

    The ledger is read only for the caps of the job, and for a shared budget.
    """
    limits = job.limits
    midnight = now.astimezone(ZoneInfo(job.timezone)).replace(hour=0, minute=0, second=0, microsecond=0)

    def since(cap: object, at: datetime | None) -> Mapping[Shard, int]:
        if cap is None and limits.share is None:
            return {}
        return {shard: sums.ticks for shard, sums in spent_by_shard(job.output_path, at).items()}

    return Spent(
        since(limits.max_cost_usd, None),
        since(limits.max_cost_usd_per_day, midnight),
        since(limits.max_cost_usd_per_month, midnight.replace(day=1)),
    )


@contextmanager
def limits_of(
    job: Job,
    prices: Prices | None,
    estimator: Estimator,
    spent: Spent,
    now: Callable[[], datetime],
    shard: Shard,
    open_ticks: int = 0,
) -> Iterator[tuple[Pacing | None, SpendCap]]:
    """The cost caps of this run, and the pacing of its requests if other processes share it. Raises JobInvalid.

    ``open_ticks``: the bounds of open tickets, which the run commits later.
    """
    path = shared_budget_path(job)
    if path is None:
        yield None, caps_of(job, prices, estimator, spent, now, shard)
        return
    caps = _cap_ticks(job, prices, estimator)
    of_this_run = [LocalSpendCap(caps.pop(PER_RUN), key=PER_RUN)] if PER_RUN in caps else []
    with membership_of(job, path, caps, spent.by_key(), now, shard, open_ticks) as member:
        yield member.pacing, SpendCaps([*of_this_run, member.cap], member.cap.returned)


def rate_limiter_of(
    job: Job, report: ReportWait | None = None, pacing: Pacing | None = None, *, was_answered: bool = False
) -> LocalRateLimiter:
    """The rate limiter of this process. ``was_answered``: the provider answered in the run before this one."""
    limits = job.limits
    per_second = [limits.requests_per_second, limits.requests_per_minute and limits.requests_per_minute / 60]
    given = [rate for rate in per_second if rate is not None]
    # in other lanes the number of submitters limits the requests in flight
    in_flight = limits.concurrency if job.delivery.lane_used is Lane.ONLINE else None
    settings = RateSettings(
        requests_per_second=min(given) if given else None,
        tokens_per_minute=limits.tokens_per_minute,
        in_flight=in_flight,
        max_outage_seconds=limits.max_outage_seconds,
        timeout_seconds=limits.request_timeout_seconds,
        was_answered=was_answered,
    )
    return LocalRateLimiter(settings, report, pacing=pacing)


def deferred_settings_of(job: Job) -> DeferredSettings:
    delivery, rules = job.delivery, dialect(job.provider.name)
    return DeferredSettings(rules, job.limits.concurrency, delivery.max_open_tickets, delivery.max_ticket_wait_seconds)


def batch_settings_of(job: Job, batches: BatchDialect, run_id: str, folder: Path) -> BatchSettings:
    """The limits of the job, or else those of the provider. ``folder``: of the shard's journal."""
    delivery, limits = job.delivery, batches.limits(job.base_url)
    limits = limits._replace(
        max_bytes=delivery.max_batch_bytes or limits.max_bytes,
        max_lines=delivery.max_batch_rows or limits.max_lines,
        max_open_batches=delivery.max_open_batches or limits.max_open_batches,
        max_enqueued_tokens=delivery.max_enqueued_tokens or limits.max_enqueued_tokens,
    )
    return BatchSettings(limits, folder / "batches", run_id, delivery.max_ticket_wait_seconds, waits=delivery.wait)


def images_of(
    job: Job,
    fetch: Fetcher,
    dependencies: RunDependencies,
    convert: Converter | None = None,
    least: LeastSize | None = None,
    objects: Objects | None = None,
) -> ImageSource:
    settings = ImageSettings(
        job.recipe.images,
        job.provider.image_mode,
        job.manifest.image_identity,
        job.images.allow_private_hosts,
        least or LeastSize(),
        job.object_root,
    )
    return ImageSource(
        ImageFolder(job.root), settings, fetch=fetch, objects=objects, convert=convert, offload=dependencies.offload
    )


def least_image_of(job: Job) -> LeastSize:
    """The smallest image that the provider takes. At another URL only the sides are checked, not the pixels."""
    spoken = dialect(job.provider.name)
    side, pixels = spoken.least_image
    return LeastSize(side, pixels if job.base_url == spoken.default_base_url else 1)


def preparer_of(job: Job, estimator: Estimator, images: ImageSource) -> Preparer:
    raises = job.answer.on_truncated == "raise_once"
    examples = [load_local(path, Path("/"), job.recipe.images) for path in job.example_images]
    return Preparer(
        job.recipe.recipe_id,
        Conversation(job.recipe, examples),
        images,
        estimator,
        skip_bad_images=job.manifest.on_bad_image == "skip_image",
        may_inline_urls=job.provider.image_mode != "url",
        raised_max_tokens=dialect(job.provider.name).raised_max_tokens(job.recipe) if raises else None,
    )
