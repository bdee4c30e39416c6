"""Pilots and sweeps in virtual time: kept answers, cost, and the cost of a crash."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
import pytest
from emulated_provider import EmulatedProvider
from PIL import Image
from simulated_run import UnsyncedDisk
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.commands.pilot import Pilot, pilot, settings
from batchvision.commands.status import look
from batchvision.commands.verify import verify
from batchvision.errors import JobInvalid
from batchvision.records import RunSummary
from batchvision.runner.feed import Selection
from batchvision.runner.session import run_async

ENVIRON = {"XAI_API_KEY": "xai-secret-key-000"}
ROWS = 40


class PowerCut(BaseException):
    """The machine is gone."""


class CutDisk(UnsyncedDisk):
    """Takes ``writes`` writes and nothing more."""

    def __init__(self, writes: int) -> None:
        self.left = writes

    def write(self, descriptor: int, content: bytes | memoryview) -> None:
        self.left -= 1
        if self.left < 0:
            raise PowerCut
        super().write(descriptor, content)

    def rename(self, old: Path, new: Path) -> None:
        if self.left < 0:
            raise PowerCut
        super().rename(old, new)


@dataclass
class Bench:
    """One job of forty rows, images of many sizes, and an output."""

    folder: Path
    overrides: dict[str, Any] = field(default_factory=dict)
    provider: EmulatedProvider = field(default_factory=EmulatedProvider)
    job_runs: int = 0

    def __post_init__(self) -> None:
        lines = ["sku,image,hint"]
        for number in range(10):
            side = 60 + 100 * number
            Image.new("RGB", (side, side), "red").save(self.folder / f"{number}.png")
        lines += [f"r{number},{number // 4}.png,[[echo:r{number}]]" for number in range(ROWS)]
        (self.folder / "photos.csv").write_text("\n".join(lines) + "\n")

    def job(self, more: Mapping[str, object] | None = None) -> Job:
        table: dict[str, Any] = {
            "name": "piloted",
            "manifest": {"path": "photos.csv", "id": "sku"},
            "prompt": {"user": "Describe it. {hint}"},
            "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": 300}},
            "limits": {"concurrency": 4},
            "output": {"path": "out"},
        }
        return Job.from_mapping(table, self.folder, {**self.overrides, **(more or {})})

    def pilot(self, rows: int, *sweeps: str, disk: CutDisk | None = None) -> Pilot:
        self.job_runs += 1
        dependencies = self.provider.dependencies(self.job_runs, disk)

        async def session() -> Pilot:
            return await pilot(
                self.job(), rows, remake=self.job, sweep=settings(sweeps), environ=ENVIRON, dependencies=dependencies
            )

        return anyio.run(session, backend_options=VIRTUAL)

    def run(self, **selection: Any) -> RunSummary:
        self.job_runs += 1
        dependencies = self.provider.dependencies(self.job_runs)

        async def session() -> RunSummary:
            return await run_async(
                self.job(), selection=Selection(**selection), environ=ENVIRON, dependencies=dependencies
            )

        return anyio.run(session, backend_options=VIRTUAL)

    def table(self, name: str) -> list[dict[str, Any]]:
        paths = sorted((self.folder / "out" / name).rglob("part-*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]

    def latest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "out" / "runs" / "latest.json").read_text())
        return found

    def assert_right(self) -> None:
        """Every tick is in the ledger, and ``verify`` finds nothing."""
        ledger = self.table("attempts")
        unsure = sum(row["bound_ticks"] or 0 for row in ledger if row["state"] == "ambiguous")
        spent = sum(row["cost_ticks"] or 0 for row in ledger)
        assert spent <= self.provider.billed_ticks <= spent + unsure
        checked = anyio.run(verify, self.folder / "out")
        assert [each.text for each in checked.findings if each.mark == "wrong"] == []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def cut(bench: Bench, rows: int, *sweeps: str, writes: int) -> None:
    with pytest.raises(BaseException) as fault:
        bench.pilot(rows, *sweeps, disk=CutDisk(writes))
    assert "PowerCut" in repr(fault.value)


# ---------------------------------------------------------------------------------- a pilot


def test_answers_of_a_pilot_are_kept_and_a_run_asks_the_remaining_rows(bench: Bench) -> None:
    told = bench.pilot(8)

    assert (told.requests, told.wanted, told.ended, told.sent) == (ROWS, 8, 8, 8)
    assert len(bench.table("results")) == 8
    assert {row["run_id"].rpartition("-")[2] for row in bench.table("attempts")} == {"pilot"}
    summary = bench.run()
    assert summary.requests_sent == ROWS - 8
    assert set(bench.provider.requests.values()) == {1}
    assert told.cost is not None
    assert told.cost.low <= bench.provider.billed_ticks <= told.cost.high
    bench.assert_right()


def test_a_second_pilot_buys_nothing_and_a_larger_one_the_rest(bench: Bench) -> None:
    first, second = bench.pilot(8), bench.pilot(8)

    assert (second.sent, second.spent_ticks) == (0, 0)
    assert (second.cost, second.tokens) == (first.cost, first.tokens)
    larger = bench.pilot(16)
    assert larger.ended == 16
    assert larger.sent <= 10
    assert set(bench.provider.requests.values()) == {1}


def test_a_row_that_has_changed_since_is_asked_again_by_pilot_and_sweep_alone(bench: Bench) -> None:
    bench.pilot(8, "detail=low")
    changed = sorted(bench.provider.requests)[0]
    path = bench.folder / "photos.csv"
    path.write_text(path.read_text().replace(f"[[echo:{changed}]]", f"[[echo:{changed}]] in other words"))
    again = bench.pilot(8, "detail=low")

    assert again.sent == 2
    assert bench.provider.requests[changed] == 4
    assert again.ended == again.compared[1].rows == 8


def test_a_pilot_of_all_rows_knows_their_cost_to_the_tick(bench: Bench) -> None:
    told = bench.pilot(ROWS)

    assert told.cost is not None
    assert (told.cost.low, told.cost.high) == (bench.provider.billed_ticks, bench.provider.billed_ticks)


def test_rows_that_share_an_answer_count_as_one_request(bench: Bench) -> None:
    lines = [f"s{number},{number % 10}.png,same words" for number in range(ROWS)]
    (bench.folder / "photos.csv").write_text("\n".join(["sku,image,hint", *lines]) + "\n")
    told = bench.pilot(4)

    assert told.requests == 10
    assert told.plan.document()["requests"] == 10
    bench.run()
    assert bench.provider.requests.total() == 10
    assert told.cost is not None
    assert told.cost.low <= bench.provider.billed_ticks <= told.cost.high


def test_failed_rows_are_part_of_the_cost(bench: Bench) -> None:
    bench.provider.refuses = lambda requests: requests % 4 == 0
    told = bench.pilot(8)

    assert told.ended == 8
    assert told.exit_code == 0


def test_a_pilot_is_no_consent_to_ask_done_rows_again(bench: Bench) -> None:
    bench.run()
    bench.overrides = {"provider.detail": "low"}
    with pytest.raises(JobInvalid, match="on-recipe-change"):
        bench.pilot(4)
    bench.overrides = {"provider.detail": "low", "output.on_recipe_change": "redo"}
    bench.pilot(4)
    bench.overrides = {"provider.detail": "low"}
    with pytest.raises(JobInvalid, match="on-recipe-change"):
        bench.run()


def test_after_a_pilot_status_projects_nothing_from_rows_that_are_unlike_the_average(bench: Bench) -> None:
    bench.pilot(8)
    assert look(bench.folder / "out").projected_ticks is None
    bench.run(limit=10)
    assert look(bench.folder / "out").projected_ticks is not None


def test_a_pilot_asks_rows_with_known_answers_by_answer(bench: Bench) -> None:
    gold = "".join(f"r{number},answer {number % 2}\n" for number in range(20))
    (bench.folder / "gold.csv").write_text(f"row_id,answer\n{gold}")
    bench.overrides = {"answer.expected_file": "gold.csv"}
    told = bench.pilot(10)

    asked = [int(row["row_id"][1:]) for row in bench.table("results")]
    known = [number for number in asked if number < 20]
    assert len(asked) == 10
    assert sorted(number % 2 for number in known) == [0, 0, 0, 0, 1, 1, 1, 1]
    assert told.requests == ROWS
    bench.run()
    assert told.cost is not None
    assert told.cost.value == pytest.approx(bench.provider.billed_ticks, rel=0.05)


# ---------------------------------------------------------------------------------- a sweep


def test_a_sweep_is_booked_and_published_nowhere(bench: Bench) -> None:
    told = bench.pilot(8, "detail=low,high", "max_side=300")

    assert told.sent == 8 * 3
    names = [each.name for each in told.compared]
    assert names == ["(the job's own)", "detail=low max_side=300", "detail=high max_side=300"]
    assert len(bench.table("results")) == 8
    assert bench.table("failures") == []
    by_recipe = Counter(row["recipe_id"] for row in bench.table("attempts"))
    assert sorted(by_recipe.values()) == [8, 8, 8]
    assert bench.latest()["recipe_id"] == bench.job().recipe.recipe_id
    assert bench.latest()["command"] == "pilot"
    bench.assert_right()
    assert bench.run().requests_sent == ROWS - 8
    bench.assert_right()


def test_a_sweep_shows_cost_and_likeness_of_each_setting(bench: Bench) -> None:
    own, low = bench.pilot(8, "detail=auto,low").compared

    assert own.is_own
    assert own.name == "detail=auto (the job's own)"
    assert own.cost is not None
    assert low.cost is not None
    assert low.cost.value < 0.5 * own.cost.value
    assert low.tokens is not None
    assert low.agreement is not None
    assert (low.agreement.rows, low.agreement.same, low.agreement.alike) == (8, 8, 1.0), "the emulator sees alike"


def test_a_row_that_fails_in_a_sweep_stays_completed(bench: Bench) -> None:
    bench.provider.refuses = lambda requests: requests > 8
    told = bench.pilot(8, "detail=low")

    assert told.compared[1].unanswered == 8
    assert told.compared[1].agreement is not None
    assert told.compared[1].agreement.alike == 0.0
    assert bench.table("failures") == []
    assert bench.run().rows_completed == 8
    assert look(bench.folder / "out").rows_answered == 8


def test_a_setting_that_is_chosen_in_the_end_finds_its_rows_in_the_ledger(bench: Bench) -> None:
    """A second look at the same settings, whichever is the job's own by then, pays for none of them again."""
    bench.pilot(8, "detail=low")
    again = bench.pilot(8, "detail=low")

    assert again.sent == 0
    assert again.compared[1].rows == 8


@pytest.mark.parametrize(("ambiguous", "asked_again"), [("hold", 0), ("retry", 1)])
def test_ambiguous_rows_are_asked_again_only_if_the_job_allows_it(
    bench: Bench, ambiguous: str, asked_again: int
) -> None:
    bench.overrides = {"limits.ambiguous": ambiguous, "limits.max_attempts": 1, "limits.concurrency": 1}
    bench.provider.cuts = lambda requests: requests == 12
    first = bench.pilot(8, "detail=low")
    bench.provider.cuts = lambda requests: False
    second = bench.pilot(8, "detail=low")

    assert (first.sent, first.compared[1].rows) == (16, 7)
    assert (second.sent, second.compared[1].rows) == (asked_again, 7 + asked_again)
    bench.assert_right()
    assert len(bench.table("results")) == 8


# ---------------------------------------------------------------------------------- caps


@pytest.mark.parametrize("key", ["limits.max_cost_usd", "limits.max_cost_usd_per_run", "limits.max_cost_usd_per_day"])
def test_caps_hold_for_pilot_and_sweep_together(bench: Bench, key: str) -> None:
    bench.pilot(8)
    eight = bench.provider.billed_ticks
    cap = eight * 3 // 2 / 1e10
    other = Bench(_empty(bench.folder / "capped"), {key: cap})
    told = other.pilot(8, "detail=low,high")

    assert told.stopped is not None
    assert told.stopped.reason == "spend_cap_reached"
    assert told.exit_code == 4
    assert eight <= other.provider.billed_ticks <= cap * 1e10
    assert told.cost is not None, "what the pilot told is told"
    other.assert_right()


def test_a_cap_in_the_middle_of_a_pilot_keeps_its_answers(bench: Bench) -> None:
    bench.overrides = {"limits.max_cost_usd": 0.012, "limits.concurrency": 1}
    told = bench.pilot(20)

    assert told.stopped is not None
    assert 2 <= told.ended < 20
    assert told.cost is not None
    bench.overrides = {}
    assert bench.pilot(20).sent == 20 - told.ended


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


# ---------------------------------------------------------------------------------- crashes


def writes_of(folder: Path, *sweeps: str) -> int:
    """How many writes a pilot takes where nothing goes wrong."""
    disk = CutDisk(10**9)
    Bench(_empty(folder)).pilot(8, *sweeps, disk=disk)
    return 10**9 - disk.left


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_after_a_crash_in_a_pilot_only_requests_in_flight_are_asked_again(bench: Bench, share: float) -> None:
    cut(bench, 8, writes=round(writes_of(bench.folder / "whole") * share))
    told = bench.pilot(8)

    assert len(bench.provider.requests) == 8, "the same rows are chosen again"
    assert bench.provider.requests.total() <= 8 + 4
    assert told.ended == 8
    bench.assert_right()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75, 0.9])
def test_after_a_crash_in_a_sweep_its_rows_stay_where_they_are(bench: Bench, share: float) -> None:
    before = writes_of(bench.folder / "pilot")
    both = writes_of(bench.folder / "both", "detail=low")
    cut(bench, 8, "detail=low", writes=round(before + (both - before) * share))
    told = bench.pilot(8, "detail=low")

    assert len(bench.provider.requests) == 8
    assert bench.provider.requests.total() <= 16 + 4
    assert told.compared[1].rows == 8
    assert len(bench.table("results")) == 8
    assert bench.table("failures") == []
    bench.assert_right()
    assert bench.run().requests_sent == ROWS - 8
    bench.assert_right()
