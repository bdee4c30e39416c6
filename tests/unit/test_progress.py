"""Progress shows the counters of a run and never changes them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from batchvision.cli.progress import (
    BAR_COLUMNS,
    Progress,
    Style,
    bar_words,
    choose_style,
    duration,
    plain_line,
    progress_document,
    progress_of,
    watcher,
)
from batchvision.records import TICKS_PER_USD, Counters, WaitNotice
from batchvision.runner import Watch

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
HALFWAY = Counters(
    rows_total=200,
    rows_done_before=50,
    rows_completed=45,
    rows_failed=5,
    in_flight=7,
    requests_sent=57,
    cost_ticks=TICKS_PER_USD // 2,
)


def progress_at_noon(counters: Counters, before: Counters, elapsed_seconds: float, **more: Any) -> Progress:
    return progress_of(counters, before, elapsed_seconds, more.pop("at", NOON), **more)


@pytest.mark.parametrize(
    ("log_format", "quiet", "is_terminal", "expected"),
    [
        ("auto", False, True, Style.BAR),
        ("auto", False, False, Style.JSON),
        ("text", False, True, Style.TEXT),
        ("json", False, False, Style.JSON),
        ("json", True, True, Style.QUIET),
    ],
)
def test_the_style_follows_the_stream_unless_a_flag_names_it(
    log_format: str, quiet: bool, is_terminal: bool, expected: Style
) -> None:
    assert choose_style(log_format, quiet=quiet, is_terminal=is_terminal) is expected


def test_the_rest_is_projected_from_the_rows_of_this_run() -> None:
    now = progress_at_noon(HALFWAY, Counters(rows_total=200, rows_done_before=50), elapsed_seconds=10.0)
    assert now.rows_settled == 50
    assert now.rows_left == 100
    assert now.rows_per_second == 5.0
    assert now.seconds_left == 20.0
    assert now.projected_ticks == HALFWAY.cost_ticks + HALFWAY.cost_ticks * 2


def test_a_limited_run_projects_its_own_rows_only() -> None:
    now = progress_at_noon(HALFWAY, Counters(rows_total=200, rows_done_before=50), elapsed_seconds=10.0, rows_wanted=60)
    assert now.rows_left == 10
    assert now.seconds_left == 2.0


def test_nothing_is_projected_from_a_handful_of_rows() -> None:
    early = replace(HALFWAY, rows_completed=2, rows_failed=0)
    now = progress_at_noon(early, Counters(rows_total=200, rows_done_before=50), elapsed_seconds=1.0)
    assert now.projected_ticks is None
    assert now.seconds_left is None


def test_failures_of_earlier_runs_do_not_count_as_speed() -> None:
    before = Counters(rows_total=200, rows_failed=5)
    now = progress_at_noon(replace(HALFWAY, rows_completed=0), before, elapsed_seconds=1.0)
    assert now.rows_settled == 0
    assert now.rows_per_second == 0.0


def test_a_rerun_that_keeps_all_its_failures_has_no_speed() -> None:
    kept = Counters(rows_total=100, rows_done_before=60, rows_failed=40, rows_failed_before=40)
    now = progress_at_noon(kept, Counters(rows_total=100), elapsed_seconds=0.1)
    assert (now.rows_settled, now.rows_per_second, now.projected_ticks, now.seconds_left) == (0, 0.0, None, None)


def test_only_failures_of_this_run_count_as_its_rows() -> None:
    both = Counters(rows_total=100, rows_completed=6, rows_failed=44, rows_failed_before=40)
    assert progress_at_noon(both, Counters(rows_total=100), elapsed_seconds=2.0).rows_per_second == 5.0


@pytest.mark.anyio
@pytest.mark.parametrize("style", [Style.TEXT, Style.JSON])
async def test_the_last_line_has_no_projection(style: Style) -> None:
    stream = io.StringIO()
    seconds = iter(range(100))
    watch = watcher(style, stream, clock=lambda: float(next(seconds)), every_seconds=3600)
    assert watch is not None
    counters = Counters(rows_total=200)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, counters)
        await anyio.sleep(0)
        await anyio.sleep(0)
        counters.rows_completed, counters.cost_ticks = 50, TICKS_PER_USD
        tasks.cancel_scope.cancel()
    last = stream.getvalue().splitlines()[-1]
    if style is Style.JSON:
        document = json.loads(last)
        assert (document["rows_completed"], document["seconds_left"], document["projected_cost_usd"]) == (
            50,
            None,
            None,
        )
    else:
        assert "50 of 200 rows done" in last
        assert "left" not in last
        assert "in all" not in last


def test_no_elapsed_time_gives_a_rate_of_zero() -> None:
    assert progress_at_noon(Counters(), Counters(), elapsed_seconds=0.0).rows_per_second == 0.0


def test_the_plain_line_holds_all_numbers() -> None:
    now = progress_at_noon(HALFWAY, Counters(rows_total=200, rows_done_before=50), elapsed_seconds=10.0)
    assert plain_line(now) == (
        "95 of 200 rows done, 5 failed, 7 in flight, 5.0 rows/s, spent $0.500, about $1.50 in all, 20s left"
    )


def test_open_tickets_are_shown() -> None:
    counters = replace(HALFWAY, tickets_open=12)
    now = progress_at_noon(counters, counters, elapsed_seconds=1.0)
    assert "12 tickets open" in plain_line(now)
    assert "12 tickets" in bar_words(now, 200)


def test_80_columns_leave_room_for_the_bar_by_dropping_speed_and_requests_in_flight() -> None:
    large = replace(HALFWAY, rows_total=1_500_000, rows_completed=412_345, rows_failed=8_123, in_flight=256)
    now = progress_at_noon(large, Counters(rows_total=1_500_000), elapsed_seconds=10_000.0)
    assert "256 in flight · 42.0 rows/s" in bar_words(now, 200)
    words = bar_words(now, 80)
    assert words == "412,395/1,500,000 · 8,123 failed · $0.500 of ~$1.78 · 7h 07m left"


def test_a_finished_run_projects_nothing() -> None:
    done = replace(HALFWAY, rows_total=100, in_flight=0)
    line = plain_line(progress_at_noon(done, Counters(), elapsed_seconds=10.0))
    assert "left" not in line
    assert "in all" not in line


def test_the_json_line_is_one_object_with_numbers() -> None:
    now = progress_at_noon(HALFWAY, Counters(rows_total=200, rows_done_before=50), elapsed_seconds=10.0)
    document = progress_document(now)
    assert document["event"] == "progress"
    assert document["cost_usd"] == 0.5
    assert document["projected_cost_usd"] == 1.5
    assert document["time"] == "2026-11-20T12:00:00.000+00:00"
    assert "\n" not in json.dumps(document)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0s"), (59, "59s"), (60, "1m 00s"), (200, "3m 20s"), (7500, "2h 05m")]
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


async def _watch_until_cancelled(watch: Watch, counters: Counters, turns: int = 5) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, counters)
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        counters.rows_completed += 1
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_log_gets_a_first_and_a_last_line() -> None:
    stream = io.StringIO()
    watch = watcher(Style.TEXT, stream)
    assert watch is not None
    await _watch_until_cancelled(watch, Counters(rows_total=3))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "0 of 3 rows done" in lines[0]
    assert "1 of 3 rows done" in lines[1]


@pytest.mark.anyio
async def test_a_line_is_written_each_interval() -> None:
    stream = io.StringIO()
    watch = watcher(Style.JSON, stream, every_seconds=0.0)
    assert watch is not None
    await _watch_until_cancelled(watch, Counters(rows_total=3), turns=20)
    documents = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(documents) > 3
    assert {document["rows_total"] for document in documents} == {3}


@pytest.mark.anyio
async def test_the_bar_shows_rows_cost_and_requests_in_flight() -> None:
    stream = io.StringIO()
    watch = watcher(Style.BAR, stream)
    assert watch is not None
    counters = replace(HALFWAY, failures_by_kind={})
    await _watch_until_cancelled(watch, counters)
    last = stream.getvalue().rsplit("\r", 1)[-1]
    assert "96/200 · 5 failed · 7 in flight" in last


def test_the_words_of_the_bar_fit_a_terminal_of_80_columns() -> None:
    now = progress_at_noon(HALFWAY, Counters(rows_total=200, rows_done_before=50), elapsed_seconds=10.0)
    words = bar_words(now, 80)
    assert words == "95/200 · 5 failed · 7 in flight · $0.500 of ~$1.50 · 20s left"
    assert len(words) + BAR_COLUMNS <= 80


def test_quiet_has_no_watch() -> None:
    assert watcher(Style.QUIET, io.StringIO()) is None


@pytest.mark.parametrize("is_outage", [True, False])
def test_a_wait_is_shown_with_its_reason_until_it_ends(is_outage: bool) -> None:
    notice = WaitNotice("openai answered 429: slow down", NOON + timedelta(hours=1), is_outage)
    counters = replace(HALFWAY, waiting=notice)
    now = progress_at_noon(counters, counters, elapsed_seconds=10.0)
    assert "openai answered 429: slow down" in plain_line(now)
    assert "2026-11-20 13:00 UTC" in plain_line(now)
    assert bar_words(now, 200).endswith(" · waiting until 13:00 UTC")
    document = progress_document(now)
    assert document["waiting"] == {
        "reason": "openai answered 429: slow down",
        "until": "2026-11-20T13:00:00+00:00",
        "is_outage": is_outage,
    }
    later = progress_at_noon(counters, counters, elapsed_seconds=10.0, at=NOON + timedelta(hours=2))
    assert "429" not in plain_line(later)
    assert "waiting" not in bar_words(later, 200)
    assert progress_document(later)["waiting"] is None
