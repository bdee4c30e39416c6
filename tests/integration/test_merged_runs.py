"""At the end of a run its many parts become few, unless somebody waits for that end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from fake_provider import FakeProvider, error
from sealed_output import ROWS, Output, an_output

from batchvision.checkpoint import SealAfter, Store, compaction, lineage
from batchvision.checkpoint import writer as writer_module
from batchvision.checkpoint.parts import sha256_of
from batchvision.commands.verify import verify
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.runner.closing import RunEnd
from batchvision.stopping import Interrupted


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SealAfter", lambda: SealAfter(attempts=3))
    monkeypatch.setattr(compaction, "FEW_PARTS", 1)


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


def dated(output: Path) -> dict[str, bytes]:
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("run_date=*/*.parquet"))}


def merged(output: Path) -> list[bool]:
    return [lineage.is_merged(Path(path).name) for path in dated(output)]


def test_a_run_ends_with_one_part_a_table_and_a_second_one_changes_no_byte(job_runs):
    job_runs.rows(60)
    summary = job_runs.run(FakeProvider(), limits__concurrency=4)
    output = job_runs.folder / "out"
    assert merged(output) == [True, True]
    listed = {part.path: part.sha256 for part in summary.parts if part.table != "failures"}
    assert listed == {path: sha256_of(output / path) for path in dated(output)}
    assert {part.table: part.rows for part in summary.parts if part.rows} == {"results": 60, "attempts": 60}
    before, again = dated(output), FakeProvider()
    assert job_runs.run(again).exit_code == 0
    assert (dated(output), again.asked) == (before, [])


def test_the_next_run_merges_what_it_has_sealed_itself_and_verify_finds_all_right(job_runs):
    job_runs.rows(30)
    job_runs.run(FakeProvider(), limits__concurrency=4)
    first = dated(job_runs.folder / "out")
    job_runs.rows(60)
    job_runs.run(FakeProvider(), limits__concurrency=4)
    output = job_runs.folder / "out"
    assert merged(output) == [True] * 4
    assert first.items() <= dated(output).items()
    assert sorted(row["row_id"] for row in job_runs.table("results")) == sorted(f"r{n}" for n in range(60))
    assert anyio.run(verify, output).exit_code == 0


def test_a_run_that_the_provider_has_stopped_still_merges(job_runs):
    job_runs.rows(200)
    empty = error(402, "Your team has no credits left", "insufficient_quota")
    summary = job_runs.run(FakeProvider(lambda asked: empty if asked.number > 60 else None), limits__concurrency=4)
    assert (summary.exit_code, summary.rows_pending > 0) == (5, True)
    assert merged(job_runs.folder / "out") == [True, True]


def test_a_run_that_is_out_of_time_does_not_merge(job_runs):
    job_runs.rows(200)
    provider = FakeProvider(latency_seconds=0.2)
    summary = job_runs.run(provider, limits__concurrency=4, limits__max_runtime_seconds=3.0)
    assert (summary.exit_code, summary.rows_pending > 0) == (4, True)
    found = merged(job_runs.folder / "out")
    assert len(found) > 4
    assert not any(found)


def as_merging_begins(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """``do``, then go on when the run has heard of it."""
    merge = Store.merge_parts

    async def merging(store: Store, goes_on: Callable[[], bool]) -> None:
        do()
        with anyio.fail_after(20):
            while goes_on():
                await anyio.sleep(0.005)
        await merge(store, goes_on)

    monkeypatch.setattr(Store, "merge_parts", merging)


@pytest.fixture
def output(tmp_path: Path, emulator: RunningEmulator) -> Output:
    return an_output(tmp_path, emulator.url)


def test_a_signal_while_parts_are_merged_ends_the_run_at_once_with_its_summary(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_merging_begins(monkeypatch, lambda: os.kill(os.getpid(), signal.SIGTERM))
    summary = output.run(limits__concurrency=2)
    assert (summary.exit_code, summary.rows_completed, summary.rows_pending) == (143, ROWS - 1, 0)
    assert len(merged(output.path)) >= 4
    assert not any(merged(output.path))
    assert list(output.path.rglob("*.tmp")) == []
    assert output.verify().exit_code == 0
    assert output.run().requests_sent == 0


def test_a_deadline_while_parts_are_merged_leaves_them_and_the_run_is_complete(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_merging_begins(monkeypatch, lambda: None)
    summary = output.run(limits__max_runtime_seconds=2.5, limits__concurrency=2)
    assert (summary.exit_code, summary.stop_reason) == (3, None)
    assert not any(merged(output.path))


def test_an_interrupted_run_merges_nothing(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    close = RunEnd.close

    async def interrupted(end: RunEnd, *, has_seen_all: bool) -> None:
        end._setup.stop.request(Interrupted("SIGINT", 2))
        await close(end, has_seen_all=has_seen_all)

    monkeypatch.setattr(RunEnd, "close", interrupted)
    assert output.run(limits__concurrency=2).exit_code == 130
    assert len(merged(output.path)) >= 4
    assert not any(merged(output.path))
