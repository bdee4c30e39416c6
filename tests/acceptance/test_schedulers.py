"""The scheduler files are right by their own tools, and a run from cron does what they rely on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from foreign.installed import INSTALL_SECONDS, Venv
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import StopRun

SCHEDULERS = Path(__file__).parents[2] / "jobs" / "schedulers"
BIN = Path(sys.executable).parent
#: Codes after which a person must act first.
FOR_A_PERSON = {1, 2, 5, 7}
LATER = {4, 6, 8}

# ---------------------------------------------------------------------------------- the files


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_service_and_the_timer(tmp_path: Path) -> None:
    for name in ("batchvision.service", "batchvision.timer"):
        text = (SCHEDULERS / name).read_text()
        (tmp_path / name).write_text(
            text.replace("/srv/photos/.venv/bin/batchvision", shutil.which("true") or "/bin/true")
        )
    command = ["systemd-analyze", "verify", *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_kubernetes_accepts_the_cron_job() -> None:
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(SCHEDULERS / "cronjob.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, "passed" in done.stdout + done.stderr) == (0, True)


def test_hadolint_accepts_the_dockerfile() -> None:
    done = subprocess.run([BIN / "hadolint", SCHEDULERS / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_files_of_the_image_are_in_the_repository() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (SCHEDULERS / "Dockerfile").read_text(), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert names
    assert [name for name in names if not (SCHEDULERS.parents[1] / name).exists()] == []


def test_no_scheduler_takes_a_stop_by_a_limit_for_success() -> None:
    service = (SCHEDULERS / "batchvision.service").read_text()
    success = set(map(int, re.findall(r"^SuccessExitStatus=(.+)$", service, re.MULTILINE)[0].split()))
    prevented = set(map(int, re.findall(r"^RestartPreventExitStatus=(.+)$", service, re.MULTILINE)[0].split()))
    assert (success, prevented) == ({3}, FOR_A_PERSON)
    job = yaml.safe_load((SCHEDULERS / "cronjob.yaml").read_text())["spec"]["jobTemplate"]["spec"]
    (rule,) = [each for each in job["podFailurePolicy"]["rules"] if each["action"] == "FailJob"]
    assert set(rule["onExitCodes"]["values"]) == FOR_A_PERSON
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_the_codes_of_the_files_are_those_of_the_errors() -> None:
    stops = {each.exit_code for each in _all_below(StopRun)}
    assert stops <= FOR_A_PERSON | LATER | {11}


def _all_below(error: type[StopRun]) -> Iterator[type[StopRun]]:
    for each in error.__subclasses__():
        yield each
        yield from _all_below(each)


@pytest.mark.heavy("airflow")
@pytest.mark.timeout(INSTALL_SECONDS)
def test_airflow_imports_the_dag_and_each_exit_code_means_what_the_page_says(tmp_path: Path) -> None:
    venv = Venv(Path(sys.prefix) / "airflow", ["apache-airflow>=3"])
    program = f"""
import importlib.util, json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(SCHEDULERS)!r})
spec = importlib.util.spec_from_file_location("airflow_dag", {str(SCHEDULERS / "airflow_dag.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
found = {{}}
for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 11, 130, 143):
    try:
        module.outcome(code, {{"rows_completed": 1, "rows_failed": 0}})
        found[code] = "success"
    except Exception as error:
        found[code] = type(error).__name__
print(json.dumps([list(bag.dags), list(bag.import_errors.values()), found]))
"""
    environ = {"AIRFLOW_HOME": str(tmp_path), "PATH": os.environ["PATH"], "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    subprocess.run([venv.bin / "airflow", "db", "migrate"], env=environ, check=True, capture_output=True, timeout=600)
    done = subprocess.run(
        [venv.bin / "python", "-c", program], env=environ, capture_output=True, text=True, check=True, timeout=600
    )
    dags, errors, found = json.loads(done.stdout.splitlines()[-1])
    assert (dags, errors) == (["batchvision_shoes"], [])
    assert found == {
        **dict.fromkeys(("0", "3"), "success"),
        **dict.fromkeys(("4", "6", "8"), "AirflowException"),
        **dict.fromkeys(("1", "2", "5", "7", "130", "143"), "AirflowFailException"),
        "11": "AirflowSkipException",
    }


# ---------------------------------------------------------------------------------- a run from cron


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


class Night:
    """A folder with a non-ASCII name, and the line of the crontab that runs in it."""

    def __init__(self, folder: Path, emulator: RunningEmulator) -> None:
        self.folder = folder / "Föto 写真"
        self.folder.mkdir()
        self.metrics = self.folder / "shoes.prom"
        Image.new("RGB", (40, 30), "red").save(self.folder / "röt.png")
        self.rows(["shoe"] * 5)
        (self.folder / "key.env").write_text("OPENAI_API_KEY=emulator-key\n")
        (self.folder / "shoes.toml").write_text(
            f"""
[manifest]
path = "photos.csv"
id = "id"
[prompt]
user = "What is {{title}}?"
[provider]
name = "openai"
model = "m"
base_url = "{emulator.url}/v1"
prices = {{ input = 1, output = 2 }}
"""
        )

    def rows(self, titles: list[str]) -> None:
        lines = [f"r{number},röt.png,{title}" for number, title in enumerate(titles)]
        (self.folder / "photos.csv").write_text("\n".join(["id,image,title", *lines]) + "\n", encoding="utf-8")

    def run(self) -> subprocess.CompletedProcess[str]:
        """The crontab's own command, with cron's environment: no terminal, no HOME, a short PATH."""
        line = (SCHEDULERS / "crontab").read_text().strip().splitlines()[-1]
        command = line.split(None, 5)[5].replace("/srv/photos", f"'{self.folder}'")
        command = command.replace("/var/lib/node_exporter/shoes.prom", f"'{self.metrics}'")
        environ = {"PATH": f"{BIN}:/usr/bin:/bin", "LANG": "C"}
        return subprocess.run(
            ["/bin/sh", "-c", command],
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def gauges(self) -> dict[str, float]:
        families = text_string_to_metric_families(self.metrics.read_text(encoding="utf-8"))
        return {
            sample.name.removeprefix("batchvision_run_") + sample.labels.get("state", ""): sample.value
            for family in families
            for sample in family.samples
        }


def test_a_night_without_faults_prints_nothing_so_that_cron_sends_no_mail(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    night = Night(tmp_path, emulator)
    done = night.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (night.gauges()["exit_code"], night.gauges()["rowscompleted"]) == (0, 5)


def test_a_night_with_failed_rows_prints_what_failed_and_what_to_do(tmp_path: Path, emulator: RunningEmulator) -> None:
    night = Night(tmp_path, emulator)
    night.rows(["shoe", "bag [[fault:refusal]]"])
    done = night.run()
    assert (done.returncode, done.stdout) == (3, "")
    assert "1 of 2 rows have answers, 1 failed" in done.stderr
    assert "refused" in done.stderr and "batchvision show" in done.stderr
    assert night.gauges()["rowsfailed"] == 1


def test_a_second_start_is_skipped_in_silence(tmp_path: Path, emulator: RunningEmulator) -> None:
    from batchvision.checkpoint import OutputLock

    night = Night(tmp_path, emulator)
    assert night.run().returncode == 0
    with OutputLock.take(night.folder / "out" / "shoes"):
        done = night.run()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_flag_a_second_start_is_exit_11(tmp_path: Path, emulator: RunningEmulator) -> None:
    from batchvision.checkpoint import OutputLock

    night = Night(tmp_path, emulator)
    assert night.run().returncode == 0
    with OutputLock.take(night.folder / "out" / "shoes"):
        command = [BIN / "batchvision", "run", "shoes.toml"]
        environ = {**os.environ, "OPENAI_API_KEY": "k"}
        done = subprocess.run(command, cwd=night.folder, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 11


def test_the_summary_is_one_line_where_stdout_is_no_terminal(tmp_path: Path, emulator: RunningEmulator) -> None:
    night = Night(tmp_path, emulator)
    command = [BIN / "batchvision", "run", "shoes.toml", "--json", "--quiet"]
    environ = {**os.environ, "OPENAI_API_KEY": "emulator-key"}
    done = subprocess.run(command, cwd=night.folder, env=environ, capture_output=True, text=True, check=False)
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["rows_completed"] == 5


def test_a_metrics_file_that_cannot_be_written_is_a_warning(tmp_path: Path, emulator: RunningEmulator) -> None:
    night = Night(tmp_path, emulator)
    night.metrics = night.folder / "gone" / "shoes.prom"
    done = night.run()
    assert done.returncode == 0
    assert "warning: " in done.stderr and "shoes.prom cannot be written" in done.stderr
