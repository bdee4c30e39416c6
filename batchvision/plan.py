"""What a run would do: rows, images, requests, what they may cost. Reads manifest, images and output; sends nothing.

Rule: the same survey and feed as a run, so that the counts are the run's own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchvision.checkpoint import OutputView, Standing
from batchvision.checkpoint.books import Books
from batchvision.checkpoint.schema import failures_of
from batchvision.errors import ImageUnreachable, RowFault
from batchvision.estimate import Estimator
from batchvision.feed import NewStanding, Selection, Survey, feed, survey
from batchvision.feed import Standing as FeedStanding
from batchvision.images import Reserve
from batchvision.images.formats import examine
from batchvision.images.source import passes_unchanged, read_source
from batchvision.job import Job
from batchvision.providers import SendOptions, dialect
from batchvision.records import TICKS_PER_USD, Exchange, ImageKind, ImageRef, Lane, Row
from batchvision.wiring import Seams, estimator_of, images_of, preparer_of, prices_of

#: Reasons for invalid rows that are kept to be shown.
REASONS_SHOWN = 10
_BASE64 = re.compile(r"(data:[\w.+/-]+;base64,)([A-Za-z0-9+/=]{41,})")


@dataclass(slots=True)
class RowCounts:
    """Rows of the manifest, each in one count but for ``failed_before`` and ``retried``, which say more of them.

    ``failed_kept``: failed before, and this run leaves them alone.
    """

    total: int = 0
    done: int = 0
    to_do: int = 0
    retried: int = 0  #: of ``to_do``: rows that failed before
    failed_before: int = 0
    failed_kept: int = 0
    invalid: int = 0
    awaiting: int = 0
    held: int = 0
    left: int = 0

    def document(self) -> dict[str, int]:
        return {
            "total": self.total,
            "done": self.done,
            "to_do": self.to_do,
            "failed_before": self.failed_before,
            "invalid": self.invalid,
            "retried": self.retried,
            "awaiting": self.awaiting,
            "held": self.held,
            "left": self.left,
        }


@dataclass(slots=True)
class ImageCounts:
    """The images of the rows to do. ``to_convert``: not sent byte for byte. URLs are counted, not looked at."""

    count: int = 0
    bytes: int = 0
    to_convert: int = 0
    by_format: Counter[str] = field(default_factory=Counter)

    def document(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "bytes": self.bytes,
            "to_convert": self.to_convert,
            "by_format": dict(self.by_format.most_common()),
        }


@dataclass(slots=True)
class Sums:
    """What the estimates of the requests add up to; None where prices or bounds are not known."""

    tokens: int = 0
    likely_ticks: int | None = 0
    bound_ticks: int | None = 0

    def document(self) -> dict[str, Any]:
        known = self.likely_ticks is not None
        return {
            "expected": _usd(self.likely_ticks),
            "low": None,
            "high": _usd(self.bound_ticks),
            "source": "estimate" if known else None,
        }


@dataclass(slots=True)
class Plan:
    """The whole of it; ``reasons``: the first invalid rows, and why."""

    rows: RowCounts
    images: ImageCounts
    cost: Sums
    reasons: list[tuple[str, str]]
    seconds_at_limit: float | None
    requests_shown: list[dict[str, Any]]
    recipe_id: str
    done_elsewhere: tuple[int, int] = (0, 0)  #: rows done under other recipes, and their ticks

    def document(self) -> dict[str, Any]:
        """JSON content for ``plan --json`` (DESIGN, section 5)."""
        document: dict[str, Any] = {
            "rows": self.rows.document(),
            "requests": self.rows.to_do,
            "images": self.images.document(),
            "tokens": {"prompt": None, "completion": None, "total": self.cost.tokens},
            "cost_usd": self.cost.document(),
            "duration_seconds": {"expected": self.seconds_at_limit, "low": None, "high": None},
            "invalid": [{"row_id": row_id, "reason": reason} for row_id, reason in self.reasons],
            "recipe_id": self.recipe_id,
            "done_under_other_recipes": {"rows": self.done_elsewhere[0], "cost_usd": _usd(self.done_elsewhere[1])},
        }
        if self.requests_shown:
            document["request_bodies"] = self.requests_shown
        return document


async def plan(job: Job, selection: Selection | None = None, *, show_requests: int = 0) -> Plan:
    """Look at everything a run of ``job`` would do. Raises JobInvalid as a run would."""
    selection = selection or Selection(retry_failed=job.limits.retry_kinds)
    surveyed = survey(job, selection)
    standing = standing_of(job)
    prices = prices_of(job)
    estimator = estimator_of(job, prices)
    drawn = Plan(
        rows=RowCounts(total=surveyed.rows),
        images=ImageCounts(),
        cost=Sums(),
        reasons=[],
        seconds_at_limit=None,
        requests_shown=[],
        recipe_id=job.recipe.recipe_id,
    )
    shown: list[Row] = []
    for row in _rows_to_do(job, surveyed, standing, selection, drawn.rows):
        failed_before = standing.failed_before(row.row_id, row.skip_key) is not None
        drawn.rows.failed_before += failed_before
        sizes = _look_at(row, job, drawn)
        if sizes is None:
            continue
        drawn.rows.to_do += 1
        drawn.rows.retried += failed_before
        _add_estimate(drawn.cost, estimator, row, sizes)
        if len(shown) < show_requests:
            shown.append(row)
    drawn.seconds_at_limit = _seconds_at_limit(job, drawn.rows.to_do)
    if isinstance(standing, Standing):
        others = standing.done_other_recipe
        drawn.done_elsewhere = (others.rows, others.ticks)
    if shown:
        drawn.requests_shown = await _bodies(job, estimator, shown)
    return drawn


def standing_of(job: Job) -> FeedStanding:
    """How rows stand by the sealed tables and the journals, read without the lock."""
    view = OutputView(job.output_path)
    if not view.exists:
        return NewStanding()
    work = view.open_work()
    failed = [failed for batch in view.rows("failures") for failed in failures_of(batch)]
    books = Books(
        failures={each.row_id: each for each in failed},
        carries={carry.row_id: carry for carry in work.held},
        open={intent.exchange_id: Exchange(intent, ticket="open") for intent in work.tickets},
    )
    return Standing.read(job.output_path, books, job.recipe.recipe_id)


def _rows_to_do(
    job: Job, surveyed: Survey, standing: FeedStanding, selection: Selection, counts: RowCounts
) -> Iterator[Row]:
    """The feed's rows; what it does not give is counted here."""
    for batch in feed(job, surveyed, standing, selection):
        counts.done += batch.done
        counts.failed_kept += batch.failed_kept
        counts.failed_before += batch.failed_kept
        counts.awaiting += batch.awaiting
        counts.held += batch.held
        counts.left += batch.left
        yield from batch.rows


Sizes = list[tuple[int | None, int | None]]


def _look_at(row: Row, job: Job, drawn: Plan) -> Sizes | None:
    """The sizes of the row's images, all counted; None where the row is invalid, with its reason noted."""
    problem = row.problem
    sizes: Sizes = []
    if problem is None:
        try:
            sizes = [_image(ref, job, drawn.images) for ref in row.images]
        except RowFault as fault:
            problem = f"{fault.kind}: {fault.message}"
    if problem is None:
        return sizes
    drawn.rows.invalid += 1
    if len(drawn.reasons) < REASONS_SHOWN:
        drawn.reasons.append((row.row_id, problem))
    return None


def _image(ref: ImageRef, job: Job, counts: ImageCounts) -> tuple[int | None, int | None]:
    """One image, by its bytes, without decoding it. Raises RowFault."""
    if ref.kind is ImageKind.URL:
        counts.count += 1
        counts.by_format["url"] += 1
        return None, None
    preparation = job.recipe.images
    content = read_source(ref, job.root, preparation)
    header = examine(content)
    counts.count += 1
    counts.bytes += len(content)
    counts.by_format[header.format.value] += 1
    counts.to_convert += not passes_unchanged(content, header, preparation)
    return header.width, header.height


def _add_estimate(sums: Sums, estimator: Estimator, row: Row, sizes: Sizes) -> None:
    needed = estimator.estimate(len(row.text), sizes)
    sums.tokens += needed.tokens
    sums.likely_ticks = _sum(sums.likely_ticks, needed.likely_ticks)
    sums.bound_ticks = _sum(sums.bound_ticks, needed.bound_ticks)


def _sum(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right


def _usd(ticks: int | None) -> float | None:
    return None if ticks is None else ticks / TICKS_PER_USD


def _seconds_at_limit(job: Job, requests: int) -> float | None:
    """How long the job's own request rate makes it take; None without one."""
    limits = job.limits
    rates = [limits.requests_per_second, limits.requests_per_minute and limits.requests_per_minute / 60]
    given = [rate for rate in rates if rate]
    return requests / min(given) if given else None


class _NoDownloads:
    """A plan asks nobody for anything, image hosts included."""

    async def fetch(self, url: str, max_bytes: int, reserve: Reserve | None = None) -> bytes:
        raise ImageUnreachable('plan downloads nothing: with image_mode = "inline" the run would download it')


async def _bodies(job: Job, estimator: Estimator, rows: list[Row]) -> list[dict[str, Any]]:
    """The bodies that would be sent for ``rows``; where one cannot be made, why."""
    speaks = dialect(job.provider.name)
    options = SendOptions(deferred=job.delivery.lane_used is Lane.DEFERRED, stream=job.delivery.stream)
    preparer = preparer_of(job, estimator, images_of(job, _NoDownloads(), Seams()))
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
    """``document`` with base64 cut to its beginning and its length."""
    match document:
        case str():
            return _BASE64.sub(lambda m: f"{m[1]}{m[2][:24]}... ({len(m[2]):,} characters)", document)
        case Mapping():
            return {key: shortened(value) for key, value in document.items()}
        case list():
            return [shortened(value) for value in document]
        case _:
            return document
