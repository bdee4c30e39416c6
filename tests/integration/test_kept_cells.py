"""Kept cells of answered rows that have changed are said, and ``reparse`` puts them in the place of the old ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_runs import JobRuns

from batchvision.checkpoint import compact
from batchvision.commands.reparse import Reparsed, reparse
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

THREE = ("r1", "r2", "r3")


@pytest.fixture(scope="module")
def running() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as emulator:
        yield emulator


class PricedRuns(JobRuns):
    """Runs with a column that is kept and not read by the prompt."""

    prices: dict[str, Any]

    def write_manifest(self, name: str = "photos.csv", cells: Any = None) -> Path:
        path = super().write_manifest(name, cells)
        lines = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"))))
        lines = [[*lines[0], "price"], *([*line, self.prices.get(line[0], "1")] for line in lines[1:])]
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
        return path


@pytest.fixture
def job(tmp_path: Path, running: RunningEmulator) -> PricedRuns:
    running.reset()
    job_runs = PricedRuns(tmp_path, running, settings={"manifest.keep": ["title", "price"]})
    job_runs.prices = {}
    job_runs.rows("shoe", *THREE)
    assert job_runs.run().counts == (3, 0, 0)
    return job_runs


def prices(job: JobRuns) -> dict[str, Any]:
    return {row["row_id"]: row["price"] for row in job.table("results")}


def read_again(job: JobRuns) -> Reparsed:
    job.write_manifest()
    return anyio.run(reparse, job.job())


def test_changed_kept_cells_are_reported_and_refreshed_alone(job):
    before = {row["row_id"]: row for row in job.table("results")}
    job.prices = {"r2": "9"}
    session = job.run()
    assert (session.exit_code, session.billed.total()) == (0, 0)
    assert session.summary is not None and session.summary.rows_with_other_kept_cells == 1
    assert prices(job) == {"r1": "1", "r2": "1", "r3": "1"}, "a run leaves them"
    assert read_again(job).refreshed == 1
    assert prices(job) == {"r1": "1", "r2": "9", "r3": "1"}
    after = {row["row_id"]: row for row in job.table("results")}
    assert {row: {**cells, "price": None} for row, cells in after.items()} == {
        row: {**cells, "price": None} for row, cells in before.items()
    }
    assert job.verify().is_right
    again = job.run()
    assert again.summary is not None
    assert (again.counts, again.billed.total(), again.summary.rows_with_other_kept_cells) == ((3, 0, 0), 0, 0)


def test_a_second_time_changes_no_byte(job):
    job.prices = {"r1": "7"}
    assert read_again(job).refreshed == 1
    before = {path: path.read_bytes() for path in job.output.rglob("part-*.parquet")}
    assert read_again(job).refreshed == 0
    assert {path: path.read_bytes() for path in job.output.rglob("part-*.parquet")} == before


def test_refreshed_parts_are_compacted_like_any_other(job):
    job.rows("boot", "r4")
    job.run()
    job.prices = dict.fromkeys(("r1", "r4"), "5")
    assert read_again(job).refreshed == 2
    compact(job.output)
    assert prices(job) == {"r1": "5", "r2": "1", "r3": "1", "r4": "5"}
    assert job.verify().is_right
    assert job.run().billed.total() == 0


def test_a_column_that_is_kept_only_now_is_filled(job):
    job.settings = {**job.settings, "manifest.keep": ["title", "price", "image"]}
    session = job.run()
    assert session.summary is not None and session.summary.rows_with_other_kept_cells == 3
    assert read_again(job).refreshed == 3
    assert {row["image"] for row in job.table("results")} == {f"images/{row}.png" for row in THREE}


def test_a_row_that_has_failed_or_is_new_is_not_counted(job):
    job.rows("shoe [[fault:refusal]]", "r4")
    job.run()
    job.prices = {"r4": "3"}
    job.rows("shoe", "r5")
    session = job.run()
    assert session.summary is not None and session.summary.rows_with_other_kept_cells == 0


def test_the_report_names_the_command_that_refreshes_cells(job):
    from batchvision.cli.closing import Typed, closing_lines

    job.prices = {"r2": "9", "r3": "9"}
    session = job.run()
    assert session.summary is not None
    typed = Typed("batchvision run job.toml", "batchvision check job.toml", "batchvision reparse job.toml")
    lines = closing_lines(session.summary, job.output, typed)
    assert any(
        "2 answered rows have other kept cells: `batchvision reparse job.toml` refreshes" in line for line in lines
    )


KINDS: dict[str, pa.Array] = {
    "whole": pa.array([1, None, -7], pa.int64()),
    "small": pa.array([1, 2, 3], pa.uint8()),
    "part": pa.array([0.1, float("nan"), None], pa.float64()),
    "flag": pa.array([True, None, False]),
    "money": pa.array([1, 2, None], pa.decimal128(9, 2)),
    "day": pa.array([1, 2, 3], pa.date32()),
    "at": pa.array([1, 2, None], pa.timestamp("us", "UTC")),
    "naive": pa.array([1, 2, None], pa.timestamp("ns")),
    "raw": pa.array([b"\x00\xff", b"", None]),
    "list": pa.array([["a", "b"], [], None]),
    "nested": pa.array([{"a": 1}, {"a": None}, None]),
    "secret": pa.array(["https://user:password@h/x", "emulator-key here", "é \U0001f642"]),
    "nulls": pa.nulls(3),
}


def test_cells_of_every_type_that_did_not_change_are_not_counted(tmp_path, running):
    running.reset()
    names = list(KINDS)
    urls = [f"https://images.example/{row}.jpg" for row in THREE]
    table = pa.table({"sku": list(THREE), "image": urls, "title": ["t"] * 3, **KINDS})
    pq.write_table(table, tmp_path / "photos.parquet")
    job_runs = JobRuns(tmp_path, running, settings={"manifest.path": "photos.parquet", "manifest.keep": names})
    manifest = tmp_path / "photos.parquet"
    assert job_runs.run(manifest=manifest).counts == (3, 0, 0)
    pq.write_table(table, manifest)  # written anew, the same cells
    session = job_runs.run(manifest=manifest)
    assert session.summary is not None and session.summary.rows_with_other_kept_cells == 0
    assert anyio.run(reparse, job_runs.job()).refreshed == 0


def test_a_masked_cell_is_never_put_back_where_the_key_is_not_known(job):
    job.rows("shoe", "r4")
    job.prices = {"r4": "emulator-key of r4"}
    job.run()
    assert prices(job)["r4"] == "*** of r4"
    job.prices = {"r4": "emulator-key, changed", "r1": "2"}
    assert read_again(job).refreshed == 1
    assert prices(job) == {"r1": "2", "r2": "1", "r3": "1", "r4": "*** of r4"}
