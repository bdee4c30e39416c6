"""``limits.min_accuracy``: known rows are asked first, and a run whose answers are too often wrong stops early."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from batchvision.checkpoint import OutputView
from batchvision.commands.run import run
from batchvision.emulator import RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.records import RunSummary
from batchvision.runner.feed import Selection

LABELS = ("shoe", "bag")
ROWS, KNOWN = 600, 200


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread() as running:
        yield running


class Shop:
    """The last rows have known answers. The prompt names the answer, which is wrong in every ``wrong``th known row."""

    def __init__(self, folder: Path, emulator: RunningEmulator, wrong: int) -> None:
        self.folder, self.emulator = folder, emulator
        self.limits: dict[str, Any] = {"min_accuracy": "90%"}
        self.user = "Which category? {says}"
        self.lane = "online"
        Image.new("RGB", (40, 30), "red").save(folder / "red.png")
        self.write(wrong)

    def write(self, wrong: int) -> None:
        with (self.folder / "photos.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "image", "says", "gold"])
            for number in range(ROWS):
                gold = LABELS[number % 2] if number >= ROWS - KNOWN else ""
                says = LABELS[(number + (number % wrong == 0)) % 2]
                writer.writerow([f"r{number}", "red.png", f"{says} of row {number}", gold])

    def job(self, **limits: Any) -> Job:
        return Job.from_mapping(
            {
                "name": "shop",
                "manifest": {"path": "photos.csv", "id": "id"},
                "prompt": {"user": self.user},
                "answer": {"labels": list(LABELS), "expected": "gold"},
                "provider": {"name": "emulator", "model": "grok-4.3", "base_url": f"{self.emulator.url}/v1"},
                "delivery": {"lane": self.lane},
                "limits": {**self.limits, **limits},
                "output": {"path": "out", "on_recipe_change": "redo"},
            },
            self.folder,
        )

    def run(self, selection: Selection | None = None, **limits: Any) -> RunSummary:
        return run(self.job(**limits), selection=selection, environ={})

    def answered(self) -> list[int]:
        rows = (row for batch in OutputView(self.folder / "out").rows("results") for row in batch.to_pylist())
        return [int(row["row_id"][1:]) for row in rows]


def assert_adds_up(summary: RunSummary) -> None:
    assert summary.rows_completed + summary.rows_failed + summary.rows_pending == ROWS
    assert summary.rows_left == 0


def test_a_run_with_too_many_wrong_answers_stops_after_the_first_known_rows(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    shop = Shop(tmp_path, emulator, wrong=2)
    summary = shop.run()
    assert (summary.exit_code, summary.stop_reason, summary.requests_sent) == (4, "accuracy_too_low", 50)
    assert min(shop.answered()) >= ROWS - KNOWN
    assert "of the first 50 known rows are right, at most" in (summary.message or "")
    assert "limits.min_accuracy is 90%; look at the wrong rows (`batchvision report" in (summary.message or "")
    assert "--set limits.min_accuracy=" in (summary.message or "")
    assert summary.accuracy["label"]["rows"] == 50
    assert_adds_up(summary)


def test_tickets_of_known_rows_are_collected_before_other_rows_are_asked(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    shop = Shop(tmp_path, emulator, wrong=2)
    shop.lane = "deferred"
    summary = shop.run()
    assert (summary.exit_code, summary.stop_reason, summary.requests_sent) == (4, "accuracy_too_low", 50)
    assert summary.tickets_open == 0


def test_a_rerun_of_a_stopped_run_sends_nothing_and_a_lower_limit_lets_it_go_on(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    shop = Shop(tmp_path, emulator, wrong=2)
    recipe_id = shop.run().recipe_id
    again = shop.run()
    assert (again.exit_code, again.stop_reason, again.requests_sent) == (4, "accuracy_too_low", 0)
    assert_adds_up(again)
    lower = shop.run(min_accuracy="20%")
    assert (lower.exit_code, lower.requests_sent, lower.recipe_id) == (0, ROWS - 50, recipe_id)


def test_answers_to_another_prompt_do_not_count(tmp_path: Path, emulator: RunningEmulator) -> None:
    shop = Shop(tmp_path, emulator, wrong=2)
    shop.run()
    shop.write(wrong=30)
    shop.user = "Which category is it? {says}"
    summary = shop.run()
    assert (summary.exit_code, summary.requests_sent) == (0, ROWS)


def test_a_run_that_is_right_often_enough_asks_each_row_once(tmp_path: Path, emulator: RunningEmulator) -> None:
    shop = Shop(tmp_path, emulator, wrong=20)
    summary = shop.run()
    assert (summary.exit_code, summary.stop_reason, summary.requests_sent) == (0, None, ROWS)
    assert sorted(shop.answered()) == list(range(ROWS))
    assert summary.accuracy["label"]["accuracy"]["value"] == 0.95
    assert_adds_up(summary)


def test_known_rows_that_fail_are_not_asked_again_by_a_later_pass(tmp_path: Path, emulator: RunningEmulator) -> None:
    shop = Shop(tmp_path, emulator, wrong=20)
    path = tmp_path / "photos.csv"
    path.write_text(path.read_text().replace("of row 555,", "[[fault:bad_request]],"))
    summary = shop.run(retry_failed="all")
    assert (summary.rows_failed, summary.rows_completed) == (1, ROWS - 1)
    assert summary.requests_sent == ROWS
    again = shop.run(retry_failed="all")
    assert (again.requests_sent, again.rows_failed) == (1, 1)
    assert_adds_up(again)


def test_a_complete_output_is_not_stopped(tmp_path: Path, emulator: RunningEmulator) -> None:
    shop = Shop(tmp_path, emulator, wrong=2)
    shop.run(min_accuracy=None)
    summary = shop.run()
    assert (summary.exit_code, summary.requests_sent) == (0, 0)


def test_a_trial_asks_its_own_rows_and_is_not_stopped(tmp_path: Path, emulator: RunningEmulator) -> None:
    shop = Shop(tmp_path, emulator, wrong=2)
    summary = shop.run(Selection(limit=100))
    assert (summary.stop_reason, summary.requests_sent) == (None, 100)
    assert sorted(shop.answered()) == list(range(100))


def test_the_limit_is_no_part_of_the_recipe_and_needs_known_answers(tmp_path: Path, emulator: RunningEmulator) -> None:
    shop = Shop(tmp_path, emulator, wrong=2)
    assert shop.job().recipe.recipe_id == shop.job(min_accuracy=None).recipe.recipe_id
    for value in (50, "50", 0.9, "190%", True):
        with pytest.raises(JobInvalid, match=r"min_accuracy.*90%"):
            shop.job(min_accuracy=value)
    with pytest.raises(JobInvalid, match=r"limits.min_accuracy needs known answers"):
        Job.from_mapping(
            {
                "name": "shop",
                "manifest": {"path": "photos.csv"},
                "prompt": {"user": "Which?"},
                "provider": {"name": "emulator", "model": "grok-4.3"},
                "limits": {"min_accuracy": "90%"},
            },
            tmp_path,
        )
