"""Progress of a run: a bar on a terminal, one line a minute in a log.

A watch is an endless task that the run starts and cancels. It reads the run's :class:`Counters` and changes nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TextIO

import anyio

from batchvision.records import TICKS_PER_USD, Counters, WaitNotice
from batchvision.ticks import cost_words, format_usd, known_or_none

if TYPE_CHECKING:
    from batchvision.runner import Watch

BAR_REFRESH_SECONDS = 0.25
LINE_EVERY_SECONDS = 60.0
#: Fewer answers say too little about the cost and time of the remaining rows.
ROWS_BEFORE_PROJECTION = 5


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
        return Style.BAR if is_terminal else Style.TEXT
    return Style(log_format)


@dataclass(frozen=True, slots=True)
class Progress:
    """The numbers of one moment. ``rows_settled`` and the rate cover this run only.

    ``projected_ticks`` and ``seconds_left`` are ``None`` while too few rows have ended, and at the end of the run.
    """

    at: datetime
    rows_total: int
    rows_done_before: int
    rows_completed: int
    rows_failed: int
    rows_settled: int
    rows_left: int
    in_flight: int
    tickets_open: int
    requests_sent: int
    retries: int
    cost_ticks: int
    unknown_cost: int
    rows_per_second: float
    projected_ticks: int | None
    seconds_left: float | None
    waiting: WaitNotice | None

    @property
    def rows_answered(self) -> int:
        return self.rows_done_before + self.rows_completed

    @property
    def rows_ended(self) -> int:
        return self.rows_answered + self.rows_failed

    @property
    def rows_known(self) -> int:
        return max(self.rows_total, self.rows_ended)


def progress_of(
    counters: Counters,
    before: Counters,
    elapsed_seconds: float,
    at: datetime,
    rows_wanted: int | None = None,
    *,
    is_last: bool = False,
) -> Progress:
    """Progress since the counters ``before``. ``rows_wanted``: this run's limit of rows (``--limit``, ``--sample``)."""
    settled = _rows_settled(counters) - _rows_settled(before)
    ended = counters.rows_done_before + counters.rows_completed + counters.rows_failed
    left = max(0, counters.rows_total - ended)
    if counters.rows_to_redo:
        left = max(0, counters.rows_to_redo - counters.rows_redone - counters.rows_redo_failed)
    elif rows_wanted is not None:
        left = min(left, max(0, rows_wanted - settled))
    speed = settled / elapsed_seconds if elapsed_seconds > 0 else 0.0
    is_known = settled >= ROWS_BEFORE_PROJECTION and not is_last
    ticks_a_row = (counters.cost_ticks - before.cost_ticks) / settled if is_known else 0.0
    is_waiting = counters.waiting is not None and counters.waiting.until > at
    return Progress(
        at=at,
        rows_total=counters.rows_total,
        rows_done_before=counters.rows_done_before,
        rows_completed=counters.rows_completed,
        rows_failed=counters.rows_failed,
        rows_settled=settled,
        rows_left=left,
        in_flight=counters.in_flight,
        tickets_open=counters.tickets_open,
        requests_sent=counters.requests_sent,
        retries=counters.retries,
        cost_ticks=counters.cost_ticks,
        unknown_cost=counters.unknown_cost,
        rows_per_second=speed,
        projected_ticks=counters.cost_ticks + round(ticks_a_row * left)
        if is_known and not counters.unknown_cost
        else None,
        seconds_left=left / speed if is_known and speed > 0 else None,
        waiting=counters.waiting if is_waiting else None,
    )


def _rows_settled(counters: Counters) -> int:
    """Rows that ended in this run. Failures kept from earlier runs took no time."""
    redone = counters.rows_redone + counters.rows_redo_failed
    return counters.rows_completed + counters.rows_failed - counters.rows_failed_before + redone


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


def bar_words(progress: Progress) -> str:
    """The text before the bar, short enough for 80 columns. The reason of a wait stands above the bar, as a warning."""
    words = [
        f"{progress.rows_answered:,}/{progress.rows_known:,}",
        f"{progress.rows_failed:,} failed",
        f"{progress.in_flight:,} in flight",
    ]
    if progress.tickets_open:
        words.append(f"{progress.tickets_open:,} tickets")
    words.append(f"{progress.rows_per_second:.1f} rows/s")
    money = cost_words(progress.cost_ticks, progress.unknown_cost)
    if progress.rows_left and progress.projected_ticks is not None:
        money += f" of ~{format_usd(progress.projected_ticks)}"
    words.append(money)
    if progress.rows_left and progress.seconds_left is not None:
        words.append(f"{duration(progress.seconds_left)} left")
    if progress.waiting is not None:
        words.append(f"waiting until {progress.waiting.until:%H:%M} UTC")
    return " · ".join(words)


def progress_document(progress: Progress) -> dict[str, Any]:
    """One progress line of ``--log-format json``."""
    cost_ticks, waiting = known_or_none(progress.cost_ticks, progress.unknown_cost), progress.waiting
    return {
        "event": "progress",
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
    stream: TextIO,
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
def _lines(stream: TextIO, as_json: bool) -> Iterator[Show]:
    def show(progress: Progress) -> None:
        text = json.dumps(progress_document(progress)) if as_json else f"{progress.at:%H:%M:%S}  {plain_line(progress)}"
        stream.write(text + "\n")
        stream.flush()

    yield show


@contextmanager
def _bar(stream: TextIO) -> Iterator[Show]:
    from tqdm import tqdm  # loaded for terminals only

    tqdm.monitor_interval = 0  # no monitor thread: it would outlive the run
    layout = "{percentage:3.0f}% {desc} |{bar}|"
    with tqdm(total=None, file=stream, bar_format=layout, dynamic_ncols=True, mininterval=0.0) as bar:

        def show(progress: Progress) -> None:
            bar.total = max(1, progress.rows_known)
            bar.n = min(bar.total, progress.rows_ended)
            bar.desc = bar_words(progress)
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
