"""The steps of docs/accuracy.md, as a user types them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Workbench
from PIL import Image

from batchvision.emulator import RunningEmulator, start_in_thread

PAGE = (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text(encoding="utf-8")


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread() as running:
        yield running


@pytest.fixture
def job(tmp_path: Path, emulator: RunningEmulator) -> Path:
    """One row in five gets a wrong answer: the prompt names the answer that the emulator gives."""
    bench = Workbench(tmp_path)
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    rows = [
        {
            "sku": f"r{number}",
            "image": "red.png",
            "title": f"{('shoe', 'bag')[(number + (number % 5 == 0)) % 2]} {number}",
            "hint": "",
            "gold": ("shoe", "bag")[number % 2],
        }
        for number in range(200)
    ]
    return bench.job(
        bench.manifest(rows),
        provider=f'base_url = "{emulator.base_url()}"',
        answer='labels = ["shoe", "bag", "other"]',
    )


def test_the_steps_of_the_page(tmp_path: Path, job: Path, emulator: RunningEmulator) -> None:
    bench = Workbench(tmp_path)
    stopped = bench.call("run", job, "--set", "answer.expected=gold", "--set", "limits.min_accuracy=98%")
    assert stopped.returncode == 4
    assert "known rows are right, at most" in stopped.stderr
    assert emulator.bill().requests <= 100
    bench.run(job)
    assert emulator.bill().requests == 200

    sample = ("--export-review", "review.csv", "--rows", "300", "--seed", "1")
    assert bench.call("report", "out", *sample).returncode == 0
    with (tmp_path / "review.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        is_wrong = int(row["row_id"][1:]) % 5 == 0
        row["verdict"] = "wrong" if is_wrong else "right"
        row["answer"] = "other" if is_wrong else ""
    with (tmp_path / "review.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    reviewed = bench.call("run", job, "--set", "answer.expected_file=review.csv")
    assert "80.0% of 200 known rows are right" in reviewed.stderr
    assert emulator.bill().requests == 200
    assert bench.call("report", "out", "--fail-under", "0.7").returncode == 0
    assert bench.call("report", "out", "--fail-under", "0.9").returncode == 3


def test_the_page_names_what_exists(tmp_path: Path, job: Path) -> None:
    words = Workbench(tmp_path)
    help_texts = "".join(words.call(command, "--help").stdout for command in ("plan", "run", "report"))
    for flag in set(re.findall(r"--[a-z][a-z-]+", PAGE)):
        assert flag in help_texts, flag
