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
    ],
)
def test_an_invalid_pilot_is_refused_and_sends_nothing(
    tmp_path: Path, job: Path, emulator: RunningEmulator, flags: tuple[str, ...], says: str
) -> None:
    done = Workbench(tmp_path).call("plan", job, *flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert emulator.bill().requests == 0
