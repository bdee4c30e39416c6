"""Labels or schema change after the run was paid for: the stored answers are read again, as a user does it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Workbench, assert_every_row_once

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

ROWS = 60


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


def to(emulator: RunningEmulator, face: str = "xai") -> list[str]:
    path = {"xai": "/xai/v1", "openrouter": "/openrouter/api/v1", "openai": "/openai/v1"}[face]
    return ["--provider", face, "--base-url", emulator.url + path]


def schema(bench: Workbench, **properties: object) -> None:
    document = {"type": "object", "properties": {"colour": {"type": "string"}, **properties}, "required": ["colour"]}
    (bench.folder / "answer.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("face", "lane"), [("xai", "online"), ("xai", "deferred"), ("openrouter", "online"), ("openai", "online")]
)
def test_after_a_changed_schema_a_run_asks_nothing_and_has_new_typed_columns(bench, emulator, face, lane):
    rows = bench.rows(ROWS)
    job = bench.job(bench.manifest(rows), answer='schema = "answer.json"')
    flags = [*to(emulator, face), "--set", f"delivery.lane={lane}"]
    schema(bench)
    bench.run(job, *flags)
    asked, ticks = emulator.bill().requests, emulator.bill().ticks
    schema(bench, mood={"type": ["string", "null"]})

    refused = bench.call("run", job, *flags)
    assert refused.returncode == 2 and f"{ROWS} rows of this manifest were paid for" in refused.stderr
    assert "(answer.schema changed)" in refused.stderr and "`batchvision reparse JOB`" in refused.stderr

    done = bench.call("reparse", job, *flags)
    assert done.returncode == 0, done.stderr
    assert f"{ROWS} rows of {ROWS} got an answer that was stored before; nothing was sent" in done.stdout
    assert bench.run(job, *flags, "--on-recipe-change", "redo")["requests_sent"] == 0
    assert (emulator.bill().requests, emulator.bill().ticks) == (asked, ticks)

    recipe_id = json.loads((bench.folder / "out/runs/latest.json").read_text())["recipe_id"]
    current = [row for row in bench.table("results") if row["recipe_id"] == recipe_id]
    assert_every_row_once(current, rows)
    assert all(row["answer_colour"] and row["answer_mood"] is None for row in current)
    shown = bench.call("show", "out", "--format", "jsonl").stdout.splitlines()
    assert {json.loads(line)["recipe_id"] for line in shown} == {recipe_id}
    assert bench.call("verify", "out").returncode == 0


def test_a_second_reparse_changes_no_byte_and_says_so(bench, emulator):
    job = bench.job(bench.manifest(bench.rows(ROWS)), answer='labels = ["shoe", "bag"]')
    bench.run(job, *to(emulator))
    bench.job(bench.folder / "photos.csv", answer='labels = ["shoe", "bag", "hat"]')
    first = json.loads(bench.call("reparse", job, *to(emulator), "--json").stdout)
    before = bench.fingerprint()
    again = json.loads(bench.call("reparse", job, *to(emulator), "--json").stdout)
    assert (first["published"], again["published"], again["done"]) == (ROWS, 0, ROWS)
    assert bench.fingerprint() == before


def test_only_the_rows_that_do_not_fit_are_asked_again_and_only_when_the_user_says_so(bench, emulator):
    labels = ["red", "green", "blue", "yellow", "purple", "orange", "brown", "gray", "white", "black"]
    job = bench.job(bench.manifest(bench.rows(ROWS)), answer=f"labels = {json.dumps(labels)}")
    bench.run(job, *to(emulator))
    unfit = sum(row["answer_label"] == "red" for row in bench.table("results"))
    assert 0 < unfit < ROWS
    bench.job(bench.folder / "photos.csv", answer=f"labels = {json.dumps(labels[1:])}")

    done = bench.call("reparse", job, *to(emulator))

    assert f"unfit     {unfit} row" in done.stdout
    step = next(line for line in done.stdout.splitlines() if "next" in line)
    assert f"batchvision run {job}" in step and "--on-recipe-change redo" in step
    assert bench.call("run", job, *to(emulator)).returncode == 2
    assert bench.run(job, *to(emulator), "--on-recipe-change", "redo")["requests_sent"] == unfit


def test_answers_that_a_killed_run_had_not_sealed_are_read_again_too(bench, emulator):
    job = bench.job(bench.manifest(bench.rows(200)), answer='labels = ["shoe", "bag"]', limits="concurrency = 8")
    with start_in_thread(EmulatorOptions(latency_seconds=0.1)) as slow:
        process = bench.start(job, *to(slow))
        until = time.monotonic() + 60
        while slow.bill().delivered < 40 and process.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    bought = slow.bill().requests
    job.write_text(job.read_text().replace('"bag"', '"bag", "hat"'))
    asked = emulator.bill().requests

    reparsed = json.loads(bench.call("reparse", job, *to(emulator), "--json").stdout)

    assert reparsed["published"] >= bought - 8, "all but what was in flight"
    assert emulator.bill().requests == asked, "by another server: what was on its way to the first may still come in"
    summary = bench.run(job, *to(emulator), "--on-recipe-change", "redo")
    assert summary["rows_completed"] == 200
    assert summary["requests_sent"] == 200 - reparsed["published"]
    assert bench.call("verify", "out").returncode == 0


def test_no_key_is_needed_to_read_what_is_there(bench, emulator):
    job = bench.job(bench.manifest(bench.rows(5)), answer='labels = ["shoe", "bag"]')
    bench.run(job, *to(emulator))
    bench.key = ""
    bench.job(bench.folder / "photos.csv", answer='labels = ["shoe", "bag", "hat"]')
    assert bench.call("reparse", job, *to(emulator)).returncode == 0


def test_without_raw_answers_the_message_says_so(bench, emulator):
    job = bench.job(bench.manifest(bench.rows(5)), answer='labels = ["shoe", "bag"]', output="keep_raw_answers = false")
    bench.run(job, *to(emulator))
    bench.job(bench.folder / "photos.csv", answer='labels = ["shoe", "hat", "bag"]', output="keep_raw_answers = false")
    done = bench.call("reparse", job, *to(emulator))
    assert done.returncode == 0
    assert "keep_raw_answers = false" in done.stdout and "nothing to read again" in done.stdout


def test_a_changed_prompt_is_no_case_for_reparse(bench, emulator):
    job = bench.job(bench.manifest(bench.rows(5)))
    bench.run(job, *to(emulator))
    job.write_text(job.read_text().replace("Describe", "Name"))
    done = bench.call("reparse", job, *to(emulator))
    assert done.returncode == 2
    assert "user changed as well" in done.stderr
    assert bench.call("reparse", job, *to(emulator), "--out", "nowhere").returncode == 2
