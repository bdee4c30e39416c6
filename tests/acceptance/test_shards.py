"""Shards as a job array runs them: which may run at the same time, what a killed one leaves, and one cap for all."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Workbench, assert_every_row_once, ticks_of
from proofs import shards
from test_main_job import to_emulator, wait_for

from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.records import TICKS_PER_USD, Shard


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


@pytest.fixture
def emulator():
    with start_in_thread(EmulatorOptions(ledger_entries=100_000)) as running:
        yield running


def own(rows, shard: str):
    number, _, of = shard.partition("/")
    return [row for row in rows if Shard(int(number), int(of)).owns(row["sku"])]


def most_at_once(attempts) -> int:
    """How many requests were open at the same time, by the ledger."""
    begins = [(row["sent_at"], 1) for row in attempts]
    ends = [(row["received_at"], -1) for row in attempts]
    open_, most = 0, 0
    for _, step in sorted(begins + ends):
        open_ += step
        most = max(most, open_)
    return most


@contextmanager
def at_work(bench, emulator, job, *flags) -> Iterator[None]:
    """A run that has begun to send, and ends inside as it should."""
    emulator.configure(latency_seconds=1.0)
    process = bench.start(job, *to_emulator(emulator), *flags)
    wait_for(lambda: emulator.bill().requests >= 1, process)
    yield
    emulator.configure(latency_seconds=0.0)
    _, err = process.communicate(timeout=110)
    assert process.returncode == 0, err


# ---------------------------------------------------------------------------------- at the same time


@pytest.mark.parametrize(("first", "second"), [("0/1", "0/2"), ("0/2", "0/1"), ("0/4", "0/2"), ("0/2", "0/4")])
def test_a_cut_that_overlaps_one_at_work_exits_11_and_sends_nothing(bench, emulator, first, second):
    rows = bench.rows(40)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    with at_work(bench, emulator, job, "--shard", first), start_in_thread(EmulatorOptions()) as other:
        sent_away = bench.call("run", job, *to_emulator(other), "--shard", second)
        assert sent_away.returncode == 11, sent_away.stderr
        assert f"as shard {first}" in sent_away.stderr
        assert other.bill().requests == 0
    assert_every_row_once(bench.table("results"), own(rows, first))
    bench.run(job, *to_emulator(emulator), "--recut")
    assert_every_row_once(bench.table("results"), rows)
    assert emulator.bill().requests == len(rows)
    assert bench.call("verify", "out").returncode == 0


def test_disjoint_shards_run_side_by_side_with_the_concurrency_of_one_job(bench, emulator):
    rows = bench.rows(160)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    emulator.configure(latency_seconds=0.05)
    started = [bench.start(job, *to_emulator(emulator), "--shard", f"{number}/4") for number in range(4)]
    for process in started:
        _, err = process.communicate(timeout=110)
        assert process.returncode == 0, err
    assert_every_row_once(bench.table("results"), rows)
    assert emulator.bill().requests == len(rows)
    assert 4 < most_at_once(bench.table("attempts")) <= 8
    assert bench.call("verify", "out").returncode == 0


def test_four_shards_at_once_stay_below_the_cap_of_the_job(bench, emulator):
    emulator.configure(latency_seconds=(0.01, 0.05))
    rows = bench.rows(500)
    limits = "max_cost_usd = 0.30\nconcurrency = 16"
    job = bench.job(bench.manifest(rows), limits=limits, **{"provider.parameters": "max_tokens = 64"})
    started = [bench.start(job, *to_emulator(emulator), "--shard", f"{number}/4") for number in range(4)]
    ended = [process.communicate(timeout=110) for process in started]
    assert [process.returncode for process in started] == [4, 4, 4, 4], ended
    summaries = [json.loads(out) for out, _ in ended]
    assert {summary["stop_reason"] for summary in summaries} == {"spend_cap_reached"}
    bill, cap = emulator.bill(), 3 * TICKS_PER_USD // 10
    assert cap // 2 < bill.ticks <= cap
    assert ticks_of(bench.table("attempts")) == bill.ticks
    assert max(summary["cost_ticks"] for summary in summaries) <= cap // 4

    # what they left of it is not spent twice by those who come later
    bench.run(job, *to_emulator(emulator), "--shard", "1/2", "--recut", expect=4)
    bench.run(job, *to_emulator(emulator), "--recut", expect=4)
    assert emulator.bill().ticks <= cap


# ---------------------------------------------------------------------------------- one after the other


def killed(bench, emulator, job, *flags, lane: str) -> None:
    process = bench.start(job, *to_emulator(emulator), "--lane", lane, *flags)
    bill = emulator.bill
    wait_for(lambda: bill().delivered >= 15 if lane == "online" else bill().requests >= 15, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("lane", ["online", "deferred"])
@pytest.mark.parametrize(("first", "later"), [("0/4", ["0/2"]), ("0/4", ["0/1"]), ("0/1", ["1/2", "0/2"])])
def test_a_killed_cut_continued_as_another_buys_nothing_again(bench, emulator, lane, first, later):
    emulator.configure(latency_seconds=(0.05, 0.1), deferred_seconds=0.5)
    rows = bench.rows(200)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    killed(bench, emulator, job, "--shard", first, lane=lane)
    generated = len(emulator.bill().entries)
    assert 0 < generated < len(own(rows, first))

    for shard in later:
        bench.run(job, *to_emulator(emulator), "--lane", lane, "--shard", shard, "--recut")

    results, attempts = bench.table("results"), bench.table("attempts")
    assert_every_row_once(results, [row for shard in later for row in own(rows, shard)])
    ambiguous = {row["row_id"] for row in attempts if row["state"] == "ambiguous"}
    assert len(ambiguous) <= 8
    twice = {echo for echo, times in emulator.bill().by_echo().items() if times > 1}
    assert twice <= ambiguous, "bought again, and not listed"
    assert emulator.bill().requests <= len(results) + len(ambiguous)
    assert bench.call("verify", "out").returncode == 0
    bench.run(job, *to_emulator(emulator), "--lane", lane, "--recut")
    assert_every_row_once(bench.table("results"), rows)
    before = emulator.bill().requests
    bench.run(job, *to_emulator(emulator), "--lane", lane, "--shard", "0/4", "--recut")
    assert emulator.bill().requests == before


def test_a_paid_failure_of_one_cut_is_not_bought_again_by_another(bench, emulator):
    rows = bench.rows(60, faults=dict.fromkeys(range(0, 60, 3), "safety"))
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    bench.run(job, *to_emulator(emulator), "--shard", "1/4", expect=3)
    sent = emulator.bill().requests
    for shard in ("1/2", "0/1"):
        bench.run(job, *to_emulator(emulator), "--shard", shard, "--recut", expect=3)
        sent_since = emulator.bill().requests - sent
        assert sent_since == len(own(rows, shard)) - sent
        failures = [row["row_id"] for row in bench.table("failures")]
        assert len(failures) == len(set(failures)), "a failed row is listed twice"
        sent = emulator.bill().requests
    assert emulator.bill().requests == len(rows)
    assert len(bench.table("failures")) == 20


# ---------------------------------------------------------------------------------- the number of shards


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (["--shard", "0/4"], ["--shard", "0/2"], "is divided into 4 shards, and this run divides it into 2 shards"),
        (["--shard", "0/4"], [], "is divided into 4 shards, and this run divides it into 1 shard"),
        ([], ["--shard", "1/2"], "is divided into 1 shard, and this run divides it into 2 shards"),
    ],
)
def test_another_number_of_shards_needs_recut_and_is_remembered_then(bench, emulator, before, now, words):
    rows = bench.rows(40)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    bench.run(job, *to_emulator(emulator), *before)
    sent = emulator.bill().requests
    refused = bench.call("run", job, *to_emulator(emulator), *now)
    assert refused.returncode == 2
    assert words in " ".join(refused.stderr.split())
    assert "--recut" in refused.stderr
    assert emulator.bill().requests == sent
    bench.run(job, *to_emulator(emulator), *now, "--recut")
    bench.run(job, *to_emulator(emulator), *now)
    assert bench.call("run", job, *to_emulator(emulator), *before).returncode == 2


def test_shards_that_run_two_at_a_time_have_half_of_the_concurrency_each(bench, emulator):
    rows = bench.rows(120)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    emulator.configure(latency_seconds=0.05)
    for first in (0, 2):
        started = [
            bench.start(job, *to_emulator(emulator), "--shard", f"{number}/4", "--shards-at-once", "2")
            for number in (first, first + 1)
        ]
        for process in started:
            _, err = process.communicate(timeout=110)
            assert process.returncode == 0, err
    assert_every_row_once(bench.table("results"), rows)
    assert 4 < most_at_once(bench.table("attempts")) <= 8


# ---------------------------------------------------------------------------------- the whole


def test_sixteen_shards_two_at_a_time_use_the_whole_limit_and_every_command_sees_the_whole(tmp_path):
    found = shards.prove(tmp_path, per_minute=2_400, rows_of_a_shard=30)
    assert list(found.problems(least_share=0.8)) == []
    bench = Workbench(tmp_path)
    status = json.loads(bench.call("status", "out", "--json").stdout)
    assert (status["rows_answered"], status["last_run"]["rows_total"], status["last_run"]["rows_pending"]) == (
        480,
        480,
        0,
    )
    report = bench.call("report", "out", "-o", "report.html")
    assert report.returncode == 0, report.stderr
    assert "of 480 rows" in (tmp_path / "report.html").read_text()
    assert bench.call("compact", "out").returncode == 0
    assert len(bench.table("results")) == 480
    assert bench.call("verify", "out").returncode == 0


def test_the_summary_of_the_output_counts_rows_of_shards_that_have_not_run_as_pending(bench, emulator):
    rows = bench.rows(40, faults={0: "safety"})
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    runs = [bench.call("run", job, *to_emulator(emulator), "--shard", f"{number}/3", "--json") for number in (2, 0)]
    summaries = [json.loads(run.stdout) for run in runs]
    latest = json.loads((bench.folder / "out" / "runs" / "latest.json").read_text())
    assert latest["shards"] == {summary["shard"]: summary["run_id"] for summary in summaries}
    ended = {name: sum(summary[name] for summary in summaries) for name in ("rows_completed", "rows_failed")}
    assert {name: latest[name] for name in ended} == ended
    assert (latest["rows_total"], latest["rows_pending"]) == (40, 40 - sum(ended.values()))
    assert latest["exit_code"] == max(summary["exit_code"] for summary in summaries)
    assert bench.call("verify", "out").returncode == 0


def test_a_lost_part_of_one_shard_is_found_by_verify(bench, emulator):
    rows = bench.rows(60)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    for number in range(2):
        bench.run(job, *to_emulator(emulator), "--shard", f"{number}/2")
    assert bench.call("verify", "out").returncode == 0
    next((bench.folder / "out" / "results").rglob("part-0of2-*.parquet")).unlink()
    assert bench.call("verify", "out").returncode == 7


def test_a_changed_manifest_is_noticed_by_a_shard_with_a_part_of_the_changed_rows(bench, emulator):
    rows = bench.rows(120)
    job = bench.job(bench.manifest(rows), limits="concurrency = 8")
    for number in range(2):
        bench.run(job, *to_emulator(emulator), "--shard", f"{number}/2")
    sent = emulator.bill().requests
    bench.manifest([{**row, "title": f"another {row['title']}"} for row in rows])
    refused = bench.call("run", job, *to_emulator(emulator), "--shard", "0/2")
    assert refused.returncode == 2
    assert "manifest.max_changed" in refused.stderr
    assert emulator.bill().requests == sent
