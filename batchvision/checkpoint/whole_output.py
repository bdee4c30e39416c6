"""The summary of an output with shards: the newest run of each shard of its division, added up. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from batchvision.records import TICKS_PER_USD, Purpose, RunSummary, Shard

#: The exit codes in the order in which they apply; a signal comes first.
_EXIT_CODES = (129, 130, 143, 11, 2, 1, 7, 5, 4, 6, 8, 3, 0)
_ADDED = (
    "rows_completed",
    "rows_failed",
    "rows_ambiguous",
    "rows_quarantined",
    "tickets_open",
    "requests_sent",
    "retries",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "image_tokens",
    "cached_tokens",
    "unknown_cost",
    "unbounded",
    "rows_kept",
    "rows_left",
    "rows_with_other_kept_cells",
)
_ADDED_IF_KNOWN = ("cost_ticks", "ambiguous_ticks")


def newest_of_shards(summaries: Iterable[RunSummary], division: int) -> list[RunSummary]:
    """The newest run of each shard. ``summaries``: the newest first. Sweeps change no row and do not count."""
    found: dict[Shard, RunSummary] = {}
    for summary in summaries:
        shard = Shard.typed(summary.shard)
        if shard.of == division and summary.command != Purpose.SWEEP:
            found.setdefault(shard, summary)
        if len(found) == division:
            break
    return [found[shard] for shard in sorted(found)]


def whole_summary(last: RunSummary, runs: Sequence[RunSummary]) -> RunSummary:
    """The summary of the whole output after the run ``last``. ``runs``: the newest run of each shard.

    Rows of shards without a run are pending. Settings, parts, accuracy and the rate over time are those of ``last``.
    Exit code and reason are those that come first in the order of exit codes.
    """
    worst = min(runs, key=lambda run: _EXIT_CODES.index(run.exit_code) if run.exit_code in _EXIT_CODES else -1)
    added: dict[str, Any] = {name: sum(getattr(run, name) for run in runs) for name in _ADDED}
    known: dict[str, Any] = {name: _sum_if_known([getattr(run, name) for run in runs]) for name in _ADDED_IF_KNOWN}
    rows_total = last.rows_in_manifest or sum(run.rows_total for run in runs)
    began = min(datetime.fromisoformat(run.started_at) for run in runs)
    ended = max(datetime.fromisoformat(run.finished_at) for run in runs)
    recipes = [run.redo_recipes for run in runs]
    return replace(
        last,
        **added,
        **known,
        rows_total=rows_total,
        rows_pending=max(0, rows_total - added["rows_completed"] - added["rows_failed"]),
        cost_usd=None if known["cost_ticks"] is None else known["cost_ticks"] / TICKS_PER_USD,
        failures_by_kind=_added_up([run.failures_by_kind for run in runs]),
        spent=_added_up([run.spent for run in runs]),
        fallbacks=_added_up([run.fallbacks for run in runs]),
        started_at=began.isoformat(),
        finished_at=ended.isoformat(),
        duration_seconds=round((ended - began).total_seconds(), 3),
        stop_reason=worst.stop_reason,
        exit_code=worst.exit_code,
        message=worst.message,
        stop_key=worst.stop_key,
        provider_answered=any(run.provider_answered for run in runs),
        stopped_by=tuple(dict.fromkeys(row_id for run in runs for row_id in run.stopped_by)),
        redo_recipes=tuple(sorted({each for of_run in recipes for each in of_run or ()})),
        shard=str(Shard()),
        shards={run.shard: run.run_id for run in runs},
    )


def _sum_if_known(values: Sequence[int | None]) -> int | None:
    return None if any(value is None for value in values) else sum(value or 0 for value in values)


def _added_up(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add the numbers of equal keys, also of nested ones. The most frequent failures come first."""
    names = dict.fromkeys(name for document in documents for name in document)
    found: dict[str, Any] = {}
    for name in names:
        values = [document[name] for document in documents if name in document]
        found[name] = _added_up(values) if isinstance(values[0], Mapping) else _sum_if_known(values)
    return found
