"""A review of a random sample gives the accuracy of all rows. A list of the least confident answers never does."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from scipy.stats import binomtest
from sealed_output import ROWS, Output, a_manifest, an_output

from batchvision.accuracy import REVIEW_COLUMNS, SampleKind, guarded, unguarded
from batchvision.cli.report import command
from batchvision.commands.redo import named_rows
from batchvision.commands.report import draw
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.manifest import open_manifest
from batchvision.runner.known_answers import known_answers
from batchvision.secrets import Secrets

LABELS = ["shoe", "bag", "hat"]
ANSWERED = ROWS - 1


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory, emulator: RunningEmulator) -> Output:
    answer = {"labels": LABELS, "labels_confidence": True}
    made = an_output(tmp_path_factory.mktemp("sampled"), emulator.url, answer=answer)
    made.run()
    return made


def invoke(output: Output, *flags: str) -> Result:
    return CliRunner().invoke(command, [str(output.path), *flags])


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def drawn(output: Output, rows: int, seed: int) -> list[str]:
    return [row.row_id for row in draw(output.path, SampleKind.RANDOM, rows, seed).rows]


def test_the_same_seed_draws_the_same_rows_and_a_larger_sample_begins_with_them(output: Output) -> None:
    assert drawn(output, 6, 3) == drawn(output, 6, 3) == drawn(output, 12, 3)[:6]
    assert drawn(output, 6, 3) != drawn(output, 6, 4)


def test_every_answered_row_is_equally_likely(output: Output) -> None:
    counts = Counter(row_id for seed in range(300) for row_id in drawn(output, 5, seed))
    assert counts.keys() == {row["row_id"] for row in output.rows("results")}
    expected = 300 * 5 / ANSWERED
    assert sum((each - expected) ** 2 / expected for each in counts.values()) < 48.3  # chi-squared, 22 df, p = 0.001


def test_the_file_has_the_answers_and_empty_cells_to_be_filled(output: Output, tmp_path: Path) -> None:
    done = invoke(output, "--export-review", str(tmp_path / "review.csv"), "--rows", "10", "--seed", "7")
    assert done.exit_code == 0, done.output
    answers = {row["row_id"]: row for row in output.rows("results")}
    rows = read(tmp_path / "review.csv")
    assert tuple(rows[0]) == REVIEW_COLUMNS
    assert [row["row_id"] for row in rows] == drawn(output, 10, 7)
    for row in rows:
        answer = answers[row["row_id"]]
        assert (row["given"], row["image"]) == (answer["answer_label"], answer["image_ref"][0])
        assert (row["answer"], row["verdict"], row["sample"]) == ("", "", "random")
    assert not (output.path / "report.html").exists()


def test_the_command_says_the_interval_of_such_a_sample(output: Output, tmp_path: Path) -> None:
    done = invoke(output, "--export-review", str(tmp_path / "r.csv"), "--rows", "10", "--seed", "7", "--json")
    interval = binomtest(9, 10).proportion_ci(method="wilson")
    document = json.loads(done.stdout)
    assert document["interval"] == pytest.approx({"value": 0.9, "low": interval.low, "high": interval.high})
    assert (document["sample"], document["rows"], document["rows_completed"]) == ("random", 10, ANSWERED)
    words = " ".join(done.stderr.split())
    assert f"10 of {ANSWERED} answered rows, drawn at random (seed 7)" in words
    assert f"the accuracy of all rows is from {interval.low:.1%} to {interval.high:.1%} (95% sure)" in words


def test_a_filled_sample_is_a_file_of_known_answers(tmp_path: Path, emulator: RunningEmulator) -> None:
    output = an_output(tmp_path, emulator.url, answer={"labels": LABELS})
    ids = ("=1+1", "-5", "'quoted", "plain", "@home")
    a_manifest(tmp_path, [f"{each},red.png,thing {number}" for number, each in enumerate(ids)])
    output.run()
    file = tmp_path / "review.csv"
    assert invoke(output, "--export-review", str(file)).exit_code == 0
    rows = read(file)
    assert {row["row_id"] for row in rows} == {"'=1+1", "'-5", "''quoted", "plain", "'@home"}
    for number, row in enumerate(rows):
        row["verdict"] = ("right", "wrong", "")[min(number, 2)]
    rows[4]["answer"] = next(label for label in LABELS if label != rows[4]["given"])
    write(file, rows)
    found = output.run(answer__expected_file="review.csv").accuracy["label"]
    assert (found["rows"], found["right"]) == (3, 1)
    assert {each["row_id"] for each in found["wrong"]} == {unguarded(rows[1]["row_id"]), unguarded(rows[4]["row_id"])}


def test_a_filled_sample_names_the_rows_to_ask_again(tmp_path: Path) -> None:
    file = tmp_path / "review.csv"
    rows = [("r1", "Wrong"), ("=2", "wrong"), ("'3", "wrong "), ("r4", "right"), ("r5", "")]
    write(file, [{"row_id": guarded(name), "verdict": verdict, "sample": "random"} for name, verdict in rows])
    assert named_rows(str(file)) == ("r1", "=2", "'3")


@pytest.mark.parametrize("text", ["=1", "+49", "-1", "@x", "'x", "''", "\t1", "plain", "", "a=1"])
def test_a_guarded_cell_is_no_formula_and_is_read_back(text: str) -> None:
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t"))
    assert unguarded(guarded(text)) == text


def test_the_least_confident_answers_come_first_and_give_no_interval(output: Output, tmp_path: Path) -> None:
    file = tmp_path / "doubtful.csv"
    done = invoke(output, "--export-review", str(file), "--least-confident", "--rows", "6", "--json")
    confidences = sorted(row["answer_label_confidence"] for row in output.rows("results"))
    rows = read(file)
    assert [float(row["confidence"]) for row in rows] == pytest.approx(confidences[:6])
    assert {row["sample"] for row in rows} == {"least_confident"}
    assert json.loads(done.stdout)["interval"] is None
    assert "They give no accuracy" in done.stderr
    assert "95% sure" not in done.stderr


def test_a_list_of_the_least_confident_answers_is_refused_as_known_answers(output: Output, tmp_path: Path) -> None:
    copy = output.copy(tmp_path / "copy")
    file = copy.folder / "doubtful.csv"
    invoke(copy, "--export-review", str(file), "--least-confident", "--rows", "6")
    write(file, [row | {"verdict": "right"} for row in read(file)])
    job = copy.job(answer__expected_file="doubtful.csv")
    with pytest.raises(JobInvalid, match="lists the least confident answers, which say nothing about the accuracy"):
        known_answers(job, open_manifest(job), Secrets())
    assert copy.run(answer__expected_file="doubtful.csv").accuracy == {}


def test_answers_without_confidence_cannot_be_ordered_by_it(tmp_path: Path, emulator: RunningEmulator) -> None:
    output = an_output(tmp_path, emulator.url, answer={"labels": LABELS})
    output.run()
    with pytest.raises(JobInvalid, match=r"answer\.labels_confidence = true"):
        draw(output.path, SampleKind.LEAST_CONFIDENT, 5)


def test_rows_that_left_the_manifest_are_not_drawn(tmp_path: Path, emulator: RunningEmulator) -> None:
    output = an_output(tmp_path, emulator.url, answer={"labels": LABELS})
    output.run()
    lines = (tmp_path / "photos.csv").read_text().splitlines()
    (tmp_path / "photos.csv").write_text("\n".join(lines[:11]) + "\n")
    output.run()
    sample = draw(output.path, SampleKind.RANDOM, 100)
    assert sample.rows_completed == 9
    assert {row.row_id for row in sample.rows} <= {f"r{number:02}" for number in range(10)}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--export-review", "r.csv", "--fail-under", "0.9"], "writes no page"),
        (["--least-confident"], "give both"),
    ],
)
def test_options_that_contradict_each_other_are_refused(output: Output, flags: list[str], message: str) -> None:
    done: Any = CliRunner().invoke(command, [str(output.path), *flags], standalone_mode=False)
    assert isinstance(done.exception, click.UsageError)
    assert message in done.exception.message
