"""``output.snapshot``: after each run one Parquet file holds the current answer of each row of the manifest."""

from __future__ import annotations

import asyncio
import json
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from job_runs import DEFERRED, JobRuns
from signalled_runs import signal_at_first_answer

import batchvision
from batchvision.checkpoint import compact
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid

SNAPSHOT = {"output.snapshot": "current.parquet"}
FOUR = ("r1", "r2", "r3", "r4")


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture
def job(tmp_path: Path, emulator: RunningEmulator) -> JobRuns:
    job_runs = JobRuns(tmp_path, emulator, settings=SNAPSHOT)
    job_runs.rows("shoe", *FOUR)
    return job_runs


def snapshot(job: JobRuns) -> dict[str, str]:
    table = pq.read_table(job.output / "current.parquet")
    return dict(zip(table["row_id"].to_pylist(), table["title"].to_pylist(), strict=True))


def mark(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_the_snapshot_has_every_column_of_results_and_every_row(job: JobRuns) -> None:
    assert job.run().exit_code == 0
    found = pq.read_table(job.output / "current.parquet")
    expected = pa.table(batchvision.read(job.output)).drop_columns("in_manifest")
    assert found.equals(expected)
    assert found.num_rows == 4


def test_a_run_that_changes_nothing_leaves_the_file_as_it_is(job: JobRuns) -> None:
    job.run()
    path = job.output / "current.parquet"
    before = mark(path)
    assert job.run().billed == Counter()
    assert mark(path) == before
    assert [each.name for each in job.output.glob(".current*")] == []


def test_rows_that_leave_the_manifest_leave_the_snapshot_and_come_back(job: JobRuns) -> None:
    job.run()
    job.run(manifest={"r1": "shoe", "r2": "bag"})
    assert snapshot(job) == {"r1": "shoe", "r2": "bag"}
    assert job.run().billed == Counter()
    assert snapshot(job) == dict.fromkeys(FOUR, "shoe")


def test_failed_rows_have_no_row_in_the_snapshot(job: JobRuns) -> None:
    job.run()
    job.rows("[[fault:refusal:9]]", "r2")
    assert job.run().exit_code == 3
    assert snapshot(job) == dict.fromkeys(("r1", "r3", "r4"), "shoe")


def test_a_run_that_leaves_tickets_writes_what_is_current(job: JobRuns) -> None:
    job.run(manifest={"r1": "shoe"})
    (job.output / "current.parquet").unlink()
    assert job.hand_in().exit_code == 4
    assert snapshot(job) == {"r1": "shoe"}
    assert job.run(DEFERRED).exit_code == 0
    assert len(snapshot(job)) == 4


def test_a_run_that_stops_at_its_cost_writes_what_is_current(job: JobRuns) -> None:
    assert job.run({"limits.max_cost_usd": 0.000001, "provider.parameters": {"max_tokens": 50}}).exit_code == 4
    assert snapshot(job) == {}
    assert pq.read_schema(job.output / "current.parquet").names[:2] == ["job", "row_id"]


def test_a_refused_run_writes_nothing(job: JobRuns) -> None:
    job.run()
    (job.output / "current.parquet").unlink()
    assert job.run({"prompt.user": "Another question: {title} [[echo:{sku}]]"}).exit_code == 2
    assert not (job.output / "current.parquet").exists()


def test_a_run_under_another_recipe_replaces_the_answers(job: JobRuns) -> None:
    job.run()
    first = pq.read_table(job.output / "current.parquet")["recipe_id"].unique().to_pylist()
    job.run({"prompt.user": "Name {title} [[echo:{sku}]]", "output.on_recipe_change": "redo"})
    second = pq.read_table(job.output / "current.parquet")["recipe_id"].unique().to_pylist()
    assert (len(first), len(second)) == (1, 1)
    assert first != second


def test_after_compact_the_snapshot_has_the_same_rows(job: JobRuns) -> None:
    job.run(manifest={"r1": "shoe"})
    job.run()
    before = snapshot(job)
    compact(job.output)
    job.run()
    assert snapshot(job) == before


def test_a_snapshot_is_no_part_of_what_is_asked(job: JobRuns) -> None:
    job.settings.pop("output.snapshot")
    job.run()
    assert job.run(SNAPSHOT).billed == Counter()
    assert len(snapshot(job)) == 4


def test_a_path_with_a_folder_is_relative_to_the_job_file(job: JobRuns) -> None:
    job.run({"output.snapshot": "tables/photos.parquet"})
    assert pq.read_table(job.folder / "tables" / "photos.parquet").num_rows == 4


def test_a_snapshot_that_cannot_be_written_is_exit_7_and_loses_nothing(job: JobRuns) -> None:
    (job.folder / "tables").write_text("a file in the way")
    session = job.run({"output.snapshot": "tables/current.parquet"})
    assert session.exit_code == 7
    assert "the snapshot" in session.message
    assert "current.parquet was not written" in session.message
    assert json.loads((job.output / "runs" / "latest.json").read_text())["exit_code"] == 0
    assert job.run().billed == Counter()
    assert len(snapshot(job)) == 4


def test_the_command_writes_it_where_the_flag_names_it(job: JobRuns) -> None:
    job.write_manifest()
    done = job.command("run", job.job_file(), "--snapshot", "mine.parquet", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert pq.read_table(job.folder / "mine.parquet").num_rows == 4


# ---------------------------------------------------------------------------------- interrupted runs


def test_a_run_that_a_signal_ended_writes_what_is_current(job: JobRuns) -> None:
    job.emulator.configure(latency_seconds=0.3)
    with signal_at_first_answer(job.emulator, signal.SIGTERM):
        session = job.run({"limits.concurrency": 1})
    assert session.exit_code == 143
    assert len(snapshot(job)) == len(job.table("results")) > 0


async def _cancelled_with_answers(job: JobRuns) -> None:
    task = asyncio.create_task(batchvision.run_async(job.job({"limits.concurrency": 1}), environ=job.environ))
    while not job.emulator.bill().entries:
        await asyncio.sleep(0.001)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_run_writes_what_is_current_before_it_raises(job: JobRuns) -> None:
    job.write_manifest()
    job.emulator.configure(latency_seconds=0.3)
    anyio.run(_cancelled_with_answers, job)
    assert len(snapshot(job)) == len(job.table("results")) > 0


def test_a_run_in_a_notebook_writes_the_snapshot(job: JobRuns) -> None:
    job.write_manifest()

    async def cell() -> None:
        batchvision.run(job.job(), environ=job.environ)

    asyncio.run(cell())
    assert len(snapshot(job)) == 4


# ---------------------------------------------------------------------------------- the job


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("current.csv", "is no local .parquet file"),
        ("s3://bucket/current.parquet", "is no local .parquet file"),
        ("out/results/current.parquet", "lies among the tables of the output"),
        ("photos.parquet", "would be read as the manifest"),
    ],
)
def test_a_snapshot_in_a_wrong_place_is_refused(job: JobRuns, path: str, words: str) -> None:
    job.write_manifest()
    pq.write_table(pa.table({"sku": ["r1"], "image": ["r1.png"], "title": ["shoe"]}), job.folder / "photos.parquet")
    settings = {"output.snapshot": path}
    if path == "photos.parquet":
        settings |= {"manifest.path": path, "output.snapshot": str(job.folder / path)}
    with pytest.raises(JobInvalid, match=words):
        job.job(settings)
