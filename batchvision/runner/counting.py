"""Count the rows, images and requests of a run, by the run's own survey, feed and keys, without sending anything.

Images are read but not decoded, and nothing is downloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from typing import Any, NamedTuple

from batchvision.checkpoint import KeySet, OutputView, RowIndex, RunState, failures_of
from batchvision.errors import RowFault, RowInvalid
from batchvision.images import ImageFolder, examine, identity, passes_unchanged, read_source
from batchvision.job import Job
from batchvision.keys import hashed_text, key_bytes, request_key_of
from batchvision.money import Estimator, quote
from batchvision.records import Estimate, Exchange, ImageKind, ImagePreparation, ImageRef, ImageSize, Payload, Row
from batchvision.runner.feed import KnownRows, NoKnownRows, Selection, Stretch, Survey, Tally, stretches
from batchvision.runner.prepare import payloads_of
from batchvision.runner.wiring import estimator_of

#: Reasons of invalid rows that a plan shows.
REASONS_SHOWN = 10
#: Different estimates that are remembered. An estimate depends on the length of the text and the sizes of the images.
ESTIMATES_KEPT = 10_000
#: Upper bounds in pixels by which images are counted.
SIDES = (512, 1024, 2048, 4096)


class CountedRequest(NamedTuple):
    """A row that a run would send. ``sizes``: pixels of its images as sent. ``image_sha256``: ``None`` for a URL."""

    row: Row
    sizes: tuple[ImageSize, ...]
    request_key: str
    estimate: Estimate
    image_sha256: tuple[str | None, ...] = ()


WatchRequest = Callable[[CountedRequest], None]


@dataclass(slots=True)
class RowCounts:
    """Rows of the manifest. Each row is in one count; ``retried`` and ``failed_before`` overlap with other counts.

    ``failed_kept``: rows that failed in an earlier run and are not retried.
    """

    total: int = 0
    done: int = 0
    to_do: int = 0
    failed_before: int = 0
    invalid: int = 0
    retried: int = 0  #: rows of ``to_do`` that failed in an earlier run
    awaiting: int = 0
    held: int = 0
    left: int = 0
    failed_kept: int = 0

    def add(self, tally: Tally) -> None:
        """Add the rows of a stretch that are not to do."""
        counts = tally.counts
        self.done += counts.done
        self.failed_kept += counts.failed_kept
        self.failed_before += counts.failed_kept + len(tally.retried)
        self.awaiting += counts.awaiting
        self.held += counts.held
        self.left += counts.left


@dataclass(slots=True)
class ImageCounts:
    """Images of the rows to do. ``to_convert``: images that are not sent byte for byte. URLs are only counted.

    ``by_side``: images of known size by the first bound of :data:`SIDES` that holds the longer side.
    """

    count: int = 0
    bytes: int = 0
    to_convert: int = 0
    by_format: Counter[str] = field(default_factory=Counter)
    by_side: Counter[int | None] = field(default_factory=Counter)

    def add_size(self, width: int | None, height: int | None) -> None:
        if side := max(width or 0, height or 0):
            self.by_side[next((most for most in SIDES if side <= most), None)] += 1

    def sides(self) -> Iterator[tuple[int | None, int]]:
        """Bounds and counts above zero, the smallest bound first."""
        return ((most, self.by_side[most]) for most in (*SIDES, None) if self.by_side[most])

    def document(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "bytes": self.bytes,
            "to_convert": self.to_convert,
            "by_format": dict(self.by_format.most_common()),
            "by_side": {"larger" if most is None else f"{most}": count for most, count in self.sides()},
        }


@dataclass(slots=True)
class RequestTotals:
    """Sums over the estimates of all requests. Ticks are ``None`` where a price or a bound is not known."""

    requests: int = 0
    tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    likely_ticks: int | None = 0
    bound_ticks: int | None = 0

    @property
    def prompt_tokens(self) -> int:
        return self.tokens - self.output_tokens

    def add(self, needed: Estimate) -> None:
        self.requests += 1
        self.tokens += needed.tokens
        self.output_tokens += needed.output_tokens
        self.cached_tokens += needed.cached_tokens
        self.likely_ticks = _sum(self.likely_ticks, needed.likely_ticks)
        self.bound_ticks = _sum(self.bound_ticks, needed.bound_ticks)


def _sum(left: int | None, right: int | None) -> int | None:
    return None if left is None or right is None else left + right


class RequestCounter:
    """Counts one pass over the manifest, stretch by stretch.

    ``watch`` sees each request that would be sent. ``wanted``: number of rows to do that are kept in ``shown``.
    """

    def __init__(
        self,
        job: Job,
        estimator: Estimator,
        row_index: KnownRows,
        watch: WatchRequest | None = None,
        wanted: int = 0,
    ) -> None:
        self.rows = RowCounts()
        self.totals = RequestTotals()
        self.reasons: list[tuple[str, str]] = []  #: row_ids of the first invalid rows, and why they are invalid
        self.shown: list[Row] = []
        self._reader = RequestReader(job, estimator)
        self._duplicates = DuplicateRequests(row_index) if job.limits.deduplicate else None
        self._watch = watch
        self._wanted = wanted

    @property
    def images(self) -> ImageCounts:
        return self._reader.images

    async def add(self, stretch: Stretch) -> None:
        self.rows.add(stretch.tally)
        for batch in stretch.batches():
            requests = [each for row in batch.rows if (each := await self._read(row, stretch.tally)) is not None]
            self.shown += [each.row for each in requests[: self._wanted - len(self.shown)]]
            for each in requests if self._duplicates is None else self._duplicates.removed_from(requests):
                self.totals.add(each.estimate)
                if self._watch is not None:
                    self._watch(each)

    async def _read(self, row: Row, tally: Tally) -> CountedRequest | None:
        try:
            request = await self._reader.read(row)
        except RowFault as fault:
            self.rows.invalid += 1
            if len(self.reasons) < REASONS_SHOWN:
                self.reasons.append((row.row_id, row.problem or f"{fault.kind}: {fault.message}"))
            return None
        self.rows.to_do += 1
        self.rows.retried += row.position in tally.retried
        return request


class RequestReader:
    """Makes the keys and estimates of requests as a run does, from the headers of their images."""

    def __init__(self, job: Job, estimator: Estimator) -> None:
        self.images = ImageCounts()
        self._job = job
        self._estimate = lru_cache(ESTIMATES_KEPT)(estimator.estimate)
        self._skips_bad_images = job.manifest.on_bad_image == "skip_image"

    async def read(self, row: Row) -> CountedRequest:
        """Raises RowFault if the row cannot be sent."""
        if row.problem is not None:
            raise RowInvalid(row.problem)
        payloads = await payloads_of(self, row, skip_bad_images=self._skips_bad_images)
        key = row.known_as or request_key_of(self._job.recipe.recipe_id, row.prompt, payloads)
        sizes = tuple([(payload.width, payload.height) for payload in payloads])
        estimate = self._estimate(len(hashed_text(row.prompt)), sizes)
        return CountedRequest(row, sizes, key, estimate, tuple([payload.sha256 for payload in payloads]))

    async def payload(self, ref: ImageRef, inline: bool = False) -> Payload:
        """The image's identity and its size as sent; its content is not converted."""
        mode, preparation, counts = self._job.manifest.image_identity, self._job.recipe.images, self.images
        if ref.kind is ImageKind.URL:
            counts.count += 1
            counts.by_format["url"] += 1
            return Payload(identity(ref, mode, None), ref.reference, ref.slot, None)
        content = read_source(ref, ImageFolder(self._job.root), preparation)
        header = examine(content)
        counts.count += 1
        counts.bytes += len(content)
        counts.by_format[header.format.value] += 1
        counts.to_convert += not passes_unchanged(content, header, preparation)
        counts.add_size(header.width, header.height)
        digest = sha256(content).hexdigest()
        width, height = _size_as_sent(header.width, header.height, preparation)
        return Payload(identity(ref, mode, digest), ref.reference, ref.slot, digest, width=width, height=height)


def _size_as_sent(width: int | None, height: int | None, preparation: ImagePreparation) -> ImageSize:
    """Scale to ``max_side``. Conversions for ``max_bytes`` are not foreseen."""
    if not width or not height:
        return width, height
    shrink = min(1.0, (preparation.max_side or max(width, height)) / max(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


class DuplicateRequests:
    """Request keys that were met in this pass or are answered in the output."""

    def __init__(self, row_index: KnownRows) -> None:
        self._answered = row_index.answered if isinstance(row_index, RowIndex) else KeySet()
        self._met = KeySet()

    def removed_from(self, requests: Sequence[CountedRequest]) -> list[CountedRequest]:
        """The requests that would be sent: the first of each key, unless it is answered."""
        first: dict[bytes, CountedRequest] = {}
        for each in requests:
            first.setdefault(key_bytes(each.request_key), each)
        packed = b"".join(first)
        known = self._met.contains_packed(packed) | self._answered.contains_packed(packed)
        for key in first:
            self._met.add(key)
        return [each for each, is_known in zip(first.values(), known, strict=True) if not is_known]


def row_index_of(job: Job) -> KnownRows:
    """Read how the rows of an output stand, from its tables and journals, without its lock."""
    view = OutputView(job.output_path)
    if not view.exists:
        return NoKnownRows()
    work = view.open_work()
    failed = [failed for batch in view.rows("failures") for failed in failures_of(batch)]
    run_state = RunState(
        failures={each.row_id: each for each in failed},
        carries=work.held,
        open_=[Exchange(intent, ticket="open") for intent in work.tickets],
    )
    return RowIndex.read(job.output_path, run_state, job.recipe.recipe_id, view.sources("results"))


async def count_requests(job: Job, surveyed: Survey, selection: Selection) -> RequestTotals:
    """The requests of a run with this selection, and the sums of their estimates."""
    row_index = row_index_of(job)
    counter = RequestCounter(job, estimator_of(job, quote(job).prices), row_index)
    for stretch in stretches(job, surveyed, row_index, selection):
        await counter.add(stretch)
    return counter.totals
