"""How a job's settings become the parts of a run. Plain construction: no loop, no file is opened but the examples'."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from zoneinfo import ZoneInfo

from batchvision.checkpoint import Disk, LocalDisk, spent_by_shard, type_of
from batchvision.descriptors import SPARE_FILES, room_for_connections
from batchvision.errors import RAISE_OPEN_FILES, JobInvalid
from batchvision.http import NO_PROXY, Endpoint, ImageAccess, Network, ProviderClient, httpx
from batchvision.images import (
    Converter,
    DecodingPool,
    Fetcher,
    ImageFolder,
    ImageSettings,
    ImageSource,
    LeastSize,
    load_local,
)
from batchvision.job import Job
from batchvision.limits import Caps, LocalBudget, Pacing, PacingLimits, PeriodCap, day_of, month_of, share_of
from batchvision.money import Estimator, PriceQuote, quote
from batchvision.offload import Offload
from batchvision.prompt import REASONING_COLUMN, Conversation, answer_columns
from batchvision.providers import Caching, Dialect, ResponseForms, caching, dialect
from batchvision.records import Lane, Recipe, RunSummary, Shard
from batchvision.runner.classify import Classifier
from batchvision.runner.key_renewal import KeyRenewal
from batchvision.runner.lanes import POLLERS
from batchvision.runner.prepare import Preparer
from batchvision.runner.provider_calls import utc_now
from batchvision.runner.refusals import Refusals
from batchvision.runner.retry import RetryPolicy
from batchvision.secrets import Secret, Secrets
from batchvision.ticks import Prices, usd_to_ticks

if TYPE_CHECKING:
    from pyarrow import DataType

#: The whole manifest as one shard.
WHOLE = Shard()


log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunDependencies:
    """Where a run touches the world, so that a test can put another in its place. The defaults are the real one.

    ``offload`` runs blocking work off the loop (None: threads; inline in virtual time). ``transport`` is used instead
    of connections to the job's provider; the caller closes it.
    """

    now: Callable[[], datetime] = utc_now
    rng: random.Random = field(default_factory=random.Random)
    disk: Disk | None = None
    offload: Offload | None = None
    transport: httpx.AsyncBaseTransport | None = None


class Spent(NamedTuple):
    """Ticks by shard, bounds of ambiguous attempts included."""

    in_all: Mapping[Shard, int]
    today: Mapping[Shard, int] = MappingProxyType({})
    this_month: Mapping[Shard, int] = MappingProxyType({})


def disk_of(job: Job, dependencies: RunDependencies) -> Disk:
    """Where the output's files are written."""
    return dependencies.disk or LocalDisk(group_readable=job.output.group_readable)


def prices_of(job: Job) -> Prices | None:
    """The job's own prices, over those known of its model."""
    return quote(job).prices


def price_warning(job: Job, quoted: PriceQuote, now: datetime) -> str | None:
    """Where a cap is kept by prices that are old; elsewhere nothing hangs on them."""
    limits = job.limits
    caps = (
        limits.max_cost_usd,
        limits.max_cost_usd_per_run,
        limits.max_cost_usd_per_day,
        limits.max_cost_usd_per_month,
    )
    return None if caps == (None,) * len(caps) else quoted.warning(now.date(), job)


def fallback_warning(job: Job) -> str | None:
    """Where the fallback is none of the labels, and so is never offered to the model."""
    fallback, labels = job.answer.labels_fallback, job.recipe.answer.labels
    if fallback is None or fallback in {label.value for label in labels}:
        return None
    return (
        f"answer.labels_fallback {fallback!r} is none of the labels, so the model is not offered it; answers that name "
        f"no label fail as invalid_answer. Add {fallback!r} to the labels to let the model say that none fits"
    )


#: A column's name in single braces; JSON and doubled braces are none.
_PLACEHOLDER = re.compile(r"(?<!\{)\{\w[\w:.-]*\}(?!\})")


def system_warning(job: Job) -> str | None:
    """Where the system prompt looks like a template: it is the same for all rows and is sent as it stands."""
    found = sorted(set(_PLACEHOLDER.findall(job.recipe.system or "")))
    if not found:
        return None
    shown = ", ".join(found[:3])
    return (
        f"prompt.system is sent as it stands: {shown} in it is not replaced by a cell. Move it to prompt.user, which "
        "may read the columns of the manifest"
    )


def warnings_of(job: Job, quoted: PriceQuote, now: datetime) -> Iterator[str]:
    """What a run says of its job before it begins."""
    for said in (price_warning(job, quoted, now), fallback_warning(job), system_warning(job)):
        if said is not None:
            yield said


def dialect_of(job: Job, name: str) -> Dialect:
    """The dialect ``name``; where it is the job's own, its messages name the job's key source."""
    return dialect(name).with_key_from(job.key_source) if name == job.provider.name else dialect(name)


def answer_columns_of(job: Job) -> tuple[tuple[str, DataType], ...]:
    """The columns that answers fill, thoughts last where they are kept."""
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
    """What the run before this one has shown of the provider, where it asked the same model at the same place."""
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
    is_kept = bool(dialect(job.provider.name).routing_headers(""))
    return Estimator(job.recipe, prices, caches_prefix=is_kept and job.provider.prompt_cache == "auto")


def caps_of(
    job: Job,
    prices: Prices | None,
    estimator: Estimator,
    spent: Spent,
    now: Callable[[], datetime],
    shard: Shard = WHOLE,
) -> Caps:
    """A shard's share of the job's cost caps over what has been spent. Raises JobInvalid where a cap could not be
    kept."""
    limits, zone = job.limits, ZoneInfo(job.timezone)
    whose = f" (the share of shard {shard})" if shard.of > 1 else ""
    given = [
        ("max_cost_usd", limits.max_cost_usd, spent.in_all, None),
        ("max_cost_usd_per_run", limits.max_cost_usd_per_run, {}, None),
        ("max_cost_usd_per_day", limits.max_cost_usd_per_day, spent.today, day_of(now, zone)),
        ("max_cost_usd_per_month", limits.max_cost_usd_per_month, spent.this_month, month_of(now, zone)),
    ]
    caps = [
        PeriodCap(key + whose, share_of(usd_to_ticks(usd), ticks, shard), period)
        for key, usd, ticks, period in given
        if usd is not None
    ]
    if caps and estimator.estimate(0, [], 0).bound_ticks is None:
        missing = "a price: set provider.prices" if prices is None else "a bound: set provider.parameters.max_tokens"
        raise JobInvalid(f"limits.{caps[0].key} cannot be kept without {missing}")
    return Caps(caps)


def spent_of(job: Job, now: datetime) -> Spent:
    """What was, or may have been, spent before this run; the ledger is read only for the caps that there are."""
    limits = job.limits
    midnight = now.astimezone(ZoneInfo(job.timezone)).replace(hour=0, minute=0, second=0, microsecond=0)

    def since(cap: object, at: datetime | None) -> Mapping[Shard, int]:
        if cap is None:
            return {}
        return {shard: sums.ticks for shard, sums in spent_by_shard(job.output_path, at).items()}

    return Spent(
        since(limits.max_cost_usd, None),
        since(limits.max_cost_usd_per_day, midnight),
        since(limits.max_cost_usd_per_month, midnight.replace(day=1)),
    )


def share_of_job(job: Job, shard: Shard) -> Job:
    """The job as one shard of it runs: its part of the rates and of the concurrency. The caps are divided by what was
    spent (:func:`caps_of`). Raises JobInvalid where a shard would be left without a request on the wire."""
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


def job_within_open_files(job: Job) -> Job:
    """The job with no more requests on the wire than this process may open files for; a warning says so.

    The soft limit is raised first. Raises JobInvalid where not one connection fits.
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


def budget_of(job: Job, caps: Caps, *, was_answered: bool = False) -> LocalBudget:
    limits = job.limits
    per_second = [limits.requests_per_second, limits.requests_per_minute and limits.requests_per_minute / 60]
    given = [rate for rate in per_second if rate is not None]
    pacing = PacingLimits(
        requests_per_second=min(given) if given else None,
        tokens_per_minute=limits.tokens_per_minute,
        in_flight=limits.concurrency if job.delivery.lane_used is Lane.ONLINE else None,  # others count submitters
        max_outage_seconds=limits.max_outage_seconds,
        timeout_seconds=limits.request_timeout_seconds,
        was_answered=was_answered,
    )
    return LocalBudget(Pacing(pacing), caps)


def images_of(
    job: Job,
    fetch: Fetcher,
    dependencies: RunDependencies,
    convert: Converter | None = None,
    least: LeastSize | None = None,
) -> ImageSource:
    settings = ImageSettings(
        job.recipe.images,
        job.provider.image_mode,
        job.manifest.image_identity,
        job.images.allow_private_hosts,
        least or LeastSize(),
    )
    return ImageSource(ImageFolder(job.root), settings, fetch=fetch, convert=convert, offload=dependencies.offload)


def least_image_of(job: Job) -> LeastSize:
    """What the provider takes at its own address. A gateway or an emulator in its place is held to the sides alone:
    models behind it count pixels in other ways."""
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


class Access(NamedTuple):
    """What it takes to ask the provider: the headers of every request, what to hide, and the way there."""

    headers: Mapping[str, str]
    secrets: tuple[Secret, ...]
    network: Network | None  #: None: a transport of the caller's reaches the provider
    images: ImageAccess = ImageAccess()


def access_of(
    job: Job, key: Secret | None, environ: Mapping[str, str] | None, transport: httpx.AsyncBaseTransport | None = None
) -> Access:
    """Raises JobInvalid for variables, proxies and files that are not there."""
    given, secrets = job.request_headers(environ)
    headers = _headers_of(job, key, given)
    network = None if transport is not None else _network_of(job, environ)
    keys = () if key is None else (key,)
    images, of_images = ImageAccess.of(job, os.environ if environ is None else environ)
    of_ways = (*(network.secrets if network else ()), *images.secrets)
    return Access(headers, (*keys, *secrets, *of_images, *job.base_url_secrets, *of_ways), network, images)


def _headers_of(job: Job, key: Secret | None, given: Mapping[str, str]) -> Mapping[str, str]:
    speaks, name = dialect(job.provider.name), job.provider.api_key_header
    if key is None or name is None or name.lower() == "authorization":
        return speaks.headers(key, given)
    return speaks.headers(None, {**given, name: key.reveal()})


def key_of(
    job: Job, key: Secret | None, environ: Mapping[str, str] | None, secrets: Secrets, offload: Offload
) -> KeyRenewal:
    """The job's key, with the command that gives a new one when it has expired."""
    given, _ = job.request_headers(environ)
    first = _headers_of(job, key, given)

    def headers_of(new: Secret) -> Mapping[str, str]:
        return {name: value for name, value in _headers_of(job, new, given).items() if first.get(name) != value}

    ask = job.api_key if job.provider.api_key_command is not None else None
    return KeyRenewal(key, ask, headers_of, secrets, offload)


def _network_of(job: Job, environ: Mapping[str, str] | None) -> Network:
    provider = job.provider
    return Network.to(
        job.base_url,
        os.environ if environ is None else environ,
        http=provider.http,
        proxy=NO_PROXY if provider.http == "lean" else job.proxy(environ),
        ca_file=job.file(provider.ca_file),
        client_cert=job.file(provider.client_cert),
    )


@asynccontextmanager
async def connected(
    job: Job, access: Access, secrets: Secrets, dependencies: RunDependencies
) -> AsyncIterator[tuple[ProviderClient, ImageSource]]:
    """The provider's endpoint, with a connection for each request and poll; images, with what downloads and decodes
    them. All of it ends with the run."""
    async with AsyncExitStack() as stack:
        endpoint = Endpoint(job.base_url, access.headers, allow_plain_http=job.provider.allow_plain_http)
        if access.network is not None:
            own = access.network.transport(job.limits.concurrency + POLLERS)
            transport: httpx.AsyncBaseTransport = await stack.enter_async_context(own)
        elif dependencies.transport is not None:
            transport = dependencies.transport
        else:
            raise RuntimeError("an access without a network needs a transport of the caller's")
        client = ProviderClient(endpoint, transport, secrets, network=access.network, clock=dependencies.now)
        convert = None if dependencies.offload is not None else stack.enter_context(DecodingPool()).convert
        fetch = await stack.enter_async_context(access.images.fetcher())
        yield client, images_of(job, fetch, dependencies, convert, least_image_of(job))
