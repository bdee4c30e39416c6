"""The counters of a run and its summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from batchvision.records.requests import JsonObject


class WaitNotice(NamedTuple):
    """A wait of a run. ``until``: the end of the wait, or the end of the run if an outage lasts."""

    reason: str
    until: datetime
    is_outage: bool = False

    def words(self) -> str:
        """One sentence, with the end."""
        at = f"{self.until:%Y-%m-%d %H:%M} UTC"
        if self.is_outage:
            return (
                f"the provider does not answer ({self.reason}): a request is sent now and then until it does; without "
                f"an answer the run ends at {at} (limits.max_outage_seconds)"
            )
        return f"nothing is sent until {at}: {self.reason}"


@dataclass(slots=True)
class Counters:
    """The figures of a run so far, for progress and the summary. ``RunCounts`` writes them."""

    rows_total: int = 0
    rows_done_before: int = 0
    rows_kept: int = 0  #: left with an older answer, as ``on_recipe_change`` or ``on_row_change`` asks
    rows_left: int = 0  #: to do, but not chosen by --limit or --sample
    images_found: int = 0  #: local images, also of done rows
    images_missing: int = 0
    rows_with_other_kept_cells: int = 0  #: counted at the end
    rows_completed: int = 0  #: in this run
    rows_failed: int = 0  #: failed now: in this run, or kept from earlier runs
    rows_failed_before: int = 0  #: failed rows that are kept from earlier runs
    rows_failed_at_provider: int = 0
    rows_quarantined: int = 0
    requests_sent: int = 0
    in_flight: int = 0
    retries: int = 0
    tickets_open: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    image_tokens: int = 0
    cached_tokens: int = 0
    cost_ticks: int = 0
    unknown_cost: int = 0  #: answers without a known cost; not in ``cost_ticks``
    ambiguous_ticks: int = 0
    unbounded: int = 0  #: ambiguous attempts without a bound; not in ``ambiguous_ticks``
    rows_ambiguous: int = 0
    failures_by_kind: dict[str, int] = field(default_factory=dict)
    waiting: WaitNotice | None = None  #: the wait of the moment
    rows_fallback: int = 0  #: completed in this run with the fallback label
    rows_to_redo: int = 0  #: done rows that --redo names; they count as done before
    rows_redone: int = 0  #: with a new answer beside their older one
    rows_redo_failed: int = 0  #: asked again in vain; they keep their older answer


class PartFile(NamedTuple):
    """One sealed Parquet file, as the summary lists it; ``path`` is relative to the output."""

    table: str
    path: str
    rows: int
    sha256: str


class RateSample(NamedTuple):
    """A part of a run. A part without a request has no sample."""

    begins_seconds: float  #: since the first request
    length_seconds: float
    sent: int = 0  #: requests and polls
    rate_limited: int = 0  #: 429s
    paused_seconds: float = 0.0  #: of pauses that began in it
    rate_per_second: float | None = None  #: the last rate in it; ``None``: no limit is known yet


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The result of one run, as ``runs/<run_id>.json``, ``runs/latest.json`` and ``run --json`` hold it."""

    run_id: str
    job: str
    recipe_id: str
    manifest: str
    rows_total: int
    rows_completed: int
    rows_failed: int
    rows_pending: int
    rows_ambiguous: int
    rows_quarantined: int
    tickets_open: int
    requests_sent: int
    retries: int
    failures_by_kind: Mapping[str, int]
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    image_tokens: int
    cached_tokens: int
    cost_usd: float | None  #: for people; ``cost_ticks`` is exact; ``None``: not known
    cost_ticks: int | None
    ambiguous_ticks: int | None
    started_at: str
    finished_at: str
    duration_seconds: float
    stop_reason: str | None
    exit_code: int
    parts: tuple[PartFile, ...]
    versions: Mapping[str, str]
    config: JsonObject
    message: str | None = None  #: for people: why the run stopped, and the next step
    stop_key: str | None = None  #: the key in the job file of the limit that stopped the run
    unknown_cost: int = 0  #: answers without a known cost; not in ``cost_ticks``
    unbounded: int = 0  #: ambiguous attempts without a bound; not in ``ambiguous_ticks``
    command: str = "run"  #: the purpose of the run, or "reparse"
    #: a request with this provider, URL and model was answered, in this run or in those before it
    provider_answered: bool = False
    #: the rows that were refused when the run stopped; the next run asks them last
    stopped_by: tuple[str, ...] = ()
    #: pending rows that keep an older answer, as ``on_recipe_change`` or ``on_row_change`` asks
    rows_kept: int = 0
    #: pending rows that ``--limit`` or ``--sample`` left
    rows_left: int = 0
    #: answered rows with other kept cells in the manifest than in the output; ``reparse`` refreshes them
    rows_with_other_kept_cells: int = 0
    #: of ``--limit``, ``--sample`` or a pilot: its consent to ask rows again does not hold for later runs
    is_trial: bool = False
    #: answered rows that ``--redo`` names; those with a new answer; those that were asked again in vain
    rows_to_redo: int = 0
    rows_redone: int = 0
    rows_redo_failed: int = 0
    #: recipes with rows that the run was allowed to ask again; ``None`` in summaries of earlier versions
    redo_recipes: tuple[str, ...] | None = None
    #: by_state, by_model, by_day and wasted of this run; each name -> attempts, cost_ticks, bound_ticks
    spent: JsonObject = field(default_factory=dict)
    #: rows of this run with the fallback label: chosen by_model; by_us is always 0
    fallbacks: Mapping[str, int] = field(default_factory=dict)
    #: dotted key of a setting -> where its value came from: flag, environment NAME, job file or default
    sources: Mapping[str, str] = field(default_factory=dict)
    #: property of the answer -> accuracy on the rows with a known answer; empty where the job names none
    accuracy: JsonObject = field(default_factory=dict)
    #: the shard of the run; in ``runs/latest.json`` the whole, 0/1
    shard: str = "0/1"
    #: rows of all shards; ``None`` in summaries of earlier versions
    rows_in_manifest: int | None = None
    #: in ``runs/latest.json`` of an output with shards: the newest run of each shard, added up in this summary
    shards: Mapping[str, str] = field(default_factory=dict)
    #: rate, 429s and pauses over time: at most 200 samples, a minute each at first, longer ones in longer runs
    rate_history: tuple[RateSample, ...] = ()
