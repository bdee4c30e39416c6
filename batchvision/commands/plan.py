"""Plan a run: count its rows, images and requests, estimate cost and time. Sends nothing, writes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from batchvision.checkpoint import RowIndex
from batchvision.commands.places import reading
from batchvision.errors import ImageUnreachable, RowFault
from batchvision.images import ReserveBytes
from batchvision.job import Job
from batchvision.money import Estimator, PriceQuote, quote
from batchvision.providers import SendOptions, dialect
from batchvision.records import TICKS_PER_USD, Lane, Row
from batchvision.runner import (
    ImageCounts,
    RequestCounter,
    RequestTotals,
    RowCounts,
    RunDependencies,
    WatchRequest,
    empty_words,
    estimator_of,
    forms_of,
    images_of,
    missing_words,
    preparer_of,
    rebuy_refusals,
    row_index_of,
)
from batchvision.runner.feed import ChangeCounter, Changes, LocalImages, Selection, stretches, survey

_BASE64 = re.compile(r"(data:[\w.+/-]+;base64,)([A-Za-z0-9+/=]{41,})")
#: Compressed size of a row in ``results/`` and ``attempts/`` without its answer, and of one answer token in both.
BYTES_A_ROW, BYTES_A_TOKEN = 600, 6
#: Two journal segments exist while one replaces the other.
JOURNAL_BYTES = 2 * 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run. ``reasons``: row_ids of the first invalid rows, and why they are invalid.

    ``seconds``: duration at the job's own limits, by lane. ``refusals``: why a run would be refused today.
    ``ready_at``: when a run that begins now stops sending (``delivery.ready_by``), in the job's time zone.
    """

    rows: RowCounts
    images: ImageCounts
    cost: RequestTotals
    recipe_id: str
    lane: Lane
    prices: PriceQuote
    reasons: list[tuple[str, str]] = field(default_factory=list)
    requests_shown: list[dict[str, Any]] = field(default_factory=list)
    seconds: Mapping[Lane, float] = field(default_factory=dict)
    price_warning: str | None = None
    changes: Changes = field(default_factory=Changes)
    refusals: list[str] = field(default_factory=list)
    ready_at: datetime | None = None
    seconds_until_ready: float | None = None

    @property
    def seconds_at_limit(self) -> float | None:
        """Duration in the job's own lane; ``None`` without a limit."""
        return self.seconds.get(self.lane)

    @property
    def disk_bytes(self) -> int:
        """About how much the output and its journal will grow."""
        if not self.rows.to_do:
            return 0
        return self.rows.to_do * BYTES_A_ROW + self.cost.output_tokens * BYTES_A_TOKEN + JOURNAL_BYTES

    @property
    def done_elsewhere(self) -> tuple[int, int]:
        """Rows paid for under other recipes, and their ticks."""
        return self.changes.rows_again + self.changes.kept, self.changes.ticks

    def document(self) -> dict[str, Any]:
        """JSON content for ``plan --json``."""
        elsewhere, ticks = self.done_elsewhere
        document: dict[str, Any] = {
            "rows": self._rows(),
            "requests": self.cost.requests,
            "images": self.images.document(),
            "tokens": {
                "prompt": self.cost.prompt_tokens,
                "cached": self.cost.cached_tokens,
                "completion": self.cost.output_tokens,
                "total": self.cost.tokens,
            },
            "cost_usd": {
                "expected": _usd(self.cost.likely_ticks),
                "low": None,
                "high": _usd(self.cost.bound_ticks),
                "source": None if self.cost.likely_ticks is None else "estimate",
            },
            "prices": {"source": self.prices.source, "as_of": str(self.prices.as_of) if self.prices.as_of else None},
            "duration_seconds": {
                "expected": self.seconds_at_limit,
                "low": None,
                "high": None,
                "by_lane": {lane.value: seconds for lane, seconds in self.seconds.items()},
            },
            "disk_bytes": self.disk_bytes,
            "invalid": [{"row_id": row_id, "reason": reason} for row_id, reason in self.reasons],
            "recipe_id": self.recipe_id,
            "done_under_other_recipes": {"rows": elsewhere, "cost_usd": _usd(ticks)},
        }
        if self.ready_at is not None:
            document["ready_by"] = {"at": self.ready_at.isoformat(), "seconds_left": self.seconds_until_ready}
        if self.refusals:
            document["refusals"] = self.refusals
        if self.price_warning:
            document["warning"] = self.price_warning
        if self.requests_shown:
            document["request_bodies"] = self.requests_shown
        return document

    def _rows(self) -> dict[str, int]:
        """The row counts; ``new changed under_other_recipe kept`` divide the rows of ``to_do`` and ``left``."""
        counts, found = asdict(self.rows), self.changes
        del counts["failed_kept"]
        return {
            **counts,
            "new": self.rows.to_do - found.changed - found.rows_again,
            "changed": found.changed,
            "under_other_recipe": found.rows_again,
            "kept": found.kept,
        }


def _usd(ticks: int | None) -> float | None:
    return None if ticks is None else ticks / TICKS_PER_USD


async def plan(
    job: Job,
    selection: Selection | None = None,
    *,
    show_requests: int = 0,
    watch: WatchRequest | None = None,
    now: datetime | None = None,
) -> Plan:
    """Plan a run of ``job``. Raises JobInvalid as a run would.

    ``show_requests``: number of request bodies in the plan. ``watch`` sees each request that would be sent. ``now``:
    the start of the planned run.
    """
    job, selection = reading(job), selection or Selection(retry_failed=job.limits.retry_kinds)
    now = now or datetime.now(UTC)
    ready_at = job.delivery.ready_at(now, ZoneInfo(job.timezone))
    surveyed, row_index, prices = survey(job, selection), row_index_of(job), quote(job)
    estimator = estimator_of(job, prices.prices)
    requests = RequestCounter(job, estimator, row_index, watch, show_requests)
    requests.rows.total = surveyed.rows
    changes = ChangeCounter(job, row_index) if isinstance(row_index, RowIndex) else None
    local_images = LocalImages(job)
    for stretch in stretches(job, surveyed, row_index, selection):
        await requests.add(stretch)
        local_images.add(stretch)
        if changes is not None:
            changes.add(stretch)
    found = Changes() if changes is None else changes.found
    refusals = [missing_words(job, local_images)] if local_images.are_all_missing else []
    if isinstance(row_index, RowIndex):
        if not surveyed.rows_in_manifest and len(row_index.paid_rows()):
            refusals.append(empty_words(job, len(row_index.paid_rows())))
        refusals += await rebuy_refusals(job, surveyed, selection, found, requests.totals)
    return Plan(
        rows=requests.rows,
        images=requests.images,
        cost=requests.totals,
        recipe_id=job.recipe.recipe_id,
        lane=job.delivery.lane_used,
        prices=prices,
        reasons=requests.reasons,
        requests_shown=await _bodies(job, estimator, requests.shown) if requests.shown else [],
        seconds=_seconds_at_limits(job, requests.totals),
        price_warning=prices.warning(now.date(), job),
        changes=found,
        refusals=refusals,
        ready_at=ready_at,
        seconds_until_ready=None if ready_at is None else (ready_at - now).total_seconds(),
    )


def _seconds_at_limits(job: Job, totals: RequestTotals) -> dict[Lane, float]:
    """Duration by lane at the job's own limits. A deferred request takes at least one poll, which is limited too."""
    limits = job.limits
    rates = [limits.requests_per_second, limits.requests_per_minute and limits.requests_per_minute / 60]
    given = [rate for rate in rates if rate]
    if not given and not limits.tokens_per_minute:
        return {}
    for_tokens = totals.tokens / limits.tokens_per_minute * 60 if limits.tokens_per_minute else 0.0
    sent = {Lane.ONLINE: totals.requests, Lane.DEFERRED: 2 * totals.requests}
    lanes = [lane for lane in sent if lane in dialect(job.provider.name).lanes]
    return {lane: max(sent[lane] / min(given) if given else 0.0, for_tokens) for lane in lanes}


class _NoDownloads:
    """A plan downloads nothing."""

    async def fetch(self, url: str, max_bytes: int, reserve: ReserveBytes | None = None) -> bytes:
        raise ImageUnreachable('plan downloads nothing: with image_mode = "inline" the run would download it')


async def _bodies(job: Job, estimator: Estimator, rows: list[Row]) -> list[dict[str, Any]]:
    """The request bodies of ``rows``, or the reason why a body cannot be made."""
    speaks = dialect(job.provider.name)
    deferred = job.delivery.lane_used is Lane.DEFERRED
    options = SendOptions(deferred=deferred, stream=job.delivery.stream and not deferred, form=forms_of(job).current)
    preparer = preparer_of(job, estimator, images_of(job, _NoDownloads(), RunDependencies()))
    bodies = []
    for row in rows:
        try:
            request = await preparer.prepare(row)
        except RowFault as fault:
            bodies.append({"row_id": row.row_id, "cannot_be_made": fault.message})
            continue
        body: Mapping[str, Any] = json.loads(speaks.body(job.recipe, request.messages, options))
        bodies.append({"row_id": row.row_id, "body": shortened(body)})
    return bodies


def shortened(document: Any) -> Any:
    """``document`` with each base64 text cut to its beginning and its length."""
    match document:
        case str():
            return _BASE64.sub(lambda m: f"{m[1]}{m[2][:24]}... ({len(m[2]):,} characters)", document)
        case Mapping():
            return {key: shortened(value) for key, value in document.items()}
        case list():
            return [shortened(value) for value in document]
        case _:
            return document
