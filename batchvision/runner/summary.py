"""How a run ended: its exit code, its counts, its summary. Pure, but for asking which versions ran."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

from batchvision import __version__
from batchvision.errors import BatchvisionError, StopRun
from batchvision.job import Job
from batchvision.records import TICKS_PER_USD, Counters, Failed, JsonObject, PartFile, RateSample, RunSummary
from batchvision.stopping import Interrupted
from batchvision.ticks import known_or_none

INTERRUPTED = "interrupted"
VERSIONS_OF = ("batchvision", "pyarrow", "httptools", "httpx", "anyio", "pydantic", "Pillow")

#: Fields of the summary that are counters of the same name.
COPIED = (
    "rows_total",
    "rows_ambiguous",
    "requests_sent",
    "retries",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "image_tokens",
    "cached_tokens",
    "unknown_cost",
    "unbounded",
    "rows_left",
    "rows_with_other_kept_cells",
    "rows_to_redo",
    "rows_redone",
    "rows_redo_failed",
)


class Left(NamedTuple):
    """The work that a run leaves: failed rows as ``failures/`` lists them, and open and held rows."""

    failures: Sequence[Failed]
    tickets: int
    held: int  #: rows held back by ``ambiguous = "hold"``
    kept: int = 0  #: rows that keep an older answer
    redo_failed: int = 0  #: rows that were asked again in vain
    without_answers: bool = False  #: no row of the manifest has an answer, or all rows have left it


def exit_code_of(reason: StopRun | Interrupted | None, job: Job, rows_total: int, left: Left) -> int:
    """The first that applies (DESIGN, exit codes)."""
    if reason is not None:
        return reason.exit_code
    if left.tickets:
        return 6
    fresh = sum(not failed.quarantined for failed in left.failures)
    has_left = left.held or left.kept or left.redo_failed or left.without_answers
    return 3 if has_left or not job.limits.failed_ok.allows(fresh, rows_total) else 0


def summarize(
    job: Job,
    counters: Counters,
    *,
    run_id: str,
    started_at: datetime,
    finished_at: datetime,
    reason: StopRun | Interrupted | None,
    left: Left,
    parts: tuple[PartFile, ...],
    spent: JsonObject | None = None,
    duration_seconds: float | None = None,
    provider_answered: bool = False,
    stopped_by: tuple[str, ...] = (),
    rate_history: tuple[RateSample, ...] = (),
) -> RunSummary:
    """The summary of the run. The three counts of rows add up to those of the manifest (promise P8).

    ``duration_seconds`` is measured by the loop's clock; without it, it is the difference of the two times.
    """
    if duration_seconds is None:
        duration_seconds = (finished_at - started_at).total_seconds()
    cost_ticks = known_or_none(counters.cost_ticks, counters.unknown_cost)
    completed = counters.rows_done_before + counters.rows_completed
    failed = len(left.failures)
    return RunSummary(
        **{name: getattr(counters, name) for name in COPIED},
        run_id=run_id,
        job=job.name,
        recipe_id=job.recipe.recipe_id,
        manifest=job.manifest_name,
        rows_completed=completed,
        rows_failed=failed,
        rows_pending=max(0, counters.rows_total - completed - failed),
        rows_quarantined=sum(row.quarantined for row in left.failures),
        tickets_open=left.tickets,
        failures_by_kind=dict(sorted(Counter(row.error_kind for row in left.failures).items())),
        cost_usd=None if cost_ticks is None else cost_ticks / TICKS_PER_USD,
        cost_ticks=cost_ticks,
        ambiguous_ticks=known_or_none(counters.ambiguous_ticks, counters.unbounded),
        started_at=started_at.isoformat(),
        finished_at=finished_at.isoformat(),
        duration_seconds=round(duration_seconds, 3),
        stop_reason=_word(reason),
        exit_code=exit_code_of(reason, job, counters.rows_total, left),
        parts=parts,
        versions=versions(),
        config=job.config(),
        sources=job.origins,
        message=None if reason is None else str(reason),
        stop_key=reason.key if isinstance(reason, StopRun) else None,
        spent=spent or {},
        rows_kept=left.kept,
        fallbacks={"by_model": counters.rows_fallback, "by_us": 0},
        provider_answered=provider_answered,
        stopped_by=stopped_by,
        rate_history=rate_history,
    )


def _word(reason: StopRun | Interrupted | None) -> str | None:
    return reason.kind if isinstance(reason, BatchvisionError) else INTERRUPTED if reason else None


@cache
def versions() -> Mapping[str, str]:
    """The versions of Python and of the main libraries, for the summary."""
    return {"python": platform.python_version(), **{name.lower(): _version_of(name) for name in VERSIONS_OF}}


def _version_of(name: str) -> str:
    """The version of the running code. The metadata of a checkout or a zipapp may be missing or outdated."""
    if name == "batchvision":
        return __version__
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
