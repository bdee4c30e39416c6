"""A manifest or a folder of images that is missing for a run: nothing is emptied, set aside, or called green."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from job_runs import DEFERRED, JobRuns, make_ready
from PIL import Image

from batchvision.cli.closing import Typed, closing_lines
from batchvision.commands.plan import plan
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.runner.feed import Selection

TYPED = Typed("batchvision run job.toml", "batchvision check job.toml", "batchvision reparse job.toml")
TWENTY = tuple(f"r{number:02}" for number in range(20))


@pytest.fixture(scope="module")
def running() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as emulator:
        yield emulator


@pytest.fixture
def job(tmp_path: Path, running: RunningEmulator) -> JobRuns:
    running.reset()
    return JobRuns(tmp_path, running)


def bytes_of_tables(job: JobRuns) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in job.output.rglob("part-*.parquet")}


# ---------------------------------------------------------------------------------- an empty manifest


def test_a_manifest_without_rows_beside_answers_is_refused_and_nothing_is_emptied(job):
    job.rows("shoe", "r1")
    job.rows("shoe [[fault:refusal]]", "r2")
    job.run()
    before = bytes_of_tables(job)
    refused = job.run(manifest={})
    assert (refused.exit_code, refused.summary) == (2, None)
    assert "photos.csv has no rows" in refused.message and "--allow-empty" in refused.message
    assert anyio.run(plan, job.job()).refusals == [refused.message]
    assert bytes_of_tables(job) == before
    assert job.run().counts == (1, 1, 0)


def test_a_manifest_that_is_meant_to_be_empty_ends_with_3_and_empties_nothing(job):
    job.rows("shoe", "r1")
    job.rows("shoe [[fault:refusal]]", "r2")
    job.run()
    before, shown = bytes_of_tables(job), job.show()
    session = job.run(manifest={}, selection=Selection(allow_empty=True))
    assert (session.exit_code, session.counts) == (3, (0, 0, 0))
    assert bytes_of_tables(job) == before
    assert job.show() == shown
    again = job.run()
    assert (again.counts, again.billed.total()) == ((1, 1, 0), 0)


def test_an_empty_manifest_beside_an_output_without_answers_is_nothing_to_do(job):
    session = job.run(manifest={})
    assert (session.exit_code, session.counts) == (0, (0, 0, 0))
    assert job.run(manifest={}).exit_code == 0


# ---------------------------------------------------------------------------------- images that are away


def test_where_no_local_image_can_be_found_the_run_stops_and_names_the_root(job):
    job.rows("shoe", *TWENTY)
    job.write_manifest()
    with job.images_away():
        refused = job.run()
        assert (refused.exit_code, refused.billed.total()) == (2, 0)
        assert "none of the first 20 local images to do can be found under manifest.root" in refused.message
        assert "images/r00.png" in refused.message
        assert anyio.run(plan, job.job()).refusals == [refused.message]
    assert job.run().counts == (20, 0, 0)


def test_one_image_that_is_there_shows_that_the_folder_is(job):
    job.rows("shoe", *TWENTY)
    job.write_manifest()
    for path in sorted((job.folder / "images").iterdir())[:-1]:
        path.unlink()
    manifest = job.folder / "photos.csv"
    session = job.run(manifest=manifest)
    assert (session.exit_code, session.counts) == (3, (1, 19, 0))


def test_images_of_done_rows_show_that_the_folder_is_there(job):
    job.rows("shoe", *TWENTY, "there")
    job.write_manifest()
    for name in TWENTY:
        (job.folder / "images" / f"{name}.png").unlink()
    manifest = job.folder / "photos.csv"
    assert [job.run(manifest=manifest).counts for _ in range(2)] == [(1, 20, 0), (1, 20, 0)]


def test_only_the_first_hundred_are_looked_at(job):
    job.rows("shoe", *(f"r{number:03}" for number in range(130)))
    job.write_manifest()
    for number in range(100):
        (job.folder / "images" / f"r{number:03}.png").unlink()
    assert job.run(manifest=job.folder / "photos.csv").exit_code == 2


def test_fewer_than_twenty_missing_images_are_the_fault_of_their_rows(job):
    job.rows("shoe", *TWENTY[:19])
    job.write_manifest()
    with job.images_away():
        session = job.run()
    assert (session.exit_code, session.counts) == (3, (0, 19, 0))


def test_runs_without_images_quarantine_no_row_and_never_exit_0(job):
    job.rows("shoe", *TWENTY[:10])
    job.write_manifest()
    with job.images_away():
        codes = [job.run({"limits.quarantine_after_runs": 2}).exit_code for _ in range(4)]
        assert codes == [3, 3, 3, 3]
    back = job.run({"limits.quarantine_after_runs": 2})
    assert (back.exit_code, back.counts) == (0, (10, 0, 0))


def test_a_row_with_a_missing_image_is_quarantined_among_done_rows(job):
    job.rows("shoe", *TWENTY[:5])
    job.run()
    job.rows("shoe", "gone")
    job.write_manifest()
    (job.folder / "images" / "gone.png").unlink()
    manifest = job.folder / "photos.csv"
    job_runs = [job.run({"limits.quarantine_after_runs": 2}, manifest=manifest) for _ in range(3)]
    assert [session.exit_code for session in job_runs] == [3, 0, 0]
    (failure,) = job.table("failures")
    assert (failure["quarantined"], failure["runs_failed"]) == (True, 2)


def test_a_manifest_of_which_no_row_has_an_answer_ends_with_3(job):
    job.rows("shoe [[fault:rejected]]", "r1", "r2")
    settings = {"limits.quarantine_after_runs": 1}
    assert job.run(settings).exit_code == 3
    assert job.run({**settings, "limits.failed_ok": "100%"}).exit_code == 3
    job.rows("shoe", "r3")
    assert job.run(settings).exit_code == 0


# ---------------------------------------------------------------------------------- images that were archived


def test_answered_rows_with_a_missing_image_stay_completed(job):
    job.rows("shoe", *TWENTY)
    job.run()
    before = bytes_of_tables(job)
    with job.images_away():
        session = job.run()
        assert (session.exit_code, session.counts, session.billed.total()) == (0, (20, 0, 0), 0)
        assert job.is_right()
        assert job.show() == dict.fromkeys(TWENTY, "shoe")
    assert bytes_of_tables(job) == before


def test_new_rows_are_asked_beside_answered_rows_with_a_missing_image(job):
    job.rows("shoe", *TWENTY)
    job.run()
    shutil.rmtree(job.folder / "images")
    (job.folder / "images").mkdir()
    manifest = job.write_manifest(cells={**job.cells, "new": "boot"})
    for row in TWENTY:
        (job.folder / "images" / f"{row}.png").unlink()
    session = job.run(manifest=manifest)
    assert (session.exit_code, session.counts, sorted(session.billed)) == (0, (21, 0, 0), [("new", "boot")])
    assert job.is_right()


def test_a_row_with_a_changed_cell_and_a_missing_image_is_not_answered(job):
    job.rows("shoe", "r1", "r2")
    job.run()
    job.rows("boot", "r2")
    job.write_manifest()
    with job.images_away():
        session = job.run()
    assert (session.exit_code, session.counts) == (3, (1, 1, 0))
    assert [row["row_id"] for row in job.table("failures")] == ["r2"]


def test_placed_images_that_are_gone_stay_where_they_were(tmp_path, running):
    job = JobRuns(tmp_path, running, settings={"prompt.user": "First {image:image} then {title} [[echo:{sku}]]"})
    job.rows("shoe", "r1", "r2")
    job.run()
    with job.images_away():
        assert job.run().counts == (2, 0, 0)


@pytest.mark.parametrize("settings", [DEFERRED, {}], ids=["deferred", "online"])
def test_a_row_with_an_open_ticket_and_a_missing_image_is_completed_by_its_ticket(job, settings):
    job.rows("shoe", "r1", "r2")
    job.hand_in()
    manifest = job.write_manifest()
    (job.folder / "images" / "r1.png").unlink()
    planned = anyio.run(plan, job.job(settings)).rows
    assert (planned.awaiting, planned.to_do, planned.invalid) == (2, 0, 0)
    session = job.run(settings, manifest=manifest)
    assert (session.exit_code, session.counts, session.billed.total()) == (0, (2, 0, 0), 0)
    assert job.table("failures") == []
    assert job.show() == {"r1": "shoe", "r2": "shoe"}
    assert job.is_right()
    before = bytes_of_tables(job)
    assert job.run(settings, manifest=manifest).counts == (2, 0, 0)
    assert bytes_of_tables(job) == before


def test_a_row_with_an_open_ticket_and_a_missing_image_is_pending_while_its_ticket_is_open(job, running):
    job.rows("shoe", "r1", "r2")
    job.hand_in()
    manifest = job.write_manifest()
    (job.folder / "images" / "r1.png").unlink()
    running.configure(deferred_seconds=3_600.0)
    session = job.run({"provider.base_url": "http://127.0.0.1:9/v1"}, manifest=manifest)
    assert (session.exit_code, session.counts, session.summary.tickets_open) == (6, (0, 0, 2), 2)


def test_a_row_with_a_refused_ticket_and_a_missing_image_fails_as_refused(job):
    job.rows("shoe [[fault:refusal]]", "r1")
    job.rows("shoe", "r2")
    job.hand_in()
    manifest = job.write_manifest()
    (job.folder / "images" / "r1.png").unlink()
    session = job.run(DEFERRED, manifest=manifest)
    assert (session.exit_code, session.counts, session.summary.failures_by_kind) == (3, (1, 1, 0), {"refused": 1})
    assert job.is_right()


def test_a_row_with_a_changed_cell_beside_its_ticket_fails_by_its_missing_image(job):
    job.rows("shoe", "r1", "r2")
    job.hand_in()
    job.rows("boot", "r1")
    manifest = job.write_manifest()
    (job.folder / "images" / "r1.png").unlink()
    for _ in range(2):
        session = job.run(DEFERRED, manifest=manifest)
        assert (session.counts, session.summary.failures_by_kind) == ((1, 1, 0), {"image_unreadable": 1})
        assert job.is_right()


@pytest.mark.parametrize("fault", ["no image", "another image", "a second row of the id"])
def test_a_fault_of_the_cells_of_today_counts_beside_the_ticket_of_earlier_cells(job, fault):
    job.rows("shoe", "r1", "r2")
    job.hand_in()
    manifest = job.write_manifest()
    completed, kind = 1, "row_invalid"
    match fault:
        case "no image":
            manifest.write_text(manifest.read_text().replace("images/r1.png", ""))
        case "another image":
            (job.folder / "images" / "r1.png").write_bytes(b"no image")
            kind = "image_unreadable"
        case _:
            manifest.write_text(manifest.read_text() + "r1,images/r2.png,boot\n")
            completed = 2
    for _ in range(2):
        session = job.run(DEFERRED, manifest=manifest)
        assert (session.counts, session.summary.failures_by_kind) == ((completed, 1, 0), {kind: 1})
        assert job.is_right()


@pytest.mark.parametrize("is_answered", [True, False], ids=["answered", "with an open ticket"])
def test_a_row_with_a_missing_image_and_a_changed_one_is_another_request(job, is_answered):
    job.settings["manifest.image_separator"] = ";"
    job.rows("shoe", "r1", "r2")
    manifest = job.write_manifest()
    manifest.write_text(manifest.read_text().replace("images/r1.png", "images/r1.png;images/r2.png"))
    if is_answered:
        assert job.run(manifest=manifest).counts == (2, 0, 0)
    else:
        job.emulator.configure(deferred_seconds=3_600.0)
        assert job.run(DEFERRED, manifest=manifest).counts == (0, 0, 2)
    job.emulator.configure(deferred_seconds=0.0)
    make_ready(job.emulator)
    (job.folder / "images" / "r1.png").unlink()
    Image.new("RGB", (99, 9), "blue").save(job.folder / "images" / "r2.png")
    session = job.run(manifest=manifest)
    assert (session.counts, session.summary.failures_by_kind) == ((1, 1, 0), {"image_unreadable": 1})


def test_plan_counts_them_as_done(job):
    job.rows("shoe", *TWENTY)
    job.run()
    with job.images_away():
        drawn = anyio.run(plan, job.job())
    assert (drawn.rows.done, drawn.rows.to_do, drawn.rows.invalid, drawn.refusals) == (20, 0, 0, [])


# ---------------------------------------------------------------------------------- a second pass


def test_a_second_pass_forgets_a_failed_row_that_has_left_the_manifest(job):
    job.rows("shoe", *TWENTY[:9])
    job.rows("shoe [[fault:rejected]]", "gone")
    assert job.run().exit_code == 3
    del job.cells["gone"]
    job.rows("shoe [[fault:empty:1]]", "late")  # deferred: asked again in a second pass
    session = job.run({"delivery.lane": "deferred"})
    assert session.billed[("late", "shoe")] == 2
    assert (session.exit_code, session.counts) == (0, (10, 0, 0))
    assert job.table("failures") == []


# ---------------------------------------------------------------------------------- a part of the rows


def test_a_sample_is_of_rows_that_are_to_do(job):
    job.rows("shoe", *TWENTY)
    job.run(selection=Selection(limit=15))
    session = job.run(selection=Selection(sample=4, seed=7))
    assert (session.billed.total(), session.counts) == (4, (19, 0, 1))
    assert session.summary is not None and session.summary.rows_left == 1
    assert job.run(selection=Selection(sample=10)).billed.total() == 1


def test_a_limit_counts_sent_rows_and_the_rest_is_shown(job):
    job.rows("shoe", *TWENTY)
    job.run(selection=Selection(limit=5))
    for path in (job.folder / "images").iterdir():
        path.touch()
    session = job.run(selection=Selection(limit=5))
    assert (session.billed.total(), session.counts) == (5, (10, 0, 10))
    assert session.summary is not None
    assert session.summary.rows_left == 10
    assert any("10 rows, because of --limit" in line for line in closing_lines(session.summary, job.output, TYPED))
    whole = job.run()
    assert whole.summary is not None
    assert not any("because of --limit" in line for line in closing_lines(whole.summary, job.output, TYPED))
