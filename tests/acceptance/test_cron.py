"""A job as cron starts it: no terminal, no HOME, LANG=C, a short PATH, and folders with non-ASCII names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb
import pytest
from harness import Workbench
from notice_receiver import Receiver, listening
from prometheus_client.parser import text_string_to_metric_families
from test_main_job import wait_for

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

LOADED = "SELECT row_id, answer_label FROM batchvision_results WHERE in_manifest ORDER BY row_id"


@pytest.fixture
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with listening() as receiver:
        yield receiver


class Cron:
    """A folder with a job, and the surroundings that cron gives to its commands."""

    def __init__(self, folder: Path, base_url: str) -> None:
        folder.mkdir()
        self.bench = Workbench(folder)
        self.folder = folder
        self.environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C", "LC_ALL": "C"}
        self.environment |= {"SHELL": "/bin/sh", "XAI_API_KEY": "emulator-key"}
        self.base_url = base_url

    def job(self, rows: int = 4, faults: Mapping[int, str] | None = None, **sections: str) -> None:
        """Write ``größen.toml`` and its manifest."""
        manifest = self.bench.manifest(self.bench.rows(rows, faults=faults), "größen.csv")
        provider = f'base_url = "{self.base_url}"\nparameters = {{ max_tokens = 100 }}'
        parts = {"provider": provider, "answer": 'labels = ["café", "straße"]', **sections}
        self.bench.job(manifest, "größen.toml", **parts)

    def line(self, command: str) -> list[str]:
        return ["/bin/sh", "-c", f"cd '{self.folder}' && exec {command}"]

    def start(self, command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            self.line(command),
            cwd="/",
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            encoding="utf-8",
            start_new_session=True,
        )

    def call(self, command: str) -> tuple[int, str, str]:
        process = self.start(command)
        out, err = process.communicate(timeout=110)
        return process.returncode, out, err


@pytest.fixture
def cron(tmp_path: Path, emulator: RunningEmulator) -> Cron:
    return Cron(tmp_path / "nächtliche Fotos 写真", f"{emulator.url}/xai/v1")


def test_a_cron_line_runs_loads_reports_pings_and_counts(cron: Cron, receiver: Receiver) -> None:
    cron.job(
        rows=12,
        faults={3: "refusal"},
        load='to = "duckdb:///größen.db"',
        notify='ping_url = "env:PING_URL"',
        output='snapshot = "heute.parquet"',
    )
    manifest = cron.folder / "größen.csv"
    manifest.write_text(manifest.read_text(encoding="utf-8") + "fehlt,images/fehlt.png,x,\n", encoding="utf-8")
    cron.environment["PING_URL"] = f"{receiver.url}/ping"

    code, out, err = cron.call("batchvision run größen.toml --quiet --json --if-locked skip --metrics-file größen.prom")
    assert code == 3, err
    assert out.count("\n") == 1
    summary = json.loads(out)
    assert (summary["rows_completed"], summary["failures_by_kind"]) == (11, {"refused": 1, "image_unreadable": 1})
    assert "refused" in err
    assert "Traceback" not in err

    with duckdb.connect(str(cron.folder / "größen.db"), read_only=True) as database:
        loaded = dict(database.execute(LOADED).fetchall())
        failed = database.execute("SELECT row_id FROM batchvision_failures ORDER BY row_id").fetchall()
    assert len(loaded) == 11
    assert set(loaded.values()) <= {"café", "straße"}
    assert failed == [("fehlt",), ("row-00003",)]

    families = text_string_to_metric_families((cron.folder / "größen.prom").read_text(encoding="utf-8"))
    samples = {(each.name, each.labels.get("state")): each.value for family in families for each in family.samples}
    assert samples["batchvision_run_rows", "completed"] == 11
    assert samples["batchvision_run_exit_code", None] == 3

    assert receiver.paths == ["/ping/start", "/ping/fail"]
    assert json.loads(receiver.received[1][2])["rows_completed"] == 11

    code, _, err = cron.call("batchvision report größen.toml -o bericht.html")
    assert code == 0, err
    page = (cron.folder / "bericht.html").read_text(encoding="utf-8")
    assert "fehlt" in page
    assert "straße" in page

    code, _, err = cron.call("batchvision load größen.toml")  # without news
    assert code == 0, err
    assert (cron.folder / "out" / "heute.parquet").exists()


# ---------------------------------------------------------------------------------- every exit code

RUN = "batchvision run größen.toml --log-format text"


def test_0_every_row_has_an_answer(cron: Cron) -> None:
    cron.job()
    assert cron.call(f"{RUN} --quiet") == (0, "", "")


def test_1_an_unexpected_error(cron: Cron) -> None:
    cron.job()
    (cron.folder / "sitecustomize.py").write_text(
        "import batchvision.commands.run as command\n\n"
        "async def run_async(*_, **__):\n    raise ZeroDivisionError('planted')\n\n"
        "command.run_async = run_async\n"
    )
    cron.environment["PYTHONPATH"] = str(cron.folder)
    code, _, err = cron.call(RUN)
    assert code == 1, err
    assert "planted" in err
    assert "Traceback" not in err


def test_2_a_wrong_job(cron: Cron) -> None:
    cron.job(limits="conkurrency = 3")
    code, _, err = cron.call(RUN)
    assert code == 2, err
    assert "limits.conkurrency" in err


def test_3_some_rows_failed(cron: Cron) -> None:
    cron.job(faults={1: "refusal"})
    assert cron.call(RUN)[0] == 3


def test_4_a_limit_of_the_job(cron: Cron) -> None:
    cron.job(limits="max_cost_usd = 0.0001")
    code, _, err = cron.call(RUN)
    assert code == 4, err
    assert "max_cost_usd" in err


def test_5_the_provider_refuses_the_key(cron: Cron) -> None:
    cron.job()
    cron.environment["XAI_API_KEY"] = "bad-key-0123456789"
    code, _, err = cron.call(RUN)
    assert code == 5, err
    assert "bad-key" not in err


def test_6_tickets_are_open(cron: Cron, emulator: RunningEmulator) -> None:
    emulator.configure(deferred_seconds=3_600.0)
    cron.job(delivery='lane = "deferred"')
    first = cron.start(RUN)
    wait_for(lambda: emulator.bill().generated == 4, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)
    code, _, err = cron.call(
        f"{RUN} --base-url {emulator.url}/openai/v1"
    )  # tickets are collected where they were given
    assert code == 6, err


def test_7_the_disk_fails(cron: Cron) -> None:
    cron.job()
    code, _, err = cron.call(f"sh -c 'ulimit -f 16; exec {RUN}'")
    assert code == 7, err
    assert "Traceback" not in err


def test_8_the_load_fails(cron: Cron) -> None:
    cron.job(load='to = "duckdb:///nirgendwo/größen.db"')
    code, _, err = cron.call(RUN)
    assert code == 8, err
    assert "batchvision load" in err


def test_11_another_run_holds_the_output(cron: Cron, emulator: RunningEmulator) -> None:
    emulator.configure(latency_seconds=30.0)
    cron.job()
    first = cron.start(RUN)
    wait_for(lambda: list((cron.folder / "out" / ".batchvision").glob("*/journal*")), first)
    assert cron.call(RUN)[0] == 11
    assert cron.call(f"{RUN} --quiet --if-locked skip") == (0, "", "")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate(timeout=30)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_129_130_and_143_a_signal(cron: Cron, emulator: RunningEmulator, number: int, code: int) -> None:
    emulator.configure(latency_seconds=0.3)
    cron.job(rows=40, limits="concurrency = 2")
    process = cron.start(RUN)
    wait_for(lambda: emulator.bill().generated >= 2, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
