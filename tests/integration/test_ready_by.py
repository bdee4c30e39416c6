"""``delivery.ready_by``: the run stops sending at a time of day, in the job's time zone."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import anyio
import pytest
from fake_provider import NIGHTFALL, FakeProvider
from virtual_time import VIRTUAL

from batchvision.cli.plan import plan_lines
from batchvision.commands.plan import plan
from batchvision.errors import JobInvalid
from batchvision.job.limits import DeliverySection
from batchvision.runner import run_async

ZURICH = ZoneInfo("Europe/Zurich")


def ready_at(began_at: str, ready_by: str = "07:00", zone: str = "Europe/Zurich") -> str:
    """In UTC, without seconds."""
    began = datetime.fromisoformat(began_at).replace(tzinfo=UTC)
    found = DeliverySection(ready_by=ready_by).ready_at(began, ZoneInfo(zone))
    assert found is not None
    return found.astimezone(UTC).isoformat(" ", "minutes").removesuffix("+00:00")


@pytest.mark.parametrize(
    ("began_at", "expected"),
    [
        ("2026-01-10 22:00", "2026-01-11 06:00"),  # 23:00 in Zurich
        ("2026-01-11 05:59", "2026-01-11 06:00"),  # 06:59
        ("2026-01-11 06:00", "2026-01-12 06:00"),  # 07:00 itself
        ("2026-01-11 06:30", "2026-01-12 06:00"),  # 07:30
        ("2026-01-10 23:30", "2026-01-11 06:00"),  # 00:30 of the next day in Zurich
        ("2026-03-28 22:00", "2026-03-29 05:00"),  # the clock goes forward in the night
        ("2026-10-24 21:00", "2026-10-25 06:00"),  # the clock goes back in the night
        ("2026-03-28 06:30", "2026-03-29 05:00"),  # 22.5 hours
        ("2026-10-24 05:30", "2026-10-25 06:00"),  # 24.5 hours
    ],
)
def test_the_deadline_is_the_next_time_of_day_in_the_jobs_zone(began_at, expected):
    assert ready_at(began_at) == expected


def test_an_hour_that_is_skipped_or_repeated_has_one_deadline():
    assert ready_at("2026-03-28 22:00", "02:30") == "2026-03-29 01:30"  # 02:30 does not exist: 03:30 in summer time
    assert ready_at("2026-10-24 22:00", "02:30") == "2026-10-25 00:30"  # 02:30 comes twice: the first
    assert ready_at("2026-10-25 00:45", "02:30") == "2026-10-26 01:30"  # between the two


def test_the_zone_is_that_of_the_job():
    assert ready_at("2026-01-10 22:00", zone="UTC") == "2026-01-11 07:00"
    assert ready_at("2026-01-10 22:00", zone="Asia/Kolkata") == "2026-01-11 01:30"


def at_seconds(seconds: int) -> str:
    """The time of day in Zurich so long after the virtual run began, to the minute."""
    return (NIGHTFALL + timedelta(seconds=seconds)).astimezone(ZURICH).strftime("%H:%M")


def test_a_run_stops_sending_then_and_the_next_run_goes_on(job_runs):
    """In virtual time: each answer takes 2 s, four are in flight, and there is time for 1,200 rows."""
    job_runs.rows(2_000)
    first = FakeProvider()
    settings = {"timezone": "Europe/Zurich", "delivery__ready_by": at_seconds(660), "limits__concurrency": 4}
    summary = job_runs.run(first, **settings)
    assert (summary.exit_code, summary.stop_reason, summary.stop_key) == (4, "deadline_reached", "delivery.ready_by")
    assert summary.message is not None and summary.message.startswith(
        f"delivery.ready_by (2026-11-20 {at_seconds(660)}"
    )
    assert max(asked.at for asked in first.asked) <= 1_000 + 660
    assert summary.rows_completed == len(first.asked) > 1_000
    assert summary.rows_pending == 2_000 - len(first.asked)
    assert summary.duration_seconds == pytest.approx(660, abs=3)
    second = FakeProvider()
    assert job_runs.run(second, limits__concurrency=256).exit_code == 0
    assert len(first.asked) + len(second.asked) == 2_000


@pytest.mark.parametrize(("runtime", "key"), [(30, "limits.max_runtime_seconds"), (7_200, "delivery.ready_by")])
def test_the_earlier_of_two_deadlines_holds(job_runs, runtime, key):
    job_runs.rows(4_000)
    settings = {"timezone": "Europe/Zurich", "delivery__ready_by": at_seconds(660), "limits__concurrency": 4}
    summary = job_runs.run(FakeProvider(), limits__max_runtime_seconds=runtime, **settings)
    assert (summary.exit_code, summary.stop_key) == (4, key)


def test_it_counts_from_the_start_of_the_process(job_runs):
    """The process began before the time of day, and the run after it."""
    job_runs.rows(10)
    provider = FakeProvider()
    job = job_runs.job(timezone="Europe/Zurich", delivery__ready_by=at_seconds(-60))

    async def late() -> object:
        return await run_async(
            job,
            environ={"XAI_API_KEY": "xai-secret-key-000"},
            dependencies=provider.dependencies(),
            elapsed_seconds=3_600.0,
        )

    summary = anyio.run(late, backend_options=VIRTUAL)
    assert (summary.exit_code, summary.stop_key, provider.asked) == (4, "delivery.ready_by", [])


def test_it_is_no_part_of_the_recipe(job_runs):
    job_runs.rows(3)
    job_runs.run(FakeProvider())
    provider = FakeProvider()
    assert job_runs.run(provider, delivery__ready_by="07:00").exit_code == 0
    assert provider.asked == []


@pytest.mark.parametrize("given", ["7:00", "24:00", "07:60", "7", "", "07:00:00", "noon"])
def test_another_form_is_refused(job_runs, given):
    with pytest.raises(JobInvalid, match=r"delivery\.ready_by.*write a time of day from \"00:00\" to \"23:59\""):
        job_runs.job(delivery__ready_by=given)


def test_a_time_of_toml_is_a_time_of_day(job_runs):
    job_runs.rows(1)
    job_runs.settings["delivery"] = {"ready_by": time(7, 0)}
    assert job_runs.job().delivery.ready_by == "07:00"
    assert job_runs.job().config()["delivery"]["ready_by"] == "07:00"


@pytest.mark.anyio
async def test_a_plan_shows_it_and_warns_where_the_run_does_not_fit(job_runs):
    job_runs.rows(600)
    evening = datetime(2026, 1, 11, 4, 0, tzinfo=UTC)  # 05:00 in Zurich
    settings = {"timezone": "Europe/Zurich", "delivery__ready_by": "07:00", "limits__requests_per_minute": 4}
    planned = await plan(job_runs.job(**settings), now=evening)
    assert planned.document()["ready_by"] == {"at": "2026-01-11T07:00:00+01:00", "seconds_left": 7_200.0}
    lines = list(plan_lines(planned))
    assert "ready by  2026-01-11 07:00 CET, 2h 00m from now: then nothing more is sent" in lines
    assert "          warning: the run needs 30m 00s more than until delivery.ready_by; what is left waits" in lines
    settings["limits__requests_per_minute"] = 60
    fitting = list(plan_lines(await plan(job_runs.job(**settings), now=evening)))
    assert not any("warning" in line for line in fitting)
    without = await plan(job_runs.job(limits__requests_per_minute=4), now=evening)
    assert "ready_by" not in without.document()
    assert not any("ready" in line for line in plan_lines(without))
