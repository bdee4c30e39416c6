"""A cascade: a second job reads the output of a first one, and asks again where ``manifest.where`` is true."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from job_runs import JobRuns, RunResult

import batchvision
from batchvision.checkpoint import OutputView
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.runner.feed import feed

FOUR = ("r1", "r2", "r3", "r4")


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture
def first(tmp_path: Path, emulator: RunningEmulator) -> JobRuns:
    job_runs = JobRuns(tmp_path, emulator)
    job_runs.rows("shoe", *FOUR)
    return job_runs


class SecondJob(JobRuns):
    """Reads ``out`` and writes ``second``, with nothing more in ``[manifest]`` than a user has to write."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.settings |= {"name": "second", "manifest.path": "out", "output.path": "second"}
        self.settings["prompt.user"] = "Describe {title} [[echo:{row_id}]]"
        del self.settings["manifest.id"], self.settings["manifest.keep"]

    @property
    def output(self) -> Path:
        return self.folder / "second"

    def ask(self, settings: dict[str, Any] | None = None) -> RunResult:
        return self.run(settings, manifest=self.folder / "out")

    def rows_found(self) -> dict[str, Any]:
        table = pa.table(batchvision.read(self.output, columns=["row_id", "image_ref", "in_manifest"]))
        return {row["row_id"]: row["image_ref"] for row in table.to_pylist() if row["in_manifest"]}


@pytest.fixture
def second(first: JobRuns) -> SecondJob:
    return SecondJob(first.folder, first.emulator)


def each(cell: str, *rows: str) -> Counter[tuple[str, str]]:
    return Counter((row, cell) for row in rows)


def test_the_second_job_asks_the_rows_of_the_first_under_their_ids_with_their_images(first, second) -> None:
    first.run()
    result = second.ask()
    assert (result.exit_code, result.billed) == (0, each("shoe", *FOUR))
    assert second.rows_found() == {row: [f"images/{row}.png"] for row in FOUR}


def test_only_rows_of_the_filter_are_asked_and_a_rerun_sends_nothing(first, second) -> None:
    first.rows("bag", "r2", "r3")
    first.run()
    where = {"manifest.where": "title = 'bag' AND cost_usd > 0"}
    assert second.ask(where).billed == each("bag", "r2", "r3")
    rerun = second.ask(where)
    assert (rerun.exit_code, rerun.billed, rerun.counts) == (0, Counter(), (2, 0, 0))


def test_a_changed_answer_of_the_first_job_asks_its_row_alone(first, second) -> None:
    first.run()
    second.ask()
    first.rows("boot", "r3")
    first.run()
    assert second.ask().billed == each("boot", "r3")


def test_rows_that_the_filter_drops_leave_the_manifest_and_keep_their_paid_answers(first, second) -> None:
    first.run()
    second.ask()
    assert second.ask({"manifest.where": "row_id <= 'r2'"}).billed == Counter()
    assert set(second.rows_found()) == {"r1", "r2"}
    assert second.ask().billed == Counter()
    assert set(second.rows_found()) == set(FOUR)


def test_rows_that_left_or_failed_in_the_first_job_are_not_asked(first, second) -> None:
    first.run()
    first.rows("[[fault:refusal:9]]", "r2")
    del first.cells["r4"]
    assert first.run().exit_code == 3
    assert second.ask().billed == each("shoe", "r1", "r3")


def test_kept_images_are_read_from_the_folder_of_the_first_job(first, second, tmp_path: Path) -> None:
    """The second job file may lie elsewhere: its images are those of the first job all the same."""
    first.run({"manifest.keep": ["title", "image"]})
    second.folder = tmp_path / "elsewhere"
    second.folder.mkdir()
    settings = {"manifest.path": str(first.output), "manifest.images": ["image"]}
    assert second.run(settings, manifest=first.output).billed == each("shoe", *FOUR)
    assert second.rows_found() == {row: [f"images/{row}.png"] for row in FOUR}


def test_a_root_of_the_second_job_counts(first, second) -> None:
    first.run()
    images = first.folder / "images"
    moved = first.folder / "moved"
    moved.mkdir()
    images.rename(moved / "images")
    assert second.ask({"manifest.root": "moved"}).billed == each("shoe", *FOUR)


def test_an_output_whose_images_are_gone_is_refused(first, second) -> None:
    first.run()
    path = first.output / "runs" / "latest.json"
    summary = json.loads(path.read_text())
    summary["config"]["manifest"]["root"] = "/nowhere/photos"
    path.write_text(json.dumps(summary))
    with pytest.raises(JobInvalid, match=r"lay in /nowhere/photos, and there is no such folder.*manifest\.root"):
        second.job()
    path.unlink()
    with pytest.raises(JobInvalid, match=r"no run of the output .* has ended yet; run its job first"):
        second.job()


def test_a_column_that_the_first_job_does_not_have_is_named(first, second) -> None:
    first.run()
    refused = second.ask({"prompt.user": "Describe {titel}"})
    assert refused.exit_code == 2
    assert "has no column 'titel'" in refused.message
    assert "Did you mean 'title'?" in refused.message


def test_a_job_cannot_read_its_own_output(first) -> None:
    first.run()
    refused = first.run({"manifest.path": "out"}, manifest=first.output)
    assert refused.exit_code == 2
    assert "output.path is the manifest's own folder" in refused.message


def test_the_dear_model_is_asked_where_the_cheap_one_was_unsure(first, second) -> None:
    labels = {"answer.labels": ["shoe", "bag"], "answer.labels_confidence": True}
    for number in range(20):
        first.rows("shoe", f"photo{number}")
    assert first.run(labels).exit_code == 0
    table = pa.table(batchvision.read(first.output, columns=["row_id", "answer_label_confidence"])).to_pylist()
    unsure = {row["row_id"] for row in table if row["answer_label_confidence"] < 0.8}
    assert 0 < len(unsure) < 24
    result = second.ask({**labels, "manifest.where": "answer_label_confidence < 0.8"})
    assert {row for row, _ in result.billed} == unsure
    assert OutputView(second.output).count("results") == len(unsure)


def test_a_run_stops_where_the_first_output_changes_meanwhile(first, second, monkeypatch) -> None:
    first.run()
    path = first.output / "runs" / "latest.json"

    def feed_after_a_change(*arguments: Any) -> Any:
        path.write_text(path.read_text() + " ")
        return feed(*arguments)

    monkeypatch.setattr("batchvision.runner.passes.feed", feed_after_a_change)
    stopped = second.ask()
    assert stopped.exit_code == 4
    assert "(runs/latest.json) was changed while it was read" in stopped.message
    monkeypatch.undo()
    assert second.ask().exit_code == 0
