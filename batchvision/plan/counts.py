"""What a plan adds up to, and its JSON. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from batchvision.feed import Changes
from batchvision.pricelist import Quote
from batchvision.records import TICKS_PER_USD, Estimate, Lane

#: What a row takes in ``results/`` and ``attempts/``, compressed: its own columns, and a token of its answer, twice.
BYTES_A_ROW, BYTES_A_TOKEN = 600, 6
#: Images are counted by their longer side, up to so many pixels each.
SIDES = (512, 1024, 2048, 4096)
#: Two segments of the journal, while one takes the place of the other.
JOURNAL_BYTES = 2 * 16 * 1024 * 1024


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
    """The images of the rows to do. ``to_convert``: not sent byte for byte. URLs are counted, not looked at.

    ``by_side``: by the longer side of those whose size is known, up to each of :data:`SIDES`; None: longer ones.
    """

    count: int = 0
    bytes: int = 0
    to_convert: int = 0
    by_format: Counter[str] = field(default_factory=Counter)
    by_side: Counter[int | None] = field(default_factory=Counter)

    def add_urls(self, count: int) -> None:
        if count:
            self.count += count
            self.by_format["url"] += count

    def measure(self, width: int | None, height: int | None) -> None:
        if side := max(width or 0, height or 0):
            self.by_side[next((most for most in SIDES if side <= most), None)] += 1

    def sides(self) -> Iterator[tuple[int | None, int]]:
        """From the smallest on, those there are."""
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
class Sums:
    """What the estimates of the requests add up to; None where prices or bounds are not known."""

    requests: int = 0
    tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    likely_ticks: int | None = 0
    bound_ticks: int | None = 0

    @property
    def prompt_tokens(self) -> int:
        return self.tokens - self.output_tokens

    def add(self, needed: Estimate, times: int = 1) -> None:
        """So many requests that are alike in what they need."""
        self.requests += times
        self.tokens += times * needed.tokens
        self.output_tokens += times * needed.output_tokens
        self.cached_tokens += times * needed.cached_tokens
        self.likely_ticks = _sum(self.likely_ticks, needed.likely_ticks, times)
        self.bound_ticks = _sum(self.bound_ticks, needed.bound_ticks, times)

    def document(self) -> dict[str, Any]:
        known = self.likely_ticks is not None
        return {
            "expected": _usd(self.likely_ticks),
            "low": None,
            "high": _usd(self.bound_ticks),
            "source": "estimate" if known else None,
        }

    def tokens_document(self) -> dict[str, int]:
        return {
            "prompt": self.prompt_tokens,
            "cached": self.cached_tokens,
            "completion": self.output_tokens,
            "total": self.tokens,
        }


@dataclass(slots=True)
class Plan:
    """The whole of it; ``reasons``: the first invalid rows, and why."""

    rows: RowCounts
    images: ImageCounts
    cost: Sums
    reasons: list[tuple[str, str]]
    requests_shown: list[dict[str, Any]]
    recipe_id: str
    lane: Lane
    prices: Quote
    seconds: Mapping[Lane, float] = field(default_factory=dict)  #: at the job's own limits, by the lanes there are
    price_warning: str | None = None
    done_elsewhere: tuple[int, int] = (0, 0)  #: rows paid for under other recipes, and their ticks
    changes: Changes = field(default_factory=Changes)
    #: why a run would be refused until the user has said what to do
    refusals: list[str] = field(default_factory=list)

    @property
    def seconds_at_limit(self) -> float | None:
        """In the job's own lane; None where no limit of the job says."""
        return self.seconds.get(self.lane)

    @property
    def disk_bytes(self) -> int:
        """What the output will grow by, about, and the journal beside it."""
        if not self.rows.to_do:
            return 0
        return self.rows.to_do * BYTES_A_ROW + self.cost.output_tokens * BYTES_A_TOKEN + JOURNAL_BYTES

    def _changes(self) -> dict[str, int]:
        """Of ``to_do`` and ``left``: how many are new, and how many would be bought again or keep an older answer."""
        found = self.changes
        return {
            "new": self.rows.to_do - found.changed - found.rows_again,
            "changed": found.changed,
            "under_other_recipe": found.rows_again,
            "kept": found.kept,
        }

    def document(self) -> dict[str, Any]:
        """JSON content for ``plan --json`` (DESIGN, section 5)."""
        document: dict[str, Any] = {
            "rows": {**self.rows.document(), **self._changes()},
            "requests": self.cost.requests,
            "images": self.images.document(),
            "tokens": self.cost.tokens_document(),
            "cost_usd": self.cost.document(),
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
            "done_under_other_recipes": {"rows": self.done_elsewhere[0], "cost_usd": _usd(self.done_elsewhere[1])},
        }
        if self.refusals:
            document["refusals"] = self.refusals
        if self.price_warning:
            document["warning"] = self.price_warning
        if self.requests_shown:
            document["request_bodies"] = self.requests_shown
        return document


def _sum(left: int | None, right: int | None, times: int) -> int | None:
    return None if left is None or right is None else left + times * right


def _usd(ticks: int | None) -> float | None:
    return None if ticks is None else ticks / TICKS_PER_USD
