"""``plan --pilot`` and ``--sweep`` as a user types them, against the emulator."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Workbench
from PIL import Image

from batchvision.emulator import RunningEmulator, start_in_thread

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "words": {"type": "string"}},
    "required": ["colour", "words"],
    "additionalProperties": False,
}


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread() as running:
        yield running


@pytest.fixture
def job(tmp_path: Path, emulator: RunningEmulator) -> Path:
    bench = Workbench(tmp_path)
    rows = []
    for number in range(30):
        name = f"{number % 6}.png"
        Image.new("RGB", (80 + 300 * (number % 6), 200), ["red", "green"][number % 2]).save(tmp_path / name)
        rows.append({"sku": f"r{number}", "image": name, "title": f"t{number}", "hint": f"[[echo:r{number}]]"})
    (tmp_path / "answer.json").write_text(json.dumps(SCHEMA))
    return bench.job(
        bench.manifest(rows),
        provider=f'base_url = "{emulator.base_url()}"\nparameters = {{ max_tokens = 300 }}',
        answer='schema = "answer.json"',
    )


def test_a_pilot_asks_a_few_rows_and_the_run_asks_the_remaining_ones(
    tmp_path: Path, job: Path, emulator: RunningEmulator
) -> None:
    bench = Workbench(tmp_path)
    done = bench.call("plan", job, "--pilot", "8", "--sweep", "detail=low,auto", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["cost_usd"]["source"] == "pilot"
    assert told["pilot"]["rows"] == 8
    assert emulator.bill().requests == told["pilot"]["requests_sent"] == 16
    own, low = told["pilot"]["sweep"]
    assert own["setting"] == "detail=auto (the job's own)"
    assert low["cost_usd"]["expected"] < own["cost_usd"]["expected"]
    assert low["agreement"]["rows"] == 8
    swept_ticks = emulator.bill().ticks - round(told["pilot"]["cost_usd"] * 1e10)
    assert swept_ticks == 0, "what was spent is told to the tick"

    before_the_run = emulator.bill().ticks
    assert bench.run(job)["requests_sent"] == 22
    own_ticks = sum(row["cost_ticks"] for row in bench.table("results"))
    assert told["cost_usd"]["low"] * 1e10 <= own_ticks <= told["cost_usd"]["high"] * 1e10
    assert emulator.bill().ticks > before_the_run
    assert bench.call("verify", "out").returncode == 0


def test_in_words_and_a_second_time_for_nothing(tmp_path: Path, job: Path, emulator: RunningEmulator) -> None:
    bench = Workbench(tmp_path)
    first = bench.call("plan", job, "--pilot", "8", "--sweep", "detail=low")
    assert first.returncode == 0, first.stderr
    assert "95% sure" in first.stdout
    assert "8 requests" not in first.stdout
    assert "16 requests sent now" in first.stdout
    assert "detail=low" in first.stdout
    second = bench.call("plan", job, "--pilot", "8", "--sweep", "detail=low")
    assert "nothing sent now" in second.stdout
    assert emulator.bill().requests == 16


def test_a_run_under_a_swept_setting_after_its_sweep(tmp_path: Path, job: Path, emulator: RunningEmulator) -> None:
    bench = Workbench(tmp_path)
    assert bench.call("plan", job, "--pilot", "8", "--sweep", "detail=low").returncode == 0
    kept = bench.call("reparse", job, "--detail", "low")
    assert "8 rows of 30 got an answer that was stored before" in kept.stdout + kept.stderr
    summary = bench.run(job, "--detail", "low", "--on-recipe-change", "redo")
    assert summary["requests_sent"] == 22
    assert bench.call("verify", "out").returncode == 0


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--sweep", "detail=low"), "give --pilot N"),
        (("--pilot", "4", "--sweep", "limits.concurrency=1,2"), "cannot be swept"),
        (("--pilot", "4", "--sweep", "max_side=wide"), "max_side"),
        (("--pilot", "4", "--show-request", "1"), "two things"),
        (("--pilot", "4", "--sweep", "detail=low", "--margin", "3"), "--margin takes a part"),
        (("--pilot", "4", "--sweep", "user_file=gone.txt"), "there is no file"),
    ],
)
def test_an_invalid_pilot_is_refused_and_sends_nothing(
    tmp_path: Path, job: Path, emulator: RunningEmulator, flags: tuple[str, ...], says: str
) -> None:
    done = Workbench(tmp_path).call("plan", job, *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert emulator.bill().requests == 0


# ---------------------------------------------------------------------------------- known answers

LABELS = ("shoe", "bag", "hat")
#: The share of rows that each prompt answers wrongly. The longer prompt is the dearer one.
WRONG = {"short": 5, "middle": 20, "long": 20}


def labelled_job(bench: Workbench, emulator: RunningEmulator, rows: int) -> Path:
    """A job whose prompt names the answer that the emulator gives: one column and one file for each prompt."""
    Image.new("RGB", (40, 30), "red").save(bench.folder / "red.png")
    made = []
    for number in range(rows):
        gold = LABELS[number * 7919 % 10 // 5]
        says = {name: LABELS[2] if number * 7919 % share == 0 else gold for name, share in WRONG.items()}
        made.append({"sku": f"r{number}", "image": "red.png", "title": f"t{number}", "gold": gold, **says})
    for name, words in {"short": 1, "middle": 40, "long": 400}.items():
        (bench.folder / f"{name}.txt").write_text(f"{'please ' * words} choose for {{title}}: {{{name}}}")
    path = bench.job(
        bench.manifest(made),
        provider=f'base_url = "{emulator.base_url()}"\nparameters = {{ max_tokens = 300 }}',
        answer=f'labels = {json.dumps(LABELS)}\nexpected = "gold"',
    )
    path.write_text(path.read_text().replace('user = "Describe {title}. {hint}"', 'user_file = "long.txt"'))
    return path


def test_a_sweep_names_the_cheapest_prompt_that_is_good_enough(tmp_path: Path, emulator: RunningEmulator) -> None:
    bench = Workbench(tmp_path)
    path = labelled_job(bench, emulator, 500)
    flags = ("--pilot", "500", "--sweep", "user_file=short.txt,middle.txt")
    done = bench.call("plan", path, *flags, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["pilot"]
    assert [each["accuracy"]["value"] for each in found["sweep"]] == [0.95, 0.8, 0.95]
    assert found["decision"]["chosen"] == "user_file=middle.txt"
    assert found["accuracy"]["rows"] == found["known_rows"] == 500

    told = bench.call("plan", path, *flags)
    assert "accuracy  95.0% of 500 known rows are right; 95% sure: 92.7% to 96.6%" in told.stdout
    assert "user_file=middle.txt is the cheapest setting that is not worse than the best" in told.stdout
    assert "by more than 1%: 95% sure on 500 known rows" in told.stdout
    assert emulator.bill().requests == 1500


def test_a_sweep_of_few_known_rows_is_not_decided(tmp_path: Path, emulator: RunningEmulator) -> None:
    bench = Workbench(tmp_path)
    path = labelled_job(bench, emulator, 500)
    flags = ("--pilot", "60", "--sweep", "user_file=middle.txt")
    told = bench.call("plan", path, *flags)
    assert "not decided: 60 known rows cannot tell" in told.stdout
    assert "--pilot" in told.stdout.splitlines()[-1]
    assert "user_file=middle.txt is the cheapest" in bench.call("plan", path, *flags, "--margin", "10%").stdout
    assert emulator.bill().requests == 120


def test_rows_that_a_run_has_answered_are_swept_when_their_answers_become_known(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    bench = Workbench(tmp_path)
    path = labelled_job(bench, emulator, 40)
    assert bench.run(path)["requests_sent"] == 40
    told = bench.call("plan", path, "--pilot", "20", "--sweep", "user_file=middle.txt", "--json")
    assert emulator.bill().requests == 60
    assert [each["accuracy"]["rows"] for each in json.loads(told.stdout)["pilot"]["sweep"]] == [20, 20]


def test_schemas_are_swept_by_their_files(tmp_path: Path, job: Path, emulator: RunningEmulator) -> None:
    bench = Workbench(tmp_path)
    properties = {"colour": SCHEMA["properties"]["colour"]}  # type: ignore[index]  # a literal
    (tmp_path / "short.json").write_text(json.dumps({**SCHEMA, "properties": properties, "required": ["colour"]}))
    (tmp_path / "gold.csv").write_text(
        "row_id,colour\n" + "".join(f"r{n},{('red', 'green')[n % 2]}\n" for n in range(30))
    )
    flags = ("--set", "answer.expected_file=gold.csv", "--pilot", "8", "--sweep", "schema=short.json", "--json")
    done = bench.call("plan", job, *flags)
    assert done.returncode == 0, done.stderr
    own, short = json.loads(done.stdout)["pilot"]["sweep"]
    assert (own["accuracy"]["right"], short["accuracy"]["right"]) == (8, 8)
    assert short["cost_usd"]["expected"] < own["cost_usd"]["expected"]


def test_a_prompt_of_other_columns_needs_rows_with_a_name(tmp_path: Path, emulator: RunningEmulator) -> None:
    bench = Workbench(tmp_path)
    path = labelled_job(bench, emulator, 4)
    path.write_text(path.read_text().replace('id = "sku"', ""))
    done = bench.call("plan", path, "--pilot", "4", "--sweep", "user_file=short.txt")
    assert done.returncode == 2
    assert "its prompt reads other columns" in done.stderr
    assert emulator.bill().requests == 0
