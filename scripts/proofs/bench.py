"""One output to be hard on: rows, a job, an emulator that keeps the bill, and ways to start, kill and finish a run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import Workbench

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from proofs.victim import Plan

PATIENCE_SECONDS = 120.0
#: The environment of child processes: they import the code beside this script.
PATHS = os.pathsep.join(
    str(Path(__file__).resolve().parents[2] / folder) for folder in (".", "scripts", "tests/acceptance")
)


@dataclass
class Killed:
    """A process that has ended: ``code`` is negative for a signal. ``last_words`` as the victim said them."""

    code: int
    stderr: str
    stdout: str = ""

    @property
    def was_killed(self) -> bool:
        return self.code in (-signal.SIGKILL, 128 + signal.SIGKILL)

    @property
    def last_words(self) -> str:
        return next((line for line in self.stderr.splitlines() if line.startswith("victim:")), "")


@dataclass
class Bench:
    """``lane``'s job over ``rows`` rows, in a folder of its own."""

    folder: Path
    lane: str
    row_count: int = 40
    concurrency: int = 8
    latency_seconds: tuple[float, float] = (0.01, 0.06)
    timeout_seconds: float = 40.0
    faults: dict[int, str] = field(default_factory=dict)  #: of rows, by number
    out: Path | None = None  #: where the output goes instead of beside the job
    emulator: RunningEmulator = field(init=False)
    job: Path = field(init=False)

    def __enter__(self) -> Bench:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.workbench = Workbench(self.folder)
        self.emulator = start_in_thread(
            EmulatorOptions(ledger_entries=100_000, latency_seconds=self.latency_seconds, deferred_seconds=(0.05, 0.4))
        )
        self.manifest = self.workbench.rows(self.row_count, faults=self.faults)
        limits = f"concurrency = {self.concurrency}\nrequest_timeout_seconds = {self.timeout_seconds}"
        self.job = self.workbench.job(self.workbench.manifest(self.manifest), limits=limits)
        return self

    def __exit__(self, *exc: object) -> None:
        self.emulator.stop()

    @property
    def output(self) -> Path:
        return self.out or self.folder / "out"

    @property
    def flags(self) -> list[str]:
        return [
            "run",
            str(self.job),
            "--base-url",
            self.emulator.url + "/xai/v1",
            "--lane",
            self.lane,
            "--out",
            str(self.output),
            "--recut",
            "--json",
        ]

    # ---------------------------------------------------------------------------- starting

    def start(self, plan: Plan | None = None, strace: Sequence[str] = (), flags: Sequence[str] = ()) -> Running:
        """The real command; with a plan, the same inside a victim. ``strace``: its arguments, if it runs under it."""
        own = [sys.executable, "-m", "batchvision"]
        if plan is not None:
            own = [sys.executable, "-m", "proofs.victim", plan.argument()]
        environment = {**self.workbench.environment(), "PYTHONPATH": PATHS}
        process = subprocess.Popen(
            [*strace, *own, *self.flags, *flags],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return Running(process)

    def finish(self, plan: Plan | None = None) -> dict[str, Any]:
        """Run until the command ends by itself; its summary. The exit code is inside."""
        ended = self.start(plan).wait()
        if not ended.stdout.strip():
            raise AssertionError(f"the rerun ended with exit {ended.code} and said: {ended.stderr}")
        summary: dict[str, Any] = json.loads(ended.stdout)
        return summary

    def kill_at_random(self, luck: random.Random, plan: Plan | None = None, flags: Sequence[str] = ()) -> Killed:
        """SIGKILL after a random share of the open rows, or at a random time before the first request."""
        running = self.start(plan, flags=flags)
        if luck.random() < 0.25:  # start-up and recovery
            time.sleep(luck.uniform(0.2, 1.6))
        else:
            before = self.emulator.bill().requests + self.emulator.bill().polls
            wanted = luck.randint(1, self.row_count if self.lane == "online" else 3 * self.row_count)
            running.wait_until(lambda: self.emulator.bill().requests + self.emulator.bill().polls >= before + wanted)
            time.sleep(luck.uniform(0, 0.05))
        running.process.kill()
        return running.wait()


@dataclass
class Running:
    """A process under way."""

    process: subprocess.Popen[str]

    def wait(self, patience_seconds: float = PATIENCE_SECONDS) -> Killed:
        out, err = self.process.communicate(timeout=patience_seconds)
        return Killed(self.process.returncode, err, out)

    def wait_until(self, condition: Callable[[], bool]) -> bool:
        """False: the process ended first."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if self.process.poll() is not None:
                return False
            if time.monotonic() > until:
                raise AssertionError("waited in vain")
            time.sleep(0.005)
        return True
