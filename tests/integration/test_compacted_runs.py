"""Runs on an output that was compacted: the parts become few, and no answer is asked for again."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from fake_provider import FakeProvider

from batchvision.checkpoint import SealAfter, compact, is_merged
from batchvision.checkpoint import writer as writer_module
from batchvision.commands.verify import verify


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SealAfter", lambda: SealAfter(attempts=3))


def dated(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("run_date=*/*.parquet"))}


def merged(output: Path) -> list[bool]:
    return [is_merged(Path(path).name) for path in dated(output)]


def test_a_run_leaves_its_parts_as_they_were_sealed(job_runs):
    job_runs.rows(60)
    summary = job_runs.run(FakeProvider(), limits__concurrency=4)
    output = job_runs.folder / "out"
    assert len(merged(output)) > 4
    assert not any(merged(output))
    assert {part.path for part in summary.parts if part.table != "failures"} == set(dated(output))


def test_after_a_compaction_a_run_sends_nothing_and_changes_no_byte(job_runs):
    job_runs.rows(60)
    job_runs.run(FakeProvider(), limits__concurrency=4)
    output = job_runs.folder / "out"
    compact(output)
    assert merged(output) == [True, True]
    before, again = dated(output), FakeProvider()
    assert job_runs.run(again).exit_code == 0
    assert (dated(output), again.asked) == (before, [])


def test_a_second_compaction_merges_what_the_next_run_has_sealed_and_verify_finds_all_right(job_runs):
    output = job_runs.folder / "out"
    for rows in (30, 60):
        job_runs.rows(rows)
        job_runs.run(FakeProvider(), limits__concurrency=4)
        compact(output)
    assert all(merged(output))
    assert sorted(row["row_id"] for row in job_runs.table("results")) == sorted(f"r{n}" for n in range(60))
    assert anyio.run(verify, output).exit_code == 0
