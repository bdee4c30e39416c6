"""What a person sees while a run is under way: a bar on a terminal, one line a minute elsewhere.

Rule: reads :class:`Counters`, owns none, decides nothing. A *watch* is an endless task that the runner starts and
cancels; its last line is written on the way out.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple, TextIO

import anyio

from batchvision.records import TICKS_PER_USD, Counters, WaitNotice
from batchvision.ticks import cost_words, format_usd, known_or_none

Watch = Callable[[Counters], Coroutine[Any, Any, None]]
Clock = Callable[[], float]

BAR_REFRESH_SECONDS = 0.25
LINE_EVERY_SECONDS = 60.0
#: Rows answered before a projection is shown: fewer say nothing about the rest.
ROWS_BEFORE_PROJECTION = 5


class Style(StrEnum):
    """How progress is told."""

    BAR = "bar"  #: tqdm, for a terminal
    TEXT = "text"  #: plain lines, for cron and logs
    JSON = "json"  #: one JSON object a line, for log collectors
    QUIET = "quiet"  #: not at all


def choose_style(log_format: str, *, quiet: bool, is_terminal: bool) -> Style:
    """The style for ``--log-format`` and ``--quiet`` on this stream."""
    if quiet:
        return Style.QUIET
    if log_format == "auto":
        return Style.BAR if is_terminal else Style.TEXT
    return Style(log_format)


class Pace(NamedTuple):
    """What can be said about the rest of the run; None where too little is known."""

    rows_settled: int  #: rows that ended in this run
    rows_left: int
    rows_per_second: float
    projected_ticks: int | None
    seconds_left: float | None

    def at_the_end(self) -> Pace:
        """Nothing more comes in this run, whatever is left."""
        return self._replace(projected_ticks=None, seconds_left=None)


def pace(counters: Counters, before: Counters, elapsed_seconds: float, rows_wanted: int | None = None) -> Pace:
    """Rates since ``before`` (the counters as the watch first saw them), carried forward to the rows that are left.

    ``rows_wanted``: this run is to do no more than so many (``--limit``, ``--sample``).
    """
    settled = _rows_settled(counters) - _rows_settled(before)
    left = max(0, _rows_known(counters) - _rows_ended(counters))
    if rows_wanted is not None:
        left = min(left, max(0, rows_wanted - settled))
    speed = settled / elapsed_seconds if elapsed_seconds > 0 else 0.0
    known = settled >= ROWS_BEFORE_PROJECTION
    is_priced = known and not counters.unknown_cost
    ticks_a_row = (counters.cost_ticks - before.cost_ticks) / settled if known else 0.0
    return Pace(
        rows_settled=settled,
        rows_left=left,
        rows_per_second=speed,
        projected_ticks=counters.cost_ticks + round(ticks_a_row * left) if is_priced else None,
        seconds_left=left / speed if known and speed > 0 else None,
    )


def _rows_settled(counters: Counters) -> int:
    """Rows that ended in this run; failures that earlier runs left and this one keeps took no time."""
    return counters.rows_completed + counters.rows_failed - counters.rows_failed_before


def _rows_ended(counters: Counters) -> int:
    return counters.rows_done_before + counters.rows_completed + counters.rows_failed


def _rows_known(counters: Counters) -> int:
    return max(counters.rows_total, _rows_ended(counters))


def duration(seconds: float) -> str:
    """``45s``, ``3m 20s``, ``2h 05m``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def plain_line(counters: Counters, now: Pace, at: datetime) -> str:
    """One line that stands alone in a log."""
    parts = [
        f"{_rows_ended(counters) - counters.rows_failed:,} of {_rows_known(counters):,} rows done",
        f"{counters.rows_failed:,} failed",
        f"{counters.in_flight:,} in flight",
        f"{now.rows_per_second:.1f} rows/s",
        f"spent {cost_words(counters.cost_ticks, counters.unknown_cost)}",
    ]
    if counters.tickets_open:
        parts.insert(3, f"{counters.tickets_open:,} tickets open")
    if now.rows_left and now.projected_ticks is not None:
        parts.append(f"about {format_usd(now.projected_ticks)} in all")
    if now.rows_left and now.seconds_left is not None:
        parts.append(f"{duration(now.seconds_left)} left")
    if counters.waiting is not None and counters.waiting.until > at:
        parts.append(counters.waiting.words())
    return ", ".join(parts)


def progress_document(counters: Counters, now: Pace, at: datetime) -> dict[str, Any]:
    """One progress line of ``--log-format json``."""
    cost_ticks = known_or_none(counters.cost_ticks, counters.unknown_cost)
    return {
        "event": "progress",
        "time": at.isoformat(timespec="milliseconds"),
        "rows_total": counters.rows_total,
        "rows_done_before": counters.rows_done_before,
        "rows_completed": counters.rows_completed,
        "rows_failed": counters.rows_failed,
        "in_flight": counters.in_flight,
        "tickets_open": counters.tickets_open,
        "requests_sent": counters.requests_sent,
        "retries": counters.retries,
        "rows_per_second": round(now.rows_per_second, 3),
        "cost_usd": None if cost_ticks is None else cost_ticks / TICKS_PER_USD,
        "unknown_cost": counters.unknown_cost,
        "projected_cost_usd": None if now.projected_ticks is None else now.projected_ticks / TICKS_PER_USD,
        "seconds_left": None if now.seconds_left is None else round(now.seconds_left, 1),
        "waiting": _waiting_document(counters.waiting, at),
    }


def _waiting_document(waiting: WaitNotice | None, at: datetime) -> dict[str, Any] | None:
    if waiting is None or waiting.until <= at:
        return None
    return {**waiting._asdict(), "until": waiting.until.isoformat(timespec="seconds")}


@dataclass(frozen=True, slots=True)
class _Lines:
    """Writes a line at the start, one every minute, and one at the end."""

    stream: TextIO
    as_json: bool
    clock: Clock
    every_seconds: float
    rows_wanted: int | None

    async def __call__(self, counters: Counters) -> None:
        before, started = _copy(counters), self.clock()
        try:
            while True:
                self._write(counters, before, started)
                await anyio.sleep(self.every_seconds)
        finally:
            self._write(counters, before, started, is_last=True)

    def _write(self, counters: Counters, before: Counters, started: float, *, is_last: bool = False) -> None:
        now, at = pace(counters, before, self.clock() - started, self.rows_wanted), datetime.now(UTC)
        now = now.at_the_end() if is_last else now
        if self.as_json:
            line = json.dumps(progress_document(counters, now, at))
        else:
            line = f"{at:%H:%M:%S}  {plain_line(counters, now, at)}"
        self.stream.write(line + "\n")
        self.stream.flush()


@dataclass(frozen=True, slots=True)
class _Bar:
    """Keeps one tqdm line up to date; tqdm draws, the words are ours."""

    stream: TextIO
    clock: Clock
    rows_wanted: int | None

    async def __call__(self, counters: Counters) -> None:
        from tqdm import tqdm  # only a terminal pays for it

        before, started = _copy(counters), self.clock()
        layout = "{percentage:3.0f}% {desc} |{bar}|"
        # tqdm's own monitor thread would outlive us, and its smoothing would hide a stop: we redraw ourselves.
        tqdm.monitor_interval = 0
        with tqdm(total=None, file=self.stream, bar_format=layout, dynamic_ncols=True, mininterval=0.0) as bar:
            try:
                while True:
                    self._draw(bar, counters, before, started)
                    await anyio.sleep(BAR_REFRESH_SECONDS)
            finally:
                self._draw(bar, counters, before, started, is_last=True)

    def _draw(self, bar: Any, counters: Counters, before: Counters, started: float, *, is_last: bool = False) -> None:
        bar.total = max(1, _rows_known(counters))
        bar.n = min(bar.total, _rows_ended(counters))
        now = pace(counters, before, self.clock() - started, self.rows_wanted)
        bar.desc = bar_words(counters, now.at_the_end() if is_last else now, datetime.now(UTC))
        bar.refresh()


def bar_words(counters: Counters, now: Pace, at: datetime) -> str:
    """What stands before the bar, short enough for 80 columns: done of all, failed, in flight, speed, money, time.

    The reason of a wait stands above the bar, as a warning; here stands until when.
    """
    done = counters.rows_done_before + counters.rows_completed
    words = [f"{done:,}/{_rows_known(counters):,}", f"{counters.rows_failed:,} failed"]
    words.append(f"{counters.in_flight:,} in flight")
    if counters.tickets_open:
        words.append(f"{counters.tickets_open:,} tickets")
    words.append(f"{now.rows_per_second:.1f} rows/s")
    money = cost_words(counters.cost_ticks, counters.unknown_cost)
    if now.rows_left and now.projected_ticks is not None:
        money += f" of ~{format_usd(now.projected_ticks)}"
    words.append(money)
    if now.rows_left and now.seconds_left is not None:
        words.append(f"{duration(now.seconds_left)} left")
    if counters.waiting is not None and counters.waiting.until > at:
        words.append(f"waiting until {counters.waiting.until:%H:%M} UTC")
    return " · ".join(words)


def say(line: str, stream: TextIO) -> None:
    """One line beside the progress: above the bar where there is one."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is None:
        stream.write(line + "\n")
        stream.flush()
    else:
        tqdm.tqdm.write(line, file=stream)


def _copy(counters: Counters) -> Counters:
    from dataclasses import replace

    return replace(counters, failures_by_kind=dict(counters.failures_by_kind))


def watcher(
    style: Style,
    stream: TextIO,
    *,
    rows_wanted: int | None = None,
    clock: Clock = time.monotonic,
    every_seconds: float = LINE_EVERY_SECONDS,
) -> Watch | None:
    """The watch for a run (of at most ``rows_wanted`` rows), or None where nothing is to be told."""
    match style:
        case Style.QUIET:
            return None
        case Style.BAR:
            return _Bar(stream, clock, rows_wanted)
        case Style.TEXT | Style.JSON:
            return _Lines(stream, style is Style.JSON, clock, every_seconds, rows_wanted)
