"""Known answers measure a run. They are never sent, buy nothing again, and may come after everything is paid."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sklearn.metrics as sk
from PIL import Image

from batchvision.checkpoint import OutputView
from batchvision.commands.run import run
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.manifest import open_manifest
from batchvision.records import RunSummary
from batchvision.runner.known_answers import known_answers, right_answers
from batchvision.secrets import Secrets

LABELS = ("shoe", "bag", "hat", "other")
SCHEMA = {
    "type": "object",
    "required": ["count", "is_new"],
    "properties": {"count": {"type": "integer"}, "is_new": {"type": "boolean"}},
}


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


class Catalogue:
    """A job whose manifest gets a column of known answers later."""

    def __init__(self, folder: Path, emulator: RunningEmulator, rows: int, **answer: Any) -> None:
        self.folder = folder
        self.emulator = emulator
        self.rows = [{"id": f"r{number}", "image": "red.png", "title": f"thing {number}"} for number in range(rows)]
        self.answer = answer or {"labels": list(LABELS)}
        self.prompt: dict[str, Any] = {"user": "Which category? {title}"}
        Image.new("RGB", (40, 30), "red").save(folder / "red.png")

    def job(self, **answer: Any) -> Job:
        self.table("photos.csv", self.rows)
        settings = {
            "name": "catalogue",
            "manifest": {"path": "photos.csv", "id": "id"},
            "prompt": self.prompt,
            "answer": {**self.answer, **answer},
            "provider": {"name": "emulator", "model": "grok-4.3", "base_url": f"{self.emulator.url}/v1"},
            "output": {"path": "out"},
        }
        return Job.from_mapping(settings, self.folder)

    def run(self, **answer: Any) -> RunSummary:
        return run(self.job(**answer), environ={})

    def table(self, name: str, rows: list[dict[str, str]]) -> None:
        with (self.folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    def answers(self, column: str = "answer_label") -> dict[str, Any]:
        rows = (row for batch in OutputView(self.folder / "out").rows("results") for row in batch.to_pylist())
        return {row["row_id"]: row[column] for row in rows}


def other_than(label: str) -> str:
    return LABELS[(LABELS.index(label) + 1) % len(LABELS)]


def test_answers_known_later_measure_as_in_sklearn_and_buy_nothing(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=500)
    before = catalogue.run()
    assert before.accuracy == {}
    answers = catalogue.answers()
    for number, row in enumerate(catalogue.rows):
        row["gold"] = other_than(answers[row["id"]]) if number % 8 == 3 else answers[row["id"]].upper()
        if number % 10 == 9:
            row["gold"] = ""
    after = catalogue.run(expected="gold")
    assert (after.requests_sent, after.recipe_id, after.exit_code) == (0, before.recipe_id, 0)
    known = [(row["gold"].lower(), answers[row["id"]]) for row in catalogue.rows if row["gold"]]
    expected, answered = zip(*known, strict=True)
    found = after.accuracy["label"]
    names = [each["label"] for each in found["labels"]]
    assert found["rows"] == 450
    assert found["accuracy"]["value"] == pytest.approx(sk.accuracy_score(expected, answered))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(expected, answered, average="macro", zero_division=0))
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(expected, answered))
    assert found["matrix"] == sk.confusion_matrix(expected, answered, labels=names).tolist()
    assert len(found["wrong"]) == sum(one != other for one, other in known)
    assert found["wrong"][0] == {"row_id": "r3", "expected": other_than(answers["r3"]), "answered": answers["r3"]}


def test_a_file_of_known_answers_measures_as_a_column_does(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=12)
    catalogue.run()
    answers = catalogue.answers()
    catalogue.table("gold.csv", [{"row_id": f"r{number}", "answer": answers[f"r{number}"]} for number in range(5)])
    found = catalogue.run(expected_file="gold.csv").accuracy["label"]
    assert (found["rows"], found["right"]) == (5, 5)


def test_a_saved_review_measures_also_answers_that_are_only_known_to_be_wrong(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=4)
    catalogue.run()
    answers = catalogue.answers()
    review = [
        {"row_id": "r0", "answer": answers["r0"], "verdict": "right", "given": answers["r0"]},
        {"row_id": "r1", "answer": "", "verdict": "wrong", "given": answers["r1"]},
        {"row_id": "r2", "answer": other_than(answers["r2"]), "verdict": "wrong", "given": answers["r2"]},
        {"row_id": "r3", "answer": "", "verdict": "wrong", "given": other_than(answers["r3"])},  # asked again since
    ]
    catalogue.table("review.csv", review)
    found = catalogue.run(expected_file="review.csv").accuracy["label"]
    assert (found["rows"], found["right"]) == (3, 1)
    assert [each["row_id"] for each in found["wrong"]] == ["r1", "r2"]


def test_the_wrong_rows_of_a_review_are_missed_where_answers_are_compared(
    tmp_path: Path, emulator: RunningEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=2)
    review = [
        {"row_id": "r0", "answer": "hat", "verdict": "wrong", "given": "shoe"},
        {"row_id": "r1", "answer": "", "verdict": "wrong", "given": "bag"},
    ]
    catalogue.table("review.csv", review)
    job = catalogue.job(expected_file="review.csv")
    assert right_answers(job, open_manifest(job), Secrets()) == {"r0": {"label": "hat"}}
    assert "the verdict on 1 row is wrong and the right answer is missing" in caplog.text


def test_the_verdict_right_is_enough_for_a_known_answer(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=3)
    catalogue.run()
    answers = catalogue.answers()
    rows = [{"row_id": each, "answer": "", "verdict": "Right", "given": answers[each]} for each in ("r0", "r1")]
    rows.append({"row_id": "r2", "answer": "", "verdict": "", "given": answers["r2"]})
    catalogue.table("review.csv", rows)
    found = catalogue.run(expected_file="review.csv").accuracy["label"]
    assert (found["rows"], found["right"]) == (2, 2)


def test_a_verdict_that_is_no_verdict_names_its_row(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=1)
    catalogue.table("review.csv", [{"row_id": "r0", "answer": "", "verdict": "shoe", "given": "bag"}])
    with pytest.raises(JobInvalid, match=r"verdict of row r0 is 'shoe'; it is right, wrong or empty"):
        job = catalogue.job(expected_file="review.csv")
        known_answers(job, open_manifest(job), Secrets())


def test_a_review_of_several_properties_has_json_answers(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=3, schema=SCHEMA)
    catalogue.run()
    answers = catalogue.answers("output_json")
    other = json.dumps(json.loads(answers["r1"]) | {"count": 999})
    review = [
        {"row_id": "r0", "answer": answers["r0"], "verdict": "right", "given": answers["r0"]},
        {"row_id": "r1", "answer": other, "verdict": "wrong", "given": answers["r1"]},
        {"row_id": "r2", "answer": "", "verdict": "wrong", "given": answers["r2"]},  # which property is not known
    ]
    catalogue.table("review.csv", review)
    found = catalogue.run(expected_file="review.csv").accuracy
    assert [(found[name]["rows"], found[name]["right"]) for name in SCHEMA["properties"]] == [(2, 1), (2, 2)]


def test_a_row_that_shows_the_image_of_an_example_does_not_count(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=3)
    Image.new("RGB", (40, 30), "blue").save(tmp_path / "blue.png")
    catalogue.rows[0]["image"] = "blue.png"
    catalogue.prompt["example"] = [{"user": "Which category?", "images": ["blue.png"], "answer": "hat"}]
    for row in catalogue.rows:
        row["gold"] = "shoe"
    assert catalogue.run(expected="gold").accuracy["label"]["rows"] == 2


def test_a_failed_row_with_a_known_answer_is_unanswered(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=3)
    catalogue.rows[1]["title"] = "shoe [[fault:refusal]]"
    for row in catalogue.rows:
        row["gold"] = "shoe"
    found = catalogue.run(expected="gold").accuracy["label"]
    assert (found["rows"], found["unanswered"]) == (2, 1)


def test_each_property_of_a_schema_is_measured_by_its_type(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=4, schema=SCHEMA)
    catalogue.run()
    counts, news = catalogue.answers("answer_count"), catalogue.answers("answer_is_new")
    for row in catalogue.rows:
        row |= {"gold_count": f"{counts[row['id']]}.0", "gold_new": "Yes" if news[row["id"]] else "no"}
    catalogue.rows[0]["gold_count"] = "999"
    found = catalogue.run(expected={"count": "gold_count", "is_new": "gold_new"}).accuracy
    assert (found["count"]["right"], found["is_new"]["right"]) == (3, 4)


def test_a_known_answer_of_another_type_names_its_row(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=2, schema=SCHEMA)
    for row in catalogue.rows:
        row["gold"] = "many"
    with pytest.raises(JobInvalid, match=r"known answer of row r0 for count is 'many'"):
        job = catalogue.job(expected={"count": "gold"})
        known_answers(job, open_manifest(job), Secrets())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"expected": "gold"}, r"several properties \(count, is_new\): name the column of each"),
        ({"expected": {"colour": "gold"}}, r"no property colour; there are: count, is_new"),
        ({"expected_file": "gone.csv"}, r"answer.expected_file: there is no file"),
        ({"expected": {"count": "a"}, "expected_file": "b.csv"}, r"both set; keep one"),
    ],
)
def test_known_answers_that_cannot_be_are_problems_of_the_job(
    tmp_path: Path, emulator: RunningEmulator, answer: dict[str, Any], message: str
) -> None:
    with pytest.raises(JobInvalid, match=message):
        Catalogue(tmp_path, emulator, rows=1, schema=SCHEMA).job(**answer)


def test_a_manifest_without_the_column_of_known_answers_is_refused(tmp_path: Path, emulator: RunningEmulator) -> None:
    with pytest.raises(JobInvalid, match=r"has no column 'gold', which \[answer\] expected names"):
        Catalogue(tmp_path, emulator, rows=1).run(expected="gold")


def report_of(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "batchvision", "report", "out", "-o", "report.html", *flags]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_fail_under_exits_3_only_where_the_accuracy_is_lower(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=20)
    catalogue.run()
    answers = catalogue.answers()
    for row in catalogue.rows:
        row["gold"] = other_than(answers[row["id"]]) if row["id"] in ("r5", "r6") else answers[row["id"]]
    catalogue.run(expected="gold")
    lower, equal = report_of(tmp_path, "--fail-under", "0.91"), report_of(tmp_path, "--fail-under", "0.9")
    assert (lower.returncode, equal.returncode) == (3, 0)
    assert "label: 90.0% of 20 known rows are right" in lower.stderr
    assert "lower than --fail-under 0.91" in lower.stderr
    assert "lower" not in equal.stderr
    assert (tmp_path / "report.html").exists()


def test_fail_under_fails_for_one_property_of_several(tmp_path: Path, emulator: RunningEmulator) -> None:
    catalogue = Catalogue(tmp_path, emulator, rows=4, schema=SCHEMA)
    catalogue.run()
    counts, news = catalogue.answers("answer_count"), catalogue.answers("answer_is_new")
    for row in catalogue.rows:
        row |= {"gold_count": str(counts[row["id"]]), "gold_new": "yes" if news[row["id"]] else "no"}
    catalogue.rows[0]["gold_count"] = "999"
    catalogue.run(expected={"count": "gold_count", "is_new": "gold_new"})
    found = report_of(tmp_path, "--fail-under", "0.9")
    assert found.returncode == 3
    assert "count: 75.0% of 4 known rows" in found.stderr
    assert "is_new" not in found.stderr


def test_fail_under_needs_known_answers(tmp_path: Path, emulator: RunningEmulator) -> None:
    Catalogue(tmp_path, emulator, rows=2).run()
    found = report_of(tmp_path, "--fail-under", "0.9")
    assert found.returncode == 2
    assert "answer.expected" in found.stderr
    assert not (tmp_path / "report.html").exists()


def test_the_report_shows_measures_and_the_wrong_rows_with_their_images(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    from batchvision.commands.report import collect, html_of

    catalogue = Catalogue(tmp_path, emulator, rows=20)
    catalogue.run()
    answers = catalogue.answers()
    for row in catalogue.rows:
        row["gold"] = other_than(answers[row["id"]]) if row["id"] == "r5" else answers[row["id"]]
    catalogue.run(expected="gold")
    report = collect(tmp_path / "out", rows=4)
    (wrong,) = [card for card in report.cards if card.expected is not None]
    assert (wrong.row_id, wrong.expected) == ("r5", other_than(answers["r5"]))
    assert wrong.thumbnail is not None
    page = html_of(report)
    assert "95.0% of 20 known rows are right" in page
    assert "kappa" in page
