"""Answered rows whose cells or images changed are bought again only in small numbers, or when the user has said so."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from job_runs import JobRuns, RunResult

from batchvision.commands.plan import Plan, plan
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

ROWS = 120


class UrlRuns(JobRuns):
    """Runs over images named by URL, which a run may change."""

    url = "https://cdn.example/{row}.jpg"
    rows_there: range = range(ROWS)

    def write_manifest(self, name: str = "photos.csv", cells: Any = None) -> Path:
        path = self.folder / name
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["sku", "image", "title", "unread"])
            for number in self.rows_there:
                row = f"r{number:03}"
                table.writerow([row, self.url.format(row=row), self.cells.get(row, "shoe"), "x"])
        return path


@pytest.fixture(scope="module")
def running() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as emulator:
        yield emulator


@pytest.fixture
def job(tmp_path: Path, running: RunningEmulator) -> UrlRuns:
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    first = job_runs.run()
    assert (first.exit_code, first.counts) == (0, (ROWS, 0, 0))
    return job_runs


def planned(job: JobRuns, settings: dict[str, Any] | None = None) -> Plan:
    job.write_manifest()
    return anyio.run(plan, job.job(settings))


def spent(session: RunResult) -> int:
    return session.billed.total()


# ---------------------------------------------------------------------------------- what stops a run


def test_a_renamed_host_stops_the_run_and_is_named(job):
    job.url = "https://img.other.example/{row}.jpg"
    refused = job.run()
    assert (refused.exit_code, spent(refused)) == (2, 0)
    assert "120 of 120 rows that were paid for have changed" in refused.message
    assert "image (host cdn.example became img.other.example)" in refused.message
    assert "`--on-row-change redo` to ask them again: 120 requests for about $" in refused.message
    assert "`--on-row-change keep`" in refused.message


def test_an_added_parameter_stops_the_run_and_is_named(job):
    job.url = "https://cdn.example/{row}.jpg?v=2"
    refused = job.run()
    assert (refused.exit_code, spent(refused)) == (2, 0)
    assert "image (parameters 'none' became 'v=2')" in refused.message
    assert "manifest.ignore_url_parameters" in refused.message


def test_changed_cells_of_the_prompt_are_named_by_their_column(job):
    for number in range(110):
        job.rows("boot", f"r{number:03}")
    refused = job.run()
    assert (refused.exit_code, spent(refused)) == (2, 0)
    assert "110 of 120 rows that were paid for have changed" in refused.message
    assert "asked again: title." in refused.message


def test_a_column_that_is_not_kept_is_named_too(tmp_path, running):
    job_runs = UrlRuns(tmp_path, running, settings={"manifest.keep": []})
    job_runs.run()
    job_runs.cells = {f"r{number:03}": "boot" for number in range(110)}
    refused = job_runs.run()
    assert refused.exit_code == 2
    assert "asked again: title." in refused.message


def test_plan_counts_changed_rows_beside_new_ones_and_refuses_as_the_run(job):
    job.url, job.rows_there = "https://cdn.example/{row}.jpg?v=2", range(ROWS + 5)
    drawn, refused = planned(job), job.run()
    assert (drawn.changes.changed, drawn.changes.new, drawn.rows.done) == (120, 5, 0)
    assert drawn.refusals == [refused.message]
    from batchvision.cli.plan import plan_lines

    assert "125 to do (5 new, 120 changed)" in next(plan_lines(drawn))


# ---------------------------------------------------------------------------------- what does not


def test_few_changed_rows_are_asked_again_unasked(job):
    job.rows("boot", "r001", "r002", "r003")
    session = job.run()
    assert (session.exit_code, spent(session), session.counts) == (0, 3, (ROWS, 0, 0))


def test_a_fifth_of_the_rows_or_fewer_than_a_hundred_do_not_stop_a_run(job):
    for number in range(99):
        job.rows("boot", f"r{number:03}")
    assert spent(job.run()) == 99


@pytest.mark.parametrize(("most", "exit_code"), [("90%", 2), ("95%", 0), (109, 2), (110, 0)])
def test_the_bound_is_a_key_of_the_job(job, most, exit_code):
    for number in range(110):
        job.rows("boot", f"r{number:03}")
    assert job.run({"manifest.max_changed": most}).exit_code == exit_code


def test_new_rows_and_rows_that_leave_do_not_count(job):
    job.rows_there = range(60, 60 + 3 * ROWS)
    session = job.run()
    assert (session.exit_code, spent(session)) == (0, 3 * ROWS - 60)


def test_a_cell_that_the_prompt_does_not_read_changes_nothing(job):
    path = job.write_manifest()
    path.write_text(path.read_text().replace(",x\n", ",y\n").replace(",x\r\n", ",y\r\n"))
    assert spent(job.run(manifest=path)) == 0


# ---------------------------------------------------------------------------------- the ways out


def test_redo_asks_them_again(job):
    job.url = "https://img.other.example/{row}.jpg"
    session = job.run({"manifest.on_row_change": "redo"})
    assert (session.exit_code, spent(session), session.counts) == (0, ROWS, (ROWS, 0, 0))
    assert spent(job.run()) == 0


def test_keep_asks_only_new_rows_and_counts_the_kept_answers(job):
    job.url, job.rows_there = "https://img.other.example/{row}.jpg", range(ROWS + 2)
    session = job.run({"manifest.on_row_change": "keep"})
    assert (session.exit_code, spent(session), session.counts) == (3, 2, (2, 0, ROWS))
    assert session.summary is not None and session.summary.rows_kept == ROWS
    assert job.is_right()


def test_keep_does_not_hold_back_a_row_with_a_touched_image(tmp_path, running):
    running.reset()
    job_runs = JobRuns(tmp_path, running)
    job_runs.rows("shoe", "r1", "r2", "r3")
    job_runs.run()
    (tmp_path / "images" / "r1.png").touch()
    job_runs.rows("boot", "r2")
    session = job_runs.run({"manifest.on_row_change": "keep"})
    assert (session.counts, spent(session)) == ((2, 0, 1), 0)


@pytest.mark.parametrize("before", ["", "?v=1", "?w=9&v=1", "?v=1&w=9"])
def test_a_parameter_that_does_not_change_the_image_changes_no_row(tmp_path, running, before):
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    width = "w=9" if "w=9" in before else ""
    job_runs.url = "https://cdn.example/{row}.jpg" + before
    job_runs.run()
    job_runs.url = "https://cdn.example/{row}.jpg?" + "&".join(filter(None, [width, "V=77"]))
    session = job_runs.run({"manifest.ignore_url_parameters": ["v"]})
    assert (session.exit_code, spent(session), session.counts) == (0, 0, (ROWS, 0, 0))
    assert job_runs.run({"manifest.ignore_url_parameters": ["v"]}).counts == (ROWS, 0, 0)


def test_other_parameters_still_count(job):
    job.url = "https://cdn.example/{row}.jpg?v=2&w=9"
    assert job.run({"manifest.ignore_url_parameters": ["v"]}).exit_code == 2


def test_a_row_asked_with_an_ignored_parameter_is_known_by_the_url_without_it(tmp_path, running):
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    settings = {"manifest.ignore_url_parameters": ["v"]}
    job_runs.url = "https://cdn.example/{row}.jpg?v=1"
    job_runs.run(settings)
    job_runs.url = "https://cdn.example/{row}.jpg"
    assert spent(job_runs.run()) == 0


IGNORED = {"manifest.ignore_url_parameters": ["v"]}


@pytest.mark.parametrize("lane", ["online", "deferred"])
def test_a_parameter_that_is_ignored_later_buys_no_open_ticket_again(tmp_path, running, lane):
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    job_runs.url, job_runs.rows_there = "https://cdn.example/{row}.jpg?v=1", range(6)
    assert job_runs.hand_in().summary.tickets_open == 6
    job_runs.url = "https://cdn.example/{row}.jpg?v=2"
    assert (planned(job_runs, IGNORED).rows.awaiting, planned(job_runs, IGNORED).rows.to_do) == (6, 0)
    session = job_runs.run({**IGNORED, "delivery.lane": lane})
    assert (session.exit_code, spent(session), session.counts) == (0, 0, (6, 0, 0))
    assert job_runs.is_right()
    assert spent(job_runs.run(IGNORED)) == 0


def test_a_parameter_that_is_ignored_later_buys_no_paid_failure_again(tmp_path, running):
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    job_runs.url, job_runs.rows_there = "https://cdn.example/{row}.jpg?v=1", range(3)
    job_runs.rows("shoe [[fault:refusal]]", "r001")
    assert job_runs.run().counts == (2, 1, 0)
    job_runs.url = "https://cdn.example/{row}.jpg?v=2"
    for _ in range(2):
        session = job_runs.run(IGNORED)
        assert (session.exit_code, spent(session), session.counts) == (3, 0, (2, 1, 0))
        assert job_runs.is_right()
    asked = job_runs.run({**IGNORED, "limits.retry_failed": "all"})
    assert (spent(asked), asked.counts) == (1, (2, 1, 0))


def test_a_paid_failure_that_only_the_ledger_has_is_known_by_its_url_with_the_parameter(tmp_path, running):
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    job_runs.url, job_runs.rows_there = "https://cdn.example/{row}.jpg?v=1", range(2)
    job_runs.rows("shoe [[fault:refusal]]", "r000")
    job_runs.run()
    job_runs.rows_there = range(1, 2)
    job_runs.run()
    assert job_runs.table("failures") == []
    job_runs.rows_there = range(2)
    for _ in range(2):
        session = job_runs.run(IGNORED)
        assert (spent(session), session.counts) == (0, (1, 1, 0))
        assert job_runs.is_right()


def test_a_row_in_flight_at_a_crash_stays_on_hold_when_a_parameter_is_ignored_later(tmp_path, running):
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    job_runs.url, job_runs.rows_there = "https://cdn.example/{row}.jpg?v=1", range(2)
    job_runs.rows("shoe [[fault:reset_after:1]]", "r000")
    holding = {"limits.ambiguous": "hold"}
    assert job_runs.run(holding).counts == (1, 0, 1)
    assert planned(job_runs, holding | IGNORED).rows.held == 1
    session = job_runs.run(holding | IGNORED)
    assert (spent(session), session.counts) == (0, (1, 0, 1))
    assert job_runs.is_right()


def test_a_retried_failure_goes_on_with_its_attempts_and_cost_when_a_parameter_is_ignored_later(tmp_path, running):
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    job_runs.url, job_runs.rows_there = "https://cdn.example/{row}.jpg?v=1", range(2)
    job_runs.rows("shoe [[fault:refusal:1]]", "r000")
    assert job_runs.run().counts == (1, 1, 0)
    session = job_runs.run(IGNORED | {"limits.retry_failed": "all"})
    assert (spent(session), session.counts) == (1, (2, 0, 0))
    (row,) = [row for row in job_runs.table("results") if row["row_id"] == "r000"]
    attempts = [line["cost_ticks"] for line in job_runs.table("attempts") if line["row_id"] == "r000"]
    assert (row["attempt_count"], row["row_cost_ticks"]) == (2, sum(attempts))
    assert job_runs.is_right()
    job_runs.url = "https://cdn.example/{row}.jpg?v=3"
    again = job_runs.run(IGNORED)
    assert (spent(again), again.counts) == (0, (2, 0, 0))


@pytest.mark.xfail(strict=True, reason="a row on hold keeps no image_ref, so only the URL with its parameter finds it")
def test_a_row_on_hold_is_known_by_another_value_of_a_parameter_that_is_ignored_later(tmp_path, running):
    running.reset()
    job_runs = UrlRuns(tmp_path, running)
    job_runs.url, job_runs.rows_there = "https://cdn.example/{row}.jpg?v=1", range(2)
    job_runs.rows("shoe [[fault:reset_after:1]]", "r000")
    holding = {"limits.ambiguous": "hold"}
    job_runs.run(holding)
    job_runs.url = "https://cdn.example/{row}.jpg?v=2"
    assert planned(job_runs, holding | IGNORED).rows.held == 1
