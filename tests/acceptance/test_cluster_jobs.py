"""The files of job arrays are right by their own tools, and their numbers fit together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "jobs" / "cluster"
SLURM = CLUSTER / "slurm-array.sh"
BIN = Path(sys.executable).parent


def shards_of(text: str) -> tuple[int, int]:
    """N and K of the command."""
    found = re.search(r"--shard auto/(\d+) --shards-at-once (\d+)", text)
    assert found is not None
    return int(found[1]), int(found[2])


def test_kubernetes_accepts_the_indexed_job() -> None:
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(CLUSTER / "indexed-job.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "passed" in done.stdout + done.stderr) == (0, True)


def test_the_indexed_job_has_a_pod_for_each_shard_and_runs_as_many_at_a_time_as_it_says() -> None:
    job = yaml.safe_load((CLUSTER / "indexed-job.yaml").read_text())["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == (
        "Indexed",
        *shards_of(container["args"][0]),
    )
    (rule,) = [each for each in job["podFailurePolicy"]["rules"] if each["action"] == "FailJob"]
    assert set(rule["onExitCodes"]["values"]) == {1, 2, 5, 7}


@pytest.mark.parametrize("command", [["bash", "-n"], [str(BIN / "shellcheck")]])
def test_the_shell_and_shellcheck_accept_the_array_script(command: list[str]) -> None:
    done = subprocess.run([*command, str(SLURM)], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_array_has_a_task_for_each_shard_and_runs_as_many_at_a_time_as_it_says() -> None:
    text = SLURM.read_text()
    found = re.search(r"^#SBATCH --array=0-(\d+)%(\d+)$", text, re.MULTILINE)
    assert found is not None
    assert (int(found[1]) + 1, int(found[2])) == shards_of(text)


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (3, 0), (4, 4), (5, 5), (143, 143)])
def test_the_array_script_runs_the_shard_of_its_task_and_passes_the_exit_code_on(
    tmp_path: Path, code: int, expected: int
) -> None:
    for name, body in {"srun": 'exec "$@"', "batchvision": f'echo "$XAI_API_KEY $*"; exit {code}'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "key.env").write_text("XAI_API_KEY=key-of-the-file\n")
    environ = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(tmp_path)}
    done = subprocess.run([SLURM], env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.split()[:3]) == (expected, ["key-of-the-file", "run", "shoes.toml"])
