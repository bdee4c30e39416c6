"""Progress of a run: a bar on a terminal, one line a minute in a log.

A watch is an endless task that the run starts and cancels. It reads the run's :class:`Counters` and changes nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from io import TextIOBase
from typing import TYPE_CHECKING, Any, TextIO

import anyio

from batchvision.cli.terminal import terminal_columns
from batchvision.eventloop import RUN_ID
from batchvision.records import TICKS_PER_USD, Counters, Progress, progress_of
from batchvision.ticks import cost_words, format_usd, known_or_none

if TYPE_CHECKING:
    from batchvision.runner import Watch

BAR_REFRESH_SECONDS = 0.25
LINE_EVERY_SECONDS = 60.0


class Style(StrEnum):
    """How progress is shown."""

    BAR = "bar"  #: tqdm, for a terminal
    TEXT = "text"  #: plain lines, for cron and logs
    JSON = "json"  #: one JSON object a line, for log collectors
    QUIET = "quiet"  #: no progress


def choose_style(log_format: str, *, quiet: bool, is_terminal: bool) -> Style:
    """The style for ``--log-format`` and ``--quiet`` on this stream."""
    if quiet:
        return Style.QUIET
    if log_format == "auto":
        return Style.BAR if is_terminal else Style.JSON
    return Style(log_format)


def duration(seconds: float) -> str:
    """``45s``, ``3m 20s``, ``2h 05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def plain_line(progress: Progress) -> str:
    """One line for a log."""
    parts = [
        f"{progress.rows_answered:,} of {progress.rows_known:,} rows done",
        f"{progress.rows_failed:,} failed",
        f"{progress.in_flight:,} in flight",
        f"{progress.rows_per_second:.1f} rows/s",
        f"spent {cost_words(progress.cost_ticks, progress.unknown_cost)}",
    ]
    if progress.tickets_open:
        parts.insert(3, f"{progress.tickets_open:,} tickets open")
    if progress.rows_left and progress.projected_ticks is not None:
        parts.append(f"about {format_usd(progress.projected_ticks)} in all")
    if progress.rows_left and progress.seconds_left is not None:
        parts.append(f"{duration(progress.seconds_left)} left")
    if progress.waiting is not None:
        parts.append(progress.waiting.words())
    return ", ".join(parts)


#: Columns of a terminal for the percentage and for a bar that is wide enough to read.
BAR_COLUMNS = 18


def bar_words(progress: Progress, columns: int) -> str:
    """The text before the bar. Words of less importance are left out where the terminal is narrow.

    The reason of a wait stands above the bar, as a warning.
    """
    money = cost_words(progress.cost_ticks, progress.unknown_cost)
    if progress.rows_left and progress.projected_ticks is not None:
        money += f" of ~{format_usd(progress.projected_ticks)}"
    speed, in_flight = f"{progress.rows_per_second:.1f} rows/s", f"{progress.in_flight:,} in flight"
    words = [f"{progress.rows_answered:,}/{progress.rows_known:,}", f"{progress.rows_failed:,} failed", in_flight]
    if progress.tickets_open:
        words.append(f"{progress.tickets_open:,} tickets")
    words += [speed, money]
    if progress.rows_left and progress.seconds_left is not None:
        words.append(f"{duration(progress.seconds_left)} left")
    if progress.waiting is not None:
        words.append(f"waiting until {progress.waiting.until:%H:%M} UTC")
    for least in (speed, in_flight):
        if len(" · ".join(words)) > columns - BAR_COLUMNS:
            words.remove(least)
    return " · ".join(words)


def progress_document(progress: Progress) -> dict[str, Any]:
    """One progress line of ``--log-format json``."""
    cost_ticks, waiting = known_or_none(progress.cost_ticks, progress.unknown_cost), progress.waiting
    return {
        "event": "progress",
        "run_id": RUN_ID.get(),
        "time": progress.at.isoformat(timespec="milliseconds"),
        "rows_total": progress.rows_total,
        "rows_done_before": progress.rows_done_before,
        "rows_completed": progress.rows_completed,
        "rows_failed": progress.rows_failed,
        "in_flight": progress.in_flight,
        "tickets_open": progress.tickets_open,
        "requests_sent": progress.requests_sent,
        "retries": progress.retries,
        "rows_per_second": round(progress.rows_per_second, 3),
        "cost_usd": None if cost_ticks is None else cost_ticks / TICKS_PER_USD,
        "unknown_cost": progress.unknown_cost,
        "projected_cost_usd": None if progress.projected_ticks is None else progress.projected_ticks / TICKS_PER_USD,
        "seconds_left": None if progress.seconds_left is None else round(progress.seconds_left, 1),
        "waiting": None
        if waiting is None
        else {**waiting._asdict(), "until": waiting.until.isoformat(timespec="seconds")},
    }


def watcher(
    style: Style,
    stream: TextIO | TextIOBase,
    *,
    rows_wanted: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    every_seconds: float = LINE_EVERY_SECONDS,
) -> Watch | None:
    """The watch of a run; ``None`` for QUIET. ``every_seconds`` is the interval of lines."""
    match style:
        case Style.QUIET:
            return None
        case Style.BAR:
            return partial(_watch, partial(_bar, stream), clock, BAR_REFRESH_SECONDS, rows_wanted)
        case Style.TEXT | Style.JSON:
            display = partial(_lines, stream, style is Style.JSON)
            return partial(_watch, display, clock, every_seconds, rows_wanted)


def both(first: Watch | None, second: Watch | None) -> Watch | None:
    """Two watches side by side."""
    if first is None or second is None:
        return first or second

    async def watch(counters: Counters) -> None:
        async with anyio.create_task_group() as watches:
            watches.start_soon(first, counters)
            watches.start_soon(second, counters)

    return watch


Show = Callable[[Progress], None]


async def _watch(
    display: Callable[[], AbstractContextManager[Show]],
    clock: Callable[[], float],
    every_seconds: float,
    rows_wanted: int | None,
    counters: Counters,
) -> None:
    before, started = replace(counters, failures_by_kind=dict(counters.failures_by_kind)), clock()

    def progress(*, is_last: bool = False) -> Progress:
        return progress_of(counters, before, clock() - started, datetime.now(UTC), rows_wanted, is_last=is_last)

    with display() as show:
        try:
            while True:
                show(progress())
                await anyio.sleep(every_seconds)
        finally:
            show(progress(is_last=True))


@contextmanager
def _lines(stream: TextIO | TextIOBase, as_json: bool) -> Iterator[Show]:
    def show(progress: Progress) -> None:
        text = json.dumps(progress_document(progress)) if as_json else f"{progress.at:%H:%M:%S}  {plain_line(progress)}"
        stream.write(text + "\n")
        stream.flush()

    yield show


@contextmanager
def _bar(stream: TextIO | TextIOBase) -> Iterator[Show]:
    from tqdm import tqdm  # loaded for terminals only

    tqdm.monitor_interval = 0  # no monitor thread: it would outlive the run
    layout = "{percentage:3.0f}% {desc} |{bar}|"
    with tqdm(total=None, file=stream, bar_format=layout, dynamic_ncols=True, mininterval=0.0) as bar:

        def show(progress: Progress) -> None:
            bar.total = max(1, progress.rows_known)
            bar.n = min(bar.total, progress.rows_ended)
            bar.desc = bar_words(progress, terminal_columns())
            bar.refresh()

        yield show


def say(line: str, stream: TextIO) -> None:
    """Write one line; above the bar if there is one."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is None:
        stream.write(line + "\n")
        stream.flush()
    else:
        tqdm.tqdm.write(line, file=stream)
