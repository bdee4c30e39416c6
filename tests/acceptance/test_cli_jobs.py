"""The demo and the ready jobs run as they are shipped, and the README names commands that exist."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Workbench

from batchvision.cli import COMMANDS
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.samples import write_samples

HERE = Path(__file__).parents[2]
SAMPLES = HERE / "batchvision" / "sample_images" / "photos.csv"
SKUS = {line.partition(",")[0] for line in SAMPLES.read_text(encoding="utf-8").splitlines()[1:]}
JOBS = sorted((HERE / "jobs").glob("*.toml"))


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A copy of jobs/ with its sample images drawn."""
    folder = tmp_path_factory.mktemp("jobs")
    shutil.copytree(HERE / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("photos"))
    write_samples(folder / "jobs" / "photos")
    return Workbench(folder)


def test_the_ready_jobs_are_these() -> None:
    assert [job.stem for job in JOBS] == ["alt_text", "caption", "classify", "read_text"]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.stem)
def test_a_ready_job_answers_every_sample(job: Path, jobs: Workbench, emulator: RunningEmulator) -> None:
    to = ["--provider", "emulator", "--base-url", f"{emulator.url}/v1"]
    summary = jobs.run(f"jobs/{job.name}", *to)
    assert (summary["rows_total"], summary["rows_completed"]) == (len(SKUS), len(SKUS))
    results = jobs.table("results", f"out/{job.stem}")
    assert {row["row_id"] for row in results} == SKUS
    if job.stem != "caption":
        assert any(name.startswith("answer_") and value is not None for name, value in results[0].items())
    assert jobs.run(f"jobs/{job.name}", *to)["requests_sent"] == 0


def test_the_script_beside_the_jobs_draws_their_images(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "jobs").mkdir()
    shutil.copy(HERE / "jobs" / "draw_samples.py", tmp_path / "jobs")
    subprocess.run([sys.executable, tmp_path / "jobs" / "draw_samples.py"], check=True, capture_output=True)
    assert (tmp_path / "jobs" / "photos" / "photos.csv").exists()


def test_the_demo_prints_an_answer_for_every_sample_and_a_second_one_asks_nothing(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, key="")
    first = bench.call("demo", "--out", "out/demo")
    assert first.returncode == 0, first.stderr
    for sku in SKUS:
        assert sku in first.stdout
    assert "is no model" in first.stdout
    before = bench.fingerprint("out/demo")
    second = bench.call("demo", "--out", "out/demo")
    assert second.returncode == 0, second.stderr
    assert "nothing was sent" in second.stdout
    assert bench.fingerprint("out/demo") == before


# ---------------------------------------------------------------------------------- the README


def _readme() -> str:
    return (HERE / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_every_command_and_no_other() -> None:
    listed = re.findall(r"^\| `batchvision (\w+)[^`]*` \|", _readme(), re.MULTILINE)
    assert listed == list(dict.fromkeys(listed))
    assert set(listed) == set(COMMANDS)


def test_every_command_in_the_documents_exists_with_its_flags(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    texts = [_readme(), *(path.read_text(encoding="utf-8") for path in JOBS)]
    typed = {
        match.group(1).strip("` ")
        for text in texts
        for match in re.finditer(r"batchvision ((?:config )?[a-z]+(?: [^`#\n()]*)?)", text)
        if match.group(1).split()[0] in COMMANDS
    }
    helps = {name: bench.call(name, *(["show"] if name == "config" else []), "--help").stdout for name in COMMANDS}
    assert len(typed) > 10
    for line in typed:
        words = line.split()
        for flag in re.findall(r"--[a-z-]+", line):
            assert flag in helps[words[0]], f"batchvision {line}: there is no {flag}"


def test_the_readme_begins_with_the_two_scripts_each_in_a_block_of_its_own() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", _readme(), re.DOTALL)
    assert blocks[:2] == ["scripts/demo\n", "scripts/test\n"]
    for name in ("demo", "test", "check"):
        assert (HERE / "scripts" / name).stat().st_mode & 0o100
    ci = (HERE / ".ci" / "run").read_text(encoding="utf-8")
    assert "scripts/check" in ci
    assert "scripts/test" in ci


def test_every_exit_code_of_the_errors_is_in_the_readme() -> None:
    from batchvision.errors import StopRun

    table = _readme()
    codes = {error.exit_code for error in StopRun.__subclasses__()} | {0, 1, 3, 6}
    for code in codes:
        assert re.search(rf"^\| {code} \|", table, re.MULTILINE), f"exit code {code} is missing"
