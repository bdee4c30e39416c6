"""``status --watch``: the figures of the runs at work until they end, as a panel on a terminal or as plain lines."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, TextIO

from batchvision.checkpoint import RunningFiles, read_summary
from batchvision.cli.output import json_line
from batchvision.cli.progress import duration, plain_line
from batchvision.cli.terminal import cell_width, cut_to_width, safe_line, safe_text, wrapped
from batchvision.commands.status import FailureKind, failures_of_run, running_document
from batchvision.records import RunFigures
from batchvision.ticks import cost_words, format_usd

LOOK_EVERY_SECONDS = 1.0
LINE_EVERY_SECONDS = 10.0
#: Figures of this age are shown with it.
IDLE_SECONDS = 5.0


class Display(Protocol):
    """Shows the figures of one look."""

    def show(self, running: Sequence[RunFigures]) -> None: ...


def watch(files: RunningFiles, display: Display, sleep: Callable[[float], None] = time.sleep) -> tuple[str, ...]:
    """Look each second until no run is at work. Returns the run_ids that were seen."""
    seen = dict[str, None]()
    while running := files.look():
        seen |= dict.fromkeys(each.run_id for each in running)
        display.show(running)
        sleep(LOOK_EVERY_SECONDS)
    return tuple(seen)


# ---------------------------------------------------------------------------------- displays


class Panel:
    """Lines of a terminal that each look overwrites."""

    def __init__(self, stream: TextIO, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._stream = stream
        self._now = now
        self._shown: list[str] = []

    def show(self, running: Sequence[RunFigures]) -> None:
        size = shutil.get_terminal_size((80, 24))
        lines = [line for each in running for line in self._lines(each, size.columns)][: size.lines - 1]
        # a terminal that became narrower has broken the shown lines
        occupied = sum(max(1, -(-cell_width(line) // size.columns)) for line in self._shown)
        up = f"\x1b[{occupied}A" if occupied else ""
        self._stream.write(f"{up}\r\x1b[J" + "".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._shown = lines

    def _lines(self, figures: RunFigures, columns: int) -> Iterator[str]:
        for line in run_lines(figures, self._now()):
            yield from wrapped(safe_line(line), self._stream).split("\n")
        for each in failures_of_run(figures):
            example, advice = failure_lines([each])
            yield _shortened(safe_line(example), columns)
            yield from wrapped(advice, self._stream).split("\n")


def _shortened(line: str, columns: int) -> str:
    return line if cell_width(line) <= columns else cut_to_width(line, columns - 1) + "…"


class Lines:
    """A line for each run, at most every ten seconds, and only after a change."""

    def __init__(self, stream: TextIO, *, as_json: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._as_json = as_json
        self._clock = clock
        self._shown: Sequence[RunFigures] = ()
        self._shown_at = -LINE_EVERY_SECONDS

    def show(self, running: Sequence[RunFigures]) -> None:
        now = self._clock()
        if running == self._shown or now < self._shown_at + LINE_EVERY_SECONDS:
            return
        for each in running:
            self._stream.write(json_line(running_document(each)) if self._as_json else safe_text(_line(each)) + "\n")
        self._stream.flush()
        self._shown, self._shown_at = running, now


# ---------------------------------------------------------------------------------- words


def _line(figures: RunFigures) -> str:
    shard = "" if figures.shard == "0of1" else f"shard {figures.shard}: "
    return f"{figures.progress.at:%H:%M:%S}  {shard}{plain_line(figures.progress)}, {_rate_words(figures)}"


def _rate_words(figures: RunFigures) -> str:
    rate = figures.rate
    limit = "no limit known" if rate.limit_per_second is None else f"limit {rate.limit_per_second:.1f}"
    return f"{rate.per_second:.1f} requests/s ({limit}), {rate.rate_limited:,} answers 429"


def run_lines(figures: RunFigures, now: datetime) -> Iterator[str]:
    """The lines of one run at work."""
    progress = figures.progress
    shard = "" if figures.shard == "0of1" else f", shard {figures.shard}"
    is_idle = (now - progress.at).total_seconds() >= IDLE_SECONDS
    idle = f", nothing new for {_age(progress.at, now)}" if is_idle else ""
    yield f"  at work   {figures.run_id}{shard}, for {_age(figures.started_at, now)}{idle}"
    yield (
        f"  rows      {progress.rows_answered:,} of {progress.rows_known:,} answered, {progress.rows_failed:,} failed, "
        f"{progress.rows_left:,} pending, {progress.in_flight:,} in flight"
    )
    yield f"  rate      {_rate_words(figures)}, {progress.rows_per_second:.1f} rows/s"
    if figures.oldest_ticket_at is not None:
        yield f"  tickets   {progress.tickets_open:,} open, the oldest for {_age(figures.oldest_ticket_at, now)}"
    cost = f"{cost_words(progress.cost_ticks, progress.unknown_cost)} in this run"
    if progress.rows_left and progress.projected_ticks is not None:
        cost += f", about {format_usd(progress.projected_ticks)} at its end"
    if progress.rows_left and progress.seconds_left is not None:
        cost += f", {duration(progress.seconds_left)} left"
    yield f"  cost      {cost}"
    if progress.waiting is not None and progress.waiting.until > now:
        yield f"  waiting   {progress.waiting.words()}"


def failure_lines(failures: Sequence[FailureKind]) -> Iterator[str]:
    """Two lines for each kind: a row of it, and the next step."""
    for each in failures:
        example = f", as row {each.example_id}: {each.example}" if each.example_id else ""
        yield f"  failed    {each.rows:,} {each.kind}{example}"
        yield f"            {each.advice}"


def end_words(output: Path, run_id: str) -> str:
    """How a run ended, by its summary."""
    path = output / "runs" / f"{run_id}.json"
    if not path.exists():
        return f"{run_id} ended without a summary: it was killed or refused; run the job again to go on"
    summary = read_summary(path)
    reason = f" ({summary.stop_reason})" if summary.stop_reason else ""
    return (
        f"{run_id} ended with exit {summary.exit_code}{reason}: {summary.rows_completed:,} of {summary.rows_total:,} "
        f"rows completed, {summary.rows_failed:,} failed, {summary.rows_pending:,} pending, "
        f"{cost_words(summary.cost_ticks or 0, summary.cost_ticks is None)}"
    )


def _age(since: datetime, now: datetime) -> str:
    return duration(max(0.0, (now - since).total_seconds()))
