"""Processes that share one budget: ``scripts/share`` in short, and one cap for all of them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from harness import Workbench, ticks_of
from proofs.share import measure
from test_main_job import to_emulator, wait_for

from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.records import TICKS_PER_USD

NAMES = ("a", "b", "c")


@pytest.fixture
def emulator():
    with start_in_thread(EmulatorOptions(ledger_entries=100_000)) as running:
        yield running


def benches(folder: Path, rows: int, limits: str) -> list[tuple[Workbench, Path]]:
    """A job for each name, all with one budget."""
    made = []
    for name in NAMES:
        bench = Workbench(folder / name)
        bench.folder.mkdir()
        made.append((bench, bench.job(bench.manifest(bench.rows(rows)), limits=f'share = "../budget"\n{limits}')))
    return made


def test_three_processes_use_one_limit_in_thirds_and_take_the_part_of_a_killed_one(tmp_path: Path) -> None:
    measured = measure(tmp_path, per_minute=1_200, seconds=12)
    assert measured.problems() == [], measured


def test_one_cap_holds_for_all_processes_and_each_ends_with_exit_4(tmp_path: Path, emulator) -> None:
    emulator.configure(latency_seconds=(0.02, 0.1))
    cap = 0.06
    limits = f"concurrency = 16\nmax_cost_usd = {cap}"
    jobs = benches(tmp_path, 400, limits)
    processes = [bench.start(job, *to_emulator(emulator), "--set", MAX_TOKENS) for bench, job in jobs]
    for process in processes:
        process.communicate(timeout=110)
    assert [process.returncode for process in processes] == [4, 4, 4]
    bill = emulator.bill()
    assert bill.ticks <= cap * TICKS_PER_USD
    assert bill.ticks >= 0.8 * cap * TICKS_PER_USD, "the cap is used, but for less than a request may cost"
    assert sum(ticks_of(bench.table("attempts")) for bench, _ in jobs) == bill.ticks


def test_money_of_a_killed_process_is_counted_until_its_next_run_knows_better(tmp_path: Path, emulator) -> None:
    emulator.configure(latency_seconds=30.0)
    limits = "concurrency = 8\nmax_cost_usd = 0.06"
    jobs = benches(tmp_path, 400, limits)
    bench, job = jobs[0]
    killed = bench.start(job, *to_emulator(emulator), "--set", MAX_TOKENS)
    wait_for(lambda: emulator.bill().requests >= 1, killed)
    emulator.configure(latency_seconds=0.05)
    wait_for(lambda: emulator.bill().delivered >= 40, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    for bench, job in (*jobs[1:], jobs[0]):
        bench.run(job, *to_emulator(emulator), "--set", MAX_TOKENS, expect=4)
        assert emulator.bill().ticks <= 0.06 * TICKS_PER_USD


MAX_TOKENS = "provider.parameters.max_tokens=200"


def test_shards_with_a_shared_budget_have_the_whole_cap_together(tmp_path: Path, emulator) -> None:
    emulator.configure(latency_seconds=(0.02, 0.1))
    (bench, job), *_ = benches(tmp_path, 600, "concurrency = 16\nmax_cost_usd = 0.06")
    flags = [*to_emulator(emulator), "--set", MAX_TOKENS]
    processes = [bench.start(job, *flags, "--shard", f"{number}/3") for number in range(2)]
    for process in processes:
        process.communicate(timeout=110)
    assert [process.returncode for process in processes] == [4, 4]
    bill = emulator.bill()
    assert 0.8 * 0.06 * TICKS_PER_USD <= bill.ticks <= 0.06 * TICKS_PER_USD, "two of three shards use all of it"
    bench.run(job, *flags, "--shard", "2/3", expect=4)
    assert emulator.bill().ticks <= 0.06 * TICKS_PER_USD


def test_check_prints_the_file_and_status_who_uses_it(tmp_path: Path, emulator) -> None:
    emulator.configure(latency_seconds=0.5)
    (bench, job), (other, other_job), _ = benches(tmp_path, 60, "requests_per_minute = 600\nconcurrency = 8")
    checked = bench.call("check", job, *to_emulator(emulator))
    assert str(tmp_path / "budget") in checked.stdout + checked.stderr
    bench.run(job, *to_emulator(emulator), "--limit", "1")
    processes = [each.start(own, *to_emulator(emulator)) for each, own in ((bench, job), (other, other_job))]
    try:
        wait_for(lambda: emulator.bill().delivered >= 20, processes[0])
        shown = bench.call("status", job).stdout
        uses = json.loads(bench.call("status", job, "--json").stdout)["sharing"]
        assert {use["process"] for use in uses} == {process.pid for process in processes}
        assert {use["name"] for use in uses} == {f"{each.folder}/out|0of1" for each in (bench, other)}
        assert f"sharing   process {uses[0]['process']}, " in shown
        assert " requests a second" in shown
    finally:
        emulator.configure(latency_seconds=0.0)
        for process in processes:
            process.communicate(timeout=110)
    assert [process.returncode for process in processes] == [0, 0]
