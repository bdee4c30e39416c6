"""A changed recipe buys nothing again before the user was told what it costs, and has said so."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from job_runs import DEFERRED, JobRuns, make_ready

from batchvision.commands.plan import Plan, plan
from batchvision.commands.reparse import reparse
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.runner.feed import Selection

FOUR = ("r1", "r2", "r3", "r4")
OTHER = {"prompt.user": "Name {title} [[echo:{sku}]]"}
REDO = {"output.on_recipe_change": "redo"}
NEW_ROWS_ONLY = {"output.on_recipe_change": "new_rows_only"}


@pytest.fixture(scope="module")
def running() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: RunningEmulator) -> RunningEmulator:
    running.reset()
    return running


@pytest.fixture
def job(tmp_path: Path, emulator: RunningEmulator) -> JobRuns:
    job_runs = JobRuns(tmp_path, emulator)
    job_runs.rows("shoe", *FOUR)
    return job_runs


def planned(job: JobRuns, settings: dict[str, Any] | None = None) -> Plan:
    return anyio.run(plan, job.job(settings))


def times(bill: Counter[tuple[str, str]]) -> int:
    return bill.total()


# ---------------------------------------------------------------------------------- what counts as paid


def test_answers_under_another_prompt_are_not_bought_again(job):
    job.run()
    refused = job.run(OTHER)
    assert (refused.exit_code, times(refused.billed)) == (2, 0)
    assert "4 rows of this manifest were paid for under another recipe (prompt.user changed)" in refused.message
    assert job.run().exit_code == 0


def test_paid_failures_under_another_schema_are_not_bought_again(job):
    strict = {"answer.schema": {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}}
    looser = {"answer.schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
    job.rows("shoe [[fault:invalid_answer]]", *FOUR)
    session = job.run(strict)
    assert (session.exit_code, session.counts) == (3, (0, 4, 0))
    refused = job.run(looser)
    assert (refused.exit_code, times(refused.billed)) == (2, 0)
    assert "4 rows" in refused.message and "answer.schema changed" in refused.message
    assert "Only [answer] has changed: `batchvision reparse JOB`" in refused.message


def test_reparse_is_named_only_where_nothing_else_has_changed(job):
    job.run({"answer.labels": ["shoe", "bag"], "answer.labels_fallback": "no"})
    changed = {"answer.labels": ["shoe", "boot"], "answer.labels_fallback": "no"}
    assert "`batchvision reparse JOB`" in job.run(changed).message
    both = job.run({**changed, "provider.model": "grok-4.5"})
    assert both.exit_code == 2
    assert "reparse" not in both.message
    assert "(answer.labels, provider.model changed)" in both.message


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"provider.model": "grok-4.5"}, "provider.model"),
        ({"provider.parameters": {"seed": 3}}, "provider.parameters.seed"),
        ({"provider.detail": "low"}, "provider.detail"),
        ({"images.max_side": 99}, "images.max_side"),
        ({"prompt.system": "Be brief."}, "prompt.system"),
        ({"prompt.images_first": True}, "prompt.images_first"),
        ({"answer.labels": ["shoe", "bag"]}, "answer.labels"),
    ],
)
def test_the_message_names_the_key_that_has_changed(job, setting, named):
    job.run()
    assert f"({named} changed)" in job.run(setting).message


@pytest.mark.parametrize("setting", [OTHER, {"answer.labels": ["shoe", "bag"]}, {"provider.model": "grok-4.5"}])
def test_open_tickets_under_another_recipe_are_not_bought_again(job, emulator, setting):
    job.hand_in()
    refused = job.run({**DEFERRED, **setting})
    assert (refused.exit_code, times(refused.billed)) == (2, 0)
    assert "4 rows of this manifest" in refused.message
    assert job.states() == {"ok": 4}


def test_plan_counts_open_tickets_of_another_recipe(job, emulator):
    emulator.configure(deferred_seconds=3_600.0)
    job.run(DEFERRED)
    drawn = planned(job, {**DEFERRED, **OTHER})
    assert (drawn.changes.rows_again, drawn.changes.new) == (4, 0)
    assert len(drawn.refusals) == 1
    make_ready(emulator)
    emulator.configure(deferred_seconds=0.0)


def test_new_rows_only_does_not_take_rows_with_a_ticket_for_new(job, emulator):
    emulator.configure(deferred_seconds=3_600.0)
    job.run(DEFERRED)
    job.rows("bag", "r5")
    session = job.run({**NEW_ROWS_ONLY, **OTHER, "delivery.max_ticket_wait_seconds": 5.0})
    assert {row for row, _ in session.billed} == {"r5"}
    assert session.summary is not None and session.summary.rows_kept == 4
    make_ready(emulator)
    emulator.configure(deferred_seconds=0.0)


# ---------------------------------------------------------------------------------- keys, not ids


def test_going_back_to_a_recipe_after_cells_have_changed_is_refused(job):
    job.run()
    job.rows("bag", *FOUR)
    job.run({**OTHER, **REDO})
    back = job.run()
    assert (back.exit_code, times(back.billed)) == (2, 0)
    assert "4 rows" in back.message


def test_going_back_to_an_answered_recipe_costs_nothing(job):
    job.run()
    job.run({**OTHER, **REDO})
    back = job.run()
    assert (back.exit_code, times(back.billed), back.counts) == (0, 0, (4, 0, 0))


def test_rows_that_have_left_the_manifest_do_not_count(job):
    job.run()
    day = job.run(OTHER, manifest={"x1": "shoe", "x2": "shoe"})
    assert (day.exit_code, times(day.billed)) == (0, 2)
    mixed = job.run(OTHER, manifest={"x1": "shoe", "r1": "shoe", "x3": "shoe"})
    assert mixed.exit_code == 2
    assert "1 row of this manifest was paid for" in mixed.message


def test_a_row_with_a_touched_image_is_not_asked_again(job):
    job.run({**OTHER, **REDO})
    job.run(REDO)
    for path in (job.folder / "images").glob("*.png"):
        path.touch()
    session = job.run(OTHER)
    assert (session.exit_code, times(session.billed), session.counts) == (0, 0, (4, 0, 0))


# ---------------------------------------------------------------------------------- the price of each way out


def test_the_quote_matches_requests_and_cost(job):
    job.run()
    job.rows("bag", "r5", "r6")
    refused = job.run({**OTHER, "limits.concurrency": 2})
    assert "`--on-recipe-change redo` to ask them again: 6 requests for about $" in refused.message
    assert "`--on-recipe-change new_rows_only` to keep what they have and ask only new rows: 2 req" in refused.message
    only_new = job.run({**OTHER, **NEW_ROWS_ONLY})
    assert times(only_new.billed) == 2
    redo = job.run({**OTHER, **REDO})
    assert times(redo.billed) == 4


def test_plan_and_run_refuse_with_the_same_message(job):
    job.run()
    job.rows("bag", "r5")
    refused, drawn = job.run(OTHER), planned(job, OTHER)
    assert drawn.refusals == [refused.message]
    document = drawn.document()
    assert document["refusals"] == [refused.message]
    assert {name: document["rows"][name] for name in ("to_do", "new", "changed", "under_other_recipe")} == {
        "to_do": 5,
        "new": 1,
        "changed": 0,
        "under_other_recipe": 4,
    }
    assert planned(job, {**OTHER, **REDO}).refusals == []
    assert planned(job).refusals == []


# ---------------------------------------------------------------------------------- consent


def test_a_whole_run_that_may_ask_again_is_consent_for_the_next(job, emulator):
    job.run()
    first = job.run({**OTHER, **REDO, "provider.parameters": {"max_tokens": 500}, "limits.max_cost_usd_per_run": 0.0})
    assert (first.exit_code, times(first.billed)) == (4, 0)
    settings = {**OTHER, "provider.parameters": {"max_tokens": 500}}
    assert planned(job, settings).refusals == []
    assert times(job.run(settings).billed) == 4


@pytest.mark.parametrize("selection", [Selection(limit=1), Selection(sample=1)])
def test_a_trial_is_no_consent_for_the_next_run(job, selection):
    job.run()
    trial = job.run({**OTHER, **REDO}, selection=selection)
    assert times(trial.billed) == 1
    whole = job.run(OTHER)
    assert (whole.exit_code, times(whole.billed)) == (2, 0)
    assert "3 rows of this manifest" in whole.message


def test_a_trial_between_two_whole_runs_takes_no_consent_back(job):
    job.run()
    job.run({**OTHER, **REDO, "limits.max_runtime_seconds": 0.000001})
    job.run({**OTHER, **REDO}, selection=Selection(limit=1))
    assert times(job.run(OTHER).billed) == 3


def test_a_run_that_had_nothing_to_refuse_is_no_consent_for_other_rows(job):
    job.run()
    job.run(OTHER, manifest={"x1": "shoe"})
    refused = job.run(OTHER)
    assert (refused.exit_code, times(refused.billed)) == (2, 0)


def test_consent_is_for_the_recipe_that_was_left_and_for_no_other(job):
    job.run()
    third = {"prompt.user": "Call {title} [[echo:{sku}]]"}
    job.run({**third, **REDO}, manifest={"r1": "shoe"})
    assert job.run({**OTHER, **REDO}, manifest={"r2": "shoe"}).exit_code == 0
    refused = job.run(OTHER)
    assert "1 row of this manifest" in refused.message, "r1 was last asked under the third recipe"


def test_a_reparse_is_no_consent_to_ask_the_rest(job):
    labels = {"answer.labels": ["red", "blue"], "answer.labels_fallback": "no"}
    job.rows("shoe [[fault:invalid_answer]]", "r4")
    job.run(labels)
    more = {"answer.labels": ["red", "blue", "green"], "answer.labels_fallback": "no"}
    anyio.run(reparse, job.job(more))
    refused = job.run(more)
    assert (refused.exit_code, times(refused.billed)) == (2, 0)
    assert "1 row of this manifest" in refused.message


def test_summaries_of_an_earlier_version_are_consent_as_they_were(job):
    job.run()
    stopped = {**OTHER, **REDO, "limits.max_runtime_seconds": 0.000001}
    assert times(job.run(stopped).billed) == 0
    for path in (job.output / "runs").glob("*.json"):
        document = json.loads(path.read_text())
        for name in ("redo_recipes", "is_trial", "rows_kept", "rows_left"):
            document.pop(name)
        path.write_text(json.dumps(document))
    assert times(job.run(OTHER).billed) == 4


# ---------------------------------------------------------------------------------- new_rows_only


def test_new_rows_only_without_new_rows_counts_the_kept_answers(job):
    job.run()
    session = job.run({**OTHER, **NEW_ROWS_ONLY})
    assert (session.exit_code, times(session.billed), session.counts) == (3, 0, (0, 0, 4))
    assert session.summary is not None
    assert (session.summary.rows_kept, session.summary.rows_left) == (4, 0)


def test_new_rows_only_keeps_paid_failures_too(job):
    job.rows("shoe [[fault:refusal]]", "r3")
    job.run()
    session = job.run({**OTHER, **NEW_ROWS_ONLY})
    assert (times(session.billed), session.counts) == (0, (0, 0, 4))


def test_new_rows_only_counts_an_answered_row_with_a_touched_image_as_done(job):
    job.run()
    job.run({**OTHER, **REDO})
    for path in (job.folder / "images").glob("*.png"):
        path.touch()
    back = job.run(NEW_ROWS_ONLY)
    assert (back.exit_code, times(back.billed), back.counts) == (0, 0, (4, 0, 0))
    assert job.is_right()


def test_new_rows_only_keeps_the_answer_of_a_row_whose_image_is_missing(job):
    job.run()
    job.run({**OTHER, **REDO})
    (job.folder / "images" / "r4.png").unlink()
    rows = {**job.cells, "r4": "bag"}
    manifest = job.write_manifest(cells=rows)
    (job.folder / "images" / "r4.png").unlink()
    back = job.run(NEW_ROWS_ONLY, manifest=manifest)
    assert (times(back.billed), back.counts) == (0, (3, 0, 1))


def test_new_rows_only_ends_with_0_when_no_row_keeps_an_older_answer(job):
    job.run(NEW_ROWS_ONLY)
    job.rows("bag", "r5")
    session = job.run(NEW_ROWS_ONLY)
    assert (session.exit_code, session.counts) == (0, (5, 0, 0))


def test_a_kept_row_is_named_in_the_last_words(job):
    from batchvision.cli.closing import Typed, closing_lines

    job.run()
    session = job.run({**OTHER, **NEW_ROWS_ONLY})
    assert session.summary is not None
    typed = Typed("batchvision run job.toml", "retry", "check")
    text = "\n".join(closing_lines(session.summary, Path("out"), typed))
    assert "4 rows keep an older answer" in text
    assert "--on-recipe-change redo" in text
    none = "\n".join(closing_lines(replace(session.summary, rows_kept=0, exit_code=0), Path("out"), typed))
    assert "older answer" not in none
