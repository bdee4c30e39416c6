"""Several runs of one job: each run changes something, and paid work is kept."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import anyio
import pytest
from job_runs import DEFERRED, JobRuns, make_ready
from killed_disk import Killed, KilledDisk

from batchvision.checkpoint import compact
from batchvision.commands.plan import plan
from batchvision.commands.reparse import reparse
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import CheckpointDamaged
from batchvision.runner.feed import Selection

FOUR = ("r1", "r2", "r3", "r4")


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture
def elsewhere() -> Iterator[RunningEmulator]:
    """Another host. It does not know the tickets of the first one."""
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture
def job(tmp_path: Path, emulator: RunningEmulator) -> JobRuns:
    job_runs = JobRuns(tmp_path, emulator)
    job_runs.rows("shoe", *FOUR)
    return job_runs


def each(cell: str, *rows: str) -> Counter[tuple[str, str]]:
    return Counter((row, cell) for row in rows)


# ---------------------------------------------------------------------------------- a: a refused start


def test_a_start_that_is_refused_collects_the_answers_that_are_ready(job):
    job.run(manifest={"r1": "shoe"})
    assert job.hand_in().billed == each("shoe", "r2", "r3", "r4")
    refused = job.run({**DEFERRED, "prompt.user": "Another question: {title} [[echo:{sku}]]"})
    assert (refused.exit_code, refused.billed) == (2, Counter())
    assert job.states() == {"ok": 4}
    assert job.show() == dict.fromkeys(FOUR, "shoe")
    job.ahead = timedelta(hours=25)
    assert job.run(DEFERRED).billed == Counter()
    assert job.is_right()


def test_a_manifest_that_cannot_be_read_keeps_no_answer_from_being_collected(job):
    job.hand_in()
    broken = job.folder / "photos.csv"
    broken.write_text("sku,image\nr1,images/r1.png\n")
    refused = job.run(DEFERRED, manifest=broken)
    assert (refused.exit_code, job.states()) == (2, {"ok": 4})
    assert job.run(DEFERRED).counts == (4, 0, 0)
    assert job.is_right()


def test_a_refused_start_leaves_an_answer_that_is_not_ready_for_the_next_run(job, emulator):
    job.run(manifest={"r1": "shoe"})
    emulator.configure(deferred_seconds=3_600.0)
    job.run(DEFERRED)
    assert job.run({**DEFERRED, "prompt.user": "Another question: {title}"}).exit_code == 2
    assert job.states() == {"ok": 1}
    make_ready(emulator)
    collected = job.run(DEFERRED)
    assert (collected.exit_code, collected.counts, collected.billed) == (0, (4, 0, 0), Counter())


def test_the_command_collects_refuses_and_shows_as_the_run_does(job):
    job.run(manifest={"r1": "shoe"})
    job.hand_in()
    refused = job.command("run", job.job_file(OTHER_PROMPT))
    assert refused.returncode == 2
    assert "3 answers of open tickets were collected before the refusal" in refused.stderr
    shown = job.command("show", "out", "--format", "jsonl")
    assert {json.loads(line)["row_id"] for line in shown.stdout.splitlines()} == set(FOUR)
    assert job.command("run", job.job_file()).returncode == 0
    assert job.command("verify", "out").returncode == 0
    assert len(job.emulator.bill().entries) == 4


# ---------------------------------------------------------------------------------- b: where a ticket was given


def test_a_ticket_waits_for_the_host_that_gave_it(job, elsewhere):
    job.hand_in()
    away = job.run({**DEFERRED, **job.moved_to(elsewhere)}, bill=[elsewhere])
    assert (away.exit_code, away.billed, away.counts) == (6, Counter(), (0, 0, 4))
    assert elsewhere.bill().polls == 0
    back = job.run(DEFERRED)
    assert (back.exit_code, back.counts, back.billed) == (0, (4, 0, 0), Counter())
    assert job.is_right()


def test_a_query_in_the_base_url_is_no_other_host(job, emulator):
    job.hand_in({"provider.base_url": emulator.base_url("xai") + "/?api-version=1"})
    assert job.run({**DEFERRED, "provider.base_url": emulator.base_url("xai") + "?api-version=2"}).counts == (4, 0, 0)


def test_a_ticket_that_the_account_does_not_know_is_kept_until_its_lifetime_is_over(job, emulator, elsewhere):
    job.hand_in()
    tickets = dict(emulator._emulator._tickets._waiting)
    emulator._inside(emulator._emulator._tickets._waiting.clear)  # another key, another account: 404
    other_account = job.run({"delivery.lane": "deferred"})
    assert (other_account.exit_code, other_account.counts) == (6, (0, 0, 4))
    assert job.states() == {}
    emulator._inside(lambda: emulator._emulator._tickets._waiting.update(tickets))
    assert job.run(DEFERRED).counts == (4, 0, 0)
    assert job.is_right()


def test_tickets_of_another_place_are_booked_as_expired_when_their_lifetime_is_over(job, elsewhere):
    job.hand_in({"provider.parameters": {"max_tokens": 100}})
    job.ahead = timedelta(hours=25)
    settings = {**job.moved_to(elsewhere), "provider.parameters": {"max_tokens": 100}}
    session = job.run(settings, bill=[elsewhere])
    assert (session.exit_code, session.counts, session.billed) == (0, (4, 0, 0), each("shoe", *FOUR))
    lines = job.table("attempts")
    expired = [line for line in lines if line["error_kind"] == "expired"]
    assert {line["state"] for line in expired} == {"ambiguous"}
    assert all(line["bound_ticks"] > 0 and line["ticket"] for line in expired)
    assert (len(expired), len(lines)) == (4, 8)
    assert job.run(settings).billed == Counter()
    assert job.is_right()


def test_a_change_of_provider_ends_with_exit_0_when_the_old_tickets_have_expired(job, elsewhere):
    job.hand_in()
    settings = {
        "provider.name": "emulator",
        "provider.base_url": f"{elsewhere.url}/v1",
        "output.on_recipe_change": "redo",
    }
    first = job.run(settings, bill=[elsewhere])
    assert (first.exit_code, first.counts) == (6, (4, 0, 0))
    job.ahead = timedelta(hours=25)
    second = job.run(settings, bill=[elsewhere])
    assert (second.exit_code, second.counts, second.billed) == (0, (4, 0, 0), Counter())
    assert job.states() == {"ok": 4, "ambiguous": 4}
    assert job.is_right()


def test_a_change_of_provider_does_not_buy_the_rows_of_open_tickets_unasked(job, elsewhere):
    job.hand_in()
    refused = job.run({"provider.name": "emulator", "provider.base_url": f"{elsewhere.url}/v1"}, bill=[elsewhere])
    assert (refused.exit_code, refused.billed) == (2, Counter())
    assert job.run(DEFERRED).counts == (4, 0, 0)


def test_a_ticket_whose_one_read_was_cut_is_lost_and_not_bought_again(job):
    job.rows("shoe [[fault:half_body:1]]", "r1")
    job.hand_in()
    session = job.run({"delivery.lane": "deferred"})
    assert (session.counts, session.billed) == ((3, 1, 0), Counter())
    assert job.states() == {"ok": 3, "lost_after_read": 1}
    assert job.run(DEFERRED).billed == Counter()


def test_a_spend_cap_that_open_tickets_use_up_does_not_keep_the_run_waiting(job):
    settings = {"provider.parameters": {"max_tokens": 60}}
    session = job.hand_in({**settings, "limits.max_cost_usd_per_run": 0.003})
    assert (session.exit_code, session.summary.stop_reason) == (4, "spend_cap_reached")
    assert (session.summary.tickets_open, session.billed.total()) == (1, 1)
    collected = job.run({**settings, "delivery.lane": "deferred"})
    assert (collected.counts, collected.billed.total()) == ((4, 0, 0), 3)


# ---------------------------------------------------------------------------------- c: paid failures, carries, holds

REFUSED = "shoe [[fault:refusal:1]]"  #: billed and refused once; asked again, it would be answered


@pytest.fixture
def refused(job: JobRuns) -> JobRuns:
    """Two rows are answered, two are refused for money."""
    job.rows(REFUSED, "r3", "r4")
    session = job.run()
    assert (session.exit_code, session.counts, session.billed) == (3, (2, 2, 0), each("shoe", *FOUR))
    return job


def assert_nothing_was_forgotten(job: JobRuns) -> None:
    session = job.run()
    assert (session.exit_code, session.counts, session.billed) == (3, (2, 2, 0), Counter())
    assert {row["row_id"]: row["error_kind"] for row in job.table("failures")} == {"r3": "refused", "r4": "refused"}
    assert job.is_right()
    before = {path: path.read_bytes() for path in job.output.rglob("part-*.parquet")}
    assert job.run().billed == Counter()
    assert {path: path.read_bytes() for path in job.output.rglob("part-*.parquet")} == before


def test_paid_failures_survive_a_short_manifest(refused):
    assert refused.run(manifest={"r1": "shoe"}).counts == (1, 0, 0)
    assert_nothing_was_forgotten(refused)


def test_paid_failures_survive_a_try_with_another_manifest(refused):
    other = refused.write_manifest("other.csv", {"x1": "bag"})
    assert refused.run({"manifest.path": "other.csv"}, manifest=other).counts == (1, 0, 0)
    assert_nothing_was_forgotten(refused)


def test_paid_failures_survive_a_run_without_images(refused):
    with refused.images_away():
        assert refused.run().billed == Counter()
    assert_nothing_was_forgotten(refused)


def test_paid_failures_survive_a_run_with_another_cell(refused):
    cells = {**refused.cells, "r3": "", "r4": "boot"}
    assert refused.run(manifest=cells).billed == Counter({("r3", ""): 1, ("r4", "boot"): 1})
    assert_nothing_was_forgotten(refused)


def test_two_manifests_that_take_turns_buy_nothing_twice(refused):
    other = {"r3": REFUSED, "x1": REFUSED}
    assert refused.run(manifest=other).billed == each("shoe", "x1")
    for _ in range(2):
        assert_nothing_was_forgotten(refused)
        session = refused.run(manifest=other)
        assert (session.counts, session.billed) == ((0, 2, 0), Counter())


def test_a_paid_failure_that_was_away_is_tried_again_when_asked_and_its_cost_adds_up(refused):
    refused.run(manifest={"r1": "shoe"})
    session = refused.run({"limits.retry_failed": "all"})
    assert (session.exit_code, session.counts, session.billed) == (0, (4, 0, 0), each("shoe", "r3", "r4"))
    assert [row["attempt_count"] for row in refused.table("results") if row["row_id"] == "r3"] == [2]
    assert refused.is_right()


def test_a_limit_counts_paid_failures_that_are_tried_again(refused):
    session = refused.run({"limits.retry_failed": "all"}, selection=Selection(limit=1))
    assert session.billed == each("shoe", "r3")


def test_a_held_row_is_not_released_by_a_runs_absence(job, emulator):
    job.rows("shoe [[fault:reset_after:1]]", "r3", "r4")
    hold = {"limits.ambiguous": "hold"}
    first = job.run(hold)
    assert (first.exit_code, first.counts) == (3, (2, 0, 2))
    away = job.run(hold, manifest={"r1": "shoe"})
    assert (away.exit_code, away.counts) == (0, (1, 0, 0))
    back = job.run(hold)
    assert (back.exit_code, back.counts, back.billed) == (3, (2, 0, 2), Counter())
    assert job.is_right()
    assert job.run().counts == (4, 0, 0)


def test_attempts_of_a_pending_row_are_counted_on_after_a_runs_absence(job, emulator):
    emulator.configure(fault_rates={"payment_required": 1.0})
    job.run()
    emulator.configure(fault_rates={})
    before = {row["row_id"] for row in job.table("attempts")}
    job.run(manifest={"x1": "bag"})
    assert job.run().counts == (4, 0, 0)
    counts = {row["row_id"]: row["attempt_count"] for row in job.table("results")}
    assert {row for row, count in counts.items() if count == 2} == before
    assert job.is_right()


def test_a_damaged_index_is_found_by_verify_and_written_again_by_the_next_run(job):
    job.run()
    (index,) = job.output.rglob("index.parquet")
    index.write_bytes(index.read_bytes()[:-20])
    assert [each.topic for each in job.verify().findings if each.mark == "wrong"] == ["index"]
    with pytest.raises(CheckpointDamaged, match=r"index\.parquet"):
        job.show()
    assert job.run().exit_code == 0
    assert job.show() == dict.fromkeys(FOUR, "shoe")
    assert job.is_right()


# ---------------------------------------------------------------------------------- g: old tickets, new cells


def test_an_old_ticket_that_completes_leaves_the_paid_failure_of_the_new_cell(job, emulator):
    job.hand_in()
    cells = dict.fromkeys(FOUR, "bag [[fault:refusal:1]]")
    session = job.run({"delivery.lane": "deferred"}, manifest=cells)
    assert (session.exit_code, session.counts, session.billed) == (3, (0, 4, 0), each("bag", *FOUR))
    assert job.run(manifest=cells).billed == Counter()
    assert job.is_right()


def test_an_old_ticket_that_is_collected_later_leaves_the_paid_failure_of_the_new_cell(job, elsewhere):
    job.hand_in()
    cells = dict.fromkeys(FOUR, "bag [[fault:refusal:1]]")
    there = job.run(job.moved_to(elsewhere), manifest=cells, bill=[elsewhere])
    assert (there.exit_code, there.counts) == (6, (0, 4, 0))
    back = job.run(DEFERRED, manifest=cells)
    assert (back.exit_code, back.counts, back.billed) == (3, (0, 4, 0), Counter())
    assert job.states() == {"failed": 4, "ok": 4}
    again = job.run(manifest=cells)
    assert (again.counts, again.billed) == ((0, 4, 0), Counter())
    assert job.is_right()


# ---------------------------------------------------------------------------------- f: today's answer


def test_cells_that_come_back_are_shown_with_their_own_answers_and_kept_by_a_compaction(job):
    for cell in ("shoe", "bag", "shoe"):
        job.rows(cell, *FOUR)
        session = job.run()
        assert session.counts == (4, 0, 0)
        assert job.show() == dict.fromkeys(FOUR, cell)
    assert session.billed == Counter()
    assert compact(job.output, drop_superseded=True).superseded == 4
    assert job.show() == dict.fromkeys(FOUR, "shoe")
    assert job.run().billed == Counter()
    assert job.is_right()


def test_an_old_ticket_that_is_collected_after_the_new_answer_does_not_replace_it(job, elsewhere):
    job.hand_in()
    job.rows("bag", *FOUR)
    job.run(job.moved_to(elsewhere), bill=[elsewhere])
    back = job.run(DEFERRED)
    assert (back.exit_code, back.counts, back.billed) == (0, (4, 0, 0), Counter())
    assert job.states() == {"ok": 8}
    assert job.show() == dict.fromkeys(FOUR, "bag")
    assert compact(job.output, drop_superseded=True).superseded == 4
    assert job.run().billed == Counter()


def test_a_run_with_the_clock_ahead_makes_no_answer_current_for_ever(job):
    job.ahead = timedelta(days=400)
    job.rows("bag", *FOUR)
    job.run()
    job.ahead = timedelta()
    job.rows("shoe", *FOUR)
    job.run()
    assert job.show() == dict.fromkeys(FOUR, "shoe")
    assert compact(job.output, drop_superseded=True).superseded == 4
    assert job.run().billed == Counter()
    assert job.is_right()


def test_a_failed_run_with_the_clock_ahead_is_no_damage_to_verify(job):
    job.ahead = timedelta(hours=10)
    job.rows(REFUSED, *FOUR)
    job.run()
    job.ahead = timedelta()
    job.run({"limits.retry_failed": "all"})
    assert job.run().counts == (4, 0, 0)
    assert job.is_right()


def test_rows_that_are_failed_now_are_not_shown_with_the_answer_of_another_cell(job):
    job.run()
    job.rows("bag [[fault:refusal:1]]", "r4")
    assert job.run().counts == (3, 1, 0)
    assert job.show() == dict.fromkeys(FOUR[:3], "shoe")
    assert set(job.show("failed")) == {"r4"}
    assert compact(job.output, drop_superseded=True).superseded == 0
    job.rows("shoe", "r4")
    assert (job.run().billed, job.show()) == (Counter(), dict.fromkeys(FOUR, "shoe"))


def test_a_compaction_drops_nothing_where_the_last_run_has_not_written_the_index(job):
    job.run()
    job.rows("bag", *FOUR)
    job.run()
    for index in job.output.rglob("index.parquet"):
        index.unlink()
    compacted = compact(job.output, drop_superseded=True)
    assert (compacted.superseded, compacted.is_index_missing) == (0, True)
    job.run()
    assert compact(job.output, drop_superseded=True).superseded == 4


def test_a_run_that_ends_at_once_keeps_the_answers_of_rows_with_touched_images(job):
    job.run()
    job.rows("bag", *FOUR)
    job.run()
    job.rows("shoe", *FOUR)
    for path in (job.folder / "images").glob("*.png"):
        path.touch()
    assert job.run({"limits.max_runtime_seconds": 0.000001}).exit_code == 4
    assert compact(job.output, drop_superseded=True).superseded == 4
    assert job.show() == dict.fromkeys(FOUR, "shoe")
    assert job.run().billed == Counter()


def test_rows_that_left_the_manifest_keep_all_their_answers(job):
    job.run()
    job.rows("bag", *FOUR)
    job.run()
    job.run(manifest={"r1": "bag"})
    assert compact(job.output, drop_superseded=True).superseded == 1
    assert job.run().billed == Counter()
    assert job.run(manifest=dict.fromkeys(FOUR[1:], "shoe")).billed == Counter()


def test_shards_write_the_index_together_and_the_last_division_counts(job):
    job.run()
    job.rows("bag", *FOUR)
    for shard in (0, 1):
        job.run(selection=Selection(shard=shard, shards=2, recut=True))
    assert job.show() == dict.fromkeys(FOUR, "bag")
    job.rows("shoe", *FOUR)
    for shard in (0, 1):
        assert job.run(selection=Selection(shard=shard, shards=2, recut=True)).billed == Counter()
    assert job.show() == dict.fromkeys(FOUR, "shoe")
    assert compact(job.output, drop_superseded=True).superseded == 4
    assert job.run(selection=Selection(recut=True)).billed == Counter()


# ---------------------------------------------------------------------------------- h: types that a run's data has


@pytest.fixture
def typed(job: JobRuns) -> JobRuns:
    """A job that keeps a column ``weight`` of a manifest in JSON lines."""
    job.settings |= {"manifest.path": "photos.jsonl", "manifest.keep": ["title", "weight"]}
    return job


def with_weights(job: JobRuns, *weights: object) -> Path:
    job.write_manifest()  # for the images
    rows = [
        {"sku": row, "image": f"images/{row}.png", "title": "shoe", "weight": weight}
        for row, weight in zip(FOUR, weights, strict=False)
    ]
    path = job.folder / "photos.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def weights_of(job: JobRuns) -> dict[str, object]:
    return {row["row_id"]: row.get("weight") for row in job.table("results")}


def test_a_column_of_nulls_takes_its_type_when_a_cell_comes(typed):
    assert typed.run(manifest=with_weights(typed, None, None)).counts == (2, 0, 0)
    assert typed.run(manifest=with_weights(typed, None, None, 7, None)).counts == (4, 0, 0)
    assert weights_of(typed) == {"r1": None, "r2": None, "r3": 7, "r4": None}
    assert typed.is_right()


def test_a_run_of_nulls_leaves_the_registered_type(typed):
    assert typed.run(manifest=with_weights(typed, 5, 6)).counts == (2, 0, 0)
    assert typed.run(manifest=with_weights(typed, None, None, None, None)).exit_code == 0
    assert weights_of(typed) == {"r1": 5, "r2": 6, "r3": None, "r4": None}
    assert typed.is_right()


def test_whole_numbers_become_fractions_when_one_comes(typed):
    typed.run(manifest=with_weights(typed, 5, 6))
    assert typed.run(manifest=with_weights(typed, 5, 6, 7.5)).counts == (3, 0, 0)
    assert typed.run(manifest=with_weights(typed, 5, 6, 7, 8)).counts == (4, 0, 0)
    assert weights_of(typed) == {"r1": 5.0, "r2": 6.0, "r3": 7.5, "r4": 8.0}
    assert all(isinstance(weight, float) for weight in weights_of(typed).values())
    assert {type(row["weight"]) for row in typed.table("attempts")} == {float}
    assert typed.is_right()


def test_a_whole_number_that_no_fraction_holds_refuses_the_run_and_changes_nothing(typed):
    typed.run(manifest=with_weights(typed, 2**53 + 1))
    before = {path: path.read_bytes() for path in typed.output.rglob("*.parquet")}
    refused = typed.run(manifest=with_weights(typed, 1, 7.5))
    assert refused.exit_code == 2
    assert "'weight'" in refused.message
    assert {path: path.read_bytes() for path in typed.output.rglob("*.parquet")} == before
    assert typed.run(manifest=with_weights(typed, 1, 7)).exit_code == 0


def test_a_changed_type_of_an_answer_names_a_way_that_buys_nothing_again(job):
    def schema(kind: str) -> str:
        properties = {"size": {"type": kind}}
        document = {"type": "object", "properties": properties, "required": ["size"], "additionalProperties": False}
        (job.folder / f"{kind}.json").write_text(json.dumps(document))
        return f"{kind}.json"

    job.run({"answer.schema": schema("integer")})
    refused = job.run({"answer.schema": schema("number")})
    assert refused.exit_code == 2
    assert "batchvision reparse JOB" in refused.message
    for name in ("attempts", "recipes"):  # the way that the message names
        shutil.copytree(job.output / name, job.folder / "new" / name)
    settings = {**job.settings, "answer.schema": schema("number"), "output.path": "new"}
    assert anyio.run(reparse, job.job(settings)).published == 4
    assert job.run(settings).billed == Counter()


# ---------------------------------------------------------------------------------- d: an empty manifest


def test_an_empty_manifest_beside_answers_is_refused_and_empties_nothing(refused):
    before = {path: path.read_bytes() for path in refused.output.rglob("part-*.parquet")}
    session = refused.run(manifest={})
    assert (session.exit_code, session.billed) == (2, Counter())
    assert {path: path.read_bytes() for path in refused.output.rglob("part-*.parquet")} == before
    assert_nothing_was_forgotten(refused)


# ---------------------------------------------------------------------------------- e: the guard and paid work


OTHER_PROMPT = {"prompt.user": "Another question: {title} [[echo:{sku}]]"}


def test_open_tickets_of_another_prompt_are_not_bought_again(job):
    job.hand_in()
    refused = job.run({**DEFERRED, **OTHER_PROMPT})
    assert (refused.exit_code, refused.billed) == (2, Counter())
    assert "4 rows of this manifest were paid for" in refused.message
    assert job.run(DEFERRED).counts == (4, 0, 0)


def test_back_to_a_recipe_after_the_cells_have_changed_is_refused(job):
    job.run()
    job.rows("bag", *FOUR)
    assert job.run({**OTHER_PROMPT, "output.on_recipe_change": "redo"}).counts == (4, 0, 0)
    back = job.run()
    assert (back.exit_code, back.billed) == (2, Counter())


def test_rows_that_have_left_the_manifest_refuse_no_run_of_a_daily_manifest(job):
    job.run()
    session = job.run(OTHER_PROMPT, manifest={"x1": "bag"})
    assert (session.exit_code, session.counts) == (0, (1, 0, 0))


def test_a_trial_is_no_leave_for_the_next_run(job):
    job.run()
    redo = {**OTHER_PROMPT, "output.on_recipe_change": "redo"}
    assert job.run(redo, selection=Selection(limit=1)).billed.total() == 1
    assert job.run(OTHER_PROMPT).exit_code == 2


def test_paid_failures_of_rows_that_were_away_count_for_the_guard(refused):
    refused.run(manifest={"r1": "shoe"})
    session = refused.run(OTHER_PROMPT, manifest={"r3": REFUSED, "r4": REFUSED})
    assert (session.exit_code, session.billed) == (2, Counter())


# ---------------------------------------------------------------------------------- i: the rest


def test_a_clock_that_is_set_back_makes_no_duration_negative(job, monkeypatch):
    seconds = count(0, -60)
    monkeypatch.setattr(job, "now", lambda: datetime(2026, 11, 20, tzinfo=UTC) + timedelta(seconds=next(seconds)))
    session = job.run()
    assert session.counts == (4, 0, 0)
    assert session.summary.finished_at < session.summary.started_at
    assert 0 < session.summary.duration_seconds < 300


def test_verify_counts_the_attempts_of_a_killed_run_after_the_clock_was_set_back(job, emulator):
    job.ahead = timedelta(hours=10)
    with pytest.raises(BaseException) as end:
        job.run(disk=KilledDisk(table="results"))
    assert isinstance(end.value, Killed) or end.group_contains(Killed)
    job.ahead = timedelta()
    session = job.run()
    assert (session.counts, session.billed) == ((4, 0, 0), Counter())
    document = job.verify().document()
    assert (document["ok"], document["cost_ticks"]) == (True, emulator.bill().ticks)


def says_of_runs(job: JobRuns) -> list[str]:
    findings = job.verify().findings
    return [each.text for each in findings if each.topic == "runs" and each.mark == "note"]


def test_verify_tells_that_a_summary_is_gone(job):
    first = job.run(manifest={"r1": "shoe"}).summary
    job.run()
    assert says_of_runs(job) == []
    (job.output / "runs" / f"{first.run_id}.json").unlink()
    assert says_of_runs(job) == [f"a summary of 1 run is gone from runs/: {first.run_id}"]
    assert job.verify().is_right


def test_verify_tells_that_the_last_summary_is_gone(job):
    last = job.run().summary
    (job.output / "runs" / f"{last.run_id}.json").unlink()
    assert says_of_runs(job) == [f"a summary of 1 run is gone from runs/: {last.run_id}"]


def test_verify_tells_that_all_summaries_are_gone(job):
    job.run()
    shutil.rmtree(job.output / "runs")
    (says,) = says_of_runs(job)
    assert "runs/ was removed" in says


def test_a_run_that_keeps_older_answers_does_not_end_with_0(job):
    job.run()
    kept = job.run({**OTHER_PROMPT, "output.on_recipe_change": "new_rows_only"})
    assert (kept.exit_code, kept.counts, kept.billed) == (3, (0, 0, 4), Counter())
    assert job.show() == dict.fromkeys(FOUR, "shoe")


def test_changed_kept_cells_are_counted_and_refreshed_by_reparse(typed):
    typed.run(manifest=with_weights(typed, 5, 6))
    session = typed.run(manifest=with_weights(typed, 5, 7))
    assert (session.billed, session.summary.rows_with_other_kept_cells) == (Counter(), 1)
    assert anyio.run(reparse, typed.job()).refreshed == 1
    assert weights_of(typed) == {"r1": 5, "r2": 7}
    assert typed.run(manifest=with_weights(typed, 5, 7)).summary.rows_with_other_kept_cells == 0
    assert typed.is_right()


# ---------------------------------------------------------------------------------- failures beside tickets


def test_a_start_that_is_killed_keeps_the_failures_of_rows_with_an_old_ticket(job, elsewhere):
    job.hand_in()
    job.rows("bag [[fault:refusal]]", *FOUR)
    job.run(job.moved_to(elsewhere), bill=[elsewhere])
    with pytest.raises(Killed):
        job.run(job.moved_to(elsewhere), bill=[elsewhere], disk=KilledDisk(5))
    assert job.is_right()
    assert set(job.show("failed")) == set(FOUR)


def test_an_old_ticket_changes_no_byte_of_the_failure_of_another_cell(job, elsewhere):
    job.hand_in()
    job.rows("bag [[fault:refusal]]", *FOUR)
    there = {"settings": job.moved_to(elsewhere), "bill": [elsewhere]}
    job.run(**there)
    before = {path: path.read_bytes() for path in job.output.rglob("part-*.parquet")}
    assert before
    job.run(**there)
    assert {path: path.read_bytes() for path in job.output.rglob("part-*.parquet")} == before


def test_a_limited_run_counts_no_failure_of_rows_that_left_the_manifest(job):
    job.rows("shoe [[fault:refusal]]", *FOUR)
    job.run()
    assert job.run(manifest={"r5": "bag"}, selection=Selection(limit=1)).counts == (1, 0, 0)


def test_a_limited_run_hides_no_answer_of_a_row_whose_other_cell_failed(job):
    job.run()
    job.run(manifest=dict.fromkeys(FOUR, "bag [[fault:refusal]]"))
    assert job.run(selection=Selection(limit=1)).counts == (4, 0, 0)
    assert job.show() == dict.fromkeys(FOUR, "shoe")


# ---------------------------------------------------------------------------------- the one more try of an answer

CAPPED = {"limits.max_cost_usd_per_run": 0.000001}  #: nothing can be sent


@pytest.mark.parametrize("kind", ["truncated", "empty"])
def test_the_one_more_try_of_a_row_is_bought_once_over_all_runs(job, kind):
    settings = {"provider.parameters": {"max_tokens": 60}, "answer.on_truncated": "raise_once"}
    job.cells = {"r1": f"shoe [[fault:{ {'truncated': 'length', 'empty': 'empty'}[kind] }]]"}
    job.hand_in(settings)
    for _ in range(2):
        stopped = job.run(settings | CAPPED)
        assert (stopped.counts, stopped.billed.total(), job.states()) == ((0, 0, 1), 0, {"retried": 1})
    session = job.run(settings)
    assert (session.counts, session.billed.total()) == ((0, 1, 0), 1)
    assert session.summary.failures_by_kind == {kind: 1}
    first, second = sorted(job.table("attempts"), key=lambda line: line["attempt"])
    (failed,) = job.table("failures")
    assert (failed["attempt_count"], failed["row_cost_ticks"]) == (2, first["cost_ticks"] + second["cost_ticks"])
    assert job.run(settings).billed.total() == 0
    assert job.is_right()


def test_the_one_more_try_of_a_truncated_answer_reserves_the_cost_of_its_larger_limit(job):
    settings = {"provider.parameters": {"max_tokens": 60}, "answer.on_truncated": "raise_once"}
    job.cells = {"r1": "shoe [[fault:length]]"}
    job.hand_in(settings)
    job.run(settings | CAPPED)
    bound_ticks = anyio.run(plan, job.job(settings)).cost.bound_ticks
    assert bound_ticks is not None
    capped = job.run(settings | {"limits.max_cost_usd_per_run": bound_ticks / 1e10})
    assert (capped.summary.stop_reason, capped.billed.total()) == ("spend_cap_reached", 0)
    assert job.run(settings).billed.total() == 1


# ---------------------------------------------------------------------------------- a ticket that asks for one more try


@pytest.mark.parametrize("deduplicates", [True, False])
def test_a_row_with_another_cell_by_now_is_not_asked_again_for_the_ticket_of_its_earlier_cell(job, deduplicates):
    settings = {"limits.deduplicate": deduplicates}
    job.cells = {"r1": "void [[fault:empty]]", "r2": "glove [[fault:refusal]]"}
    job.hand_in(settings)
    job.cells = {"r1": "boot", "r2": "boot"}
    session = job.run(settings)
    assert (session.counts, session.billed) == ((2, 0, 0), each("boot", "r1", "r2"))
    assert (job.states(), len(job.table("results"))) == ({"ok": 2, "retried": 1, "failed": 1}, 2)
    assert job.is_right()
    job.cells["r1"] = "void [[fault:empty]]"
    assert job.run(settings).billed.total() == 1


def test_a_limited_run_leaves_the_one_more_try_of_an_earlier_ticket(job):
    job.cells = {"r1": "void [[fault:empty]]"}
    job.hand_in()
    job.rows("shoe", "r2", "r3")
    session = job.run(selection=Selection(limit=1))
    assert (session.counts, session.billed.total()) == ((1, 0, 2), 1)
    assert job.run().billed.total() == 2
    assert job.is_right()
