"""Runs of a cron job for tests: one folder with manifest, images and job, changed and run again run after run.

The provider is an emulator on loopback. Each run says which requests it billed. A test can move the clock.
"""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pyarrow.parquet as pq
from PIL import Image

from batchvision.checkpoint import Disk, OutputView
from batchvision.commands.pilot import Pilot, pilot
from batchvision.commands.run import run_async
from batchvision.commands.show import rows_of
from batchvision.commands.verify import VerifyReport, verify
from batchvision.emulator import RunningEmulator
from batchvision.errors import BatchvisionError
from batchvision.job import Job
from batchvision.records import RunSummary
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.feed import Selection

KEY = "emulator-key"
#: A row and the cell that its prompt reads.
Asked = tuple[str, str]
#: A run that hands its requests in and ends before the answers are ready (see :meth:`Runs.hand_in`).
DEFERRED = {"delivery.lane": "deferred", "delivery.max_ticket_wait_seconds": 0.05}
READINGS_BEFORE_A_JUMP = 8


@dataclass(frozen=True)
class RunResult:
    """One run: exit code, summary (None: refused), the requests billed meanwhile, and the refusal's message."""

    exit_code: int
    summary: RunSummary | None
    billed: Counter[Asked]
    message: str = ""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Completed, failed, pending."""
        assert self.summary is not None, self.message
        return self.summary.rows_completed, self.summary.rows_failed, self.summary.rows_pending


@dataclass
class JobRuns:
    """The folder of a job. ``cells``: the cell that the prompt reads, by row. Other rows are not in the manifest.

    A cell may hold a marker: with ``[[fault:refusal:1]]`` the emulator refuses the first try of the row.
    """

    folder: Path
    emulator: RunningEmulator
    cells: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    key: str = KEY
    ahead: timedelta = timedelta()  #: how far the machine's clock is ahead of the true one
    jump: timedelta = timedelta()  #: of the clock, in the middle of each run
    readings: int = 0  #: of the clock in this run

    def __post_init__(self) -> None:
        self.settings = {
            "name": "nights",
            "manifest.path": "photos.csv",
            "manifest.id": "sku",
            "manifest.keep": ["title"],
            "prompt.user": "Describe {title} [[echo:{sku}]]",
            "provider.name": "xai",
            "provider.model": "grok-4.3",
            "provider.base_url": self.emulator.base_url("xai"),
            "output.path": "out",
            **self.settings,
        }
        (self.folder / "images").mkdir(exist_ok=True)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    # ---------------------------------------------------------------------------- between runs

    def rows(self, cell: str, *names: str) -> None:
        """These rows get this cell; rows that are new come to the manifest."""
        self.cells.update(dict.fromkeys(names, cell))

    def write_manifest(self, name: str = "photos.csv", cells: Mapping[str, str] | None = None) -> Path:
        """Header and rows, each with an image of its own."""
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["sku", "image", "title"])
        for row, cell in (self.cells if cells is None else cells).items():
            image = self.folder / "images" / f"{row}.png"
            if not image.exists() and image.parent.exists():
                Image.new("RGB", (20 + len(list(image.parent.iterdir())), 16), "red").save(image)
            table.writerow([row, f"images/{row}.png", cell])
        path = self.folder / name
        path.write_text(text.getvalue(), encoding="utf-8")
        return path

    @contextmanager
    def images_away(self) -> Iterator[None]:
        """The folder of images is not mounted."""
        away = (self.folder / "images").rename(self.folder / "images-away")
        yield
        away.rename(self.folder / "images")

    def moved_to(self, emulator: RunningEmulator) -> dict[str, Any]:
        """Settings of a run at another host."""
        return {"provider.base_url": emulator.base_url("xai")}

    # ---------------------------------------------------------------------------- a run

    def run(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        manifest: Mapping[str, str] | Path | None = None,
        selection: Selection | None = None,
        bill: Sequence[RunningEmulator] = (),
        disk: Disk | None = None,
        pilot_rows: int | None = None,
    ) -> RunResult:
        """Write the manifest and run the job, in this process. ``bill``: more emulators that may be asked.

        ``pilot_rows``: a pilot of so many rows, which has no summary.
        """
        if not isinstance(manifest, Path):
            self.write_manifest(cells=manifest)
        emulators = (self.emulator, *bill)
        before = sum(map(billed, emulators), Counter[Asked]())
        summary, exit_code, message = None, 0, ""
        job, self.readings = self.job(settings), 0
        dependencies = RunDependencies(now=self.now, disk=disk)
        try:
            if pilot_rows is not None:
                exit_code = anyio.run(self._pilot, job, pilot_rows, dependencies).exit_code
            else:
                summary = anyio.run(self._run, job, selection, dependencies)
                exit_code, message = summary.exit_code, summary.message or ""
        except BatchvisionError as refusal:
            exit_code, message = refusal.exit_code, str(refusal)
        return RunResult(exit_code, summary, sum(map(billed, emulators), Counter[Asked]()) - before, message)

    async def _run(self, job: Job, selection: Selection | None, dependencies: RunDependencies) -> RunSummary:
        return await run_async(job, selection=selection, environ=self.environ, dependencies=dependencies)

    async def _pilot(self, job: Job, rows: int, dependencies: RunDependencies) -> Pilot:
        return await pilot(job, rows, environ=self.environ, dependencies=dependencies)

    @property
    def environ(self) -> dict[str, str]:
        return {"XAI_API_KEY": self.key}

    def job(self, settings: Mapping[str, Any] | None = None) -> Job:
        return Job.from_mapping(self._table(settings), self.folder)

    def _table(self, settings: Mapping[str, Any] | None) -> dict[str, Any]:
        table: dict[str, Any] = {}
        for dotted, value in {**self.settings, **(settings or {})}.items():
            section, _, name = dotted.partition(".")
            if name:
                table.setdefault(section, {})[name] = value
            else:
                table[section] = value
        return table

    def job_file(self, settings: Mapping[str, Any] | None = None) -> Path:
        """The job as a file, for :meth:`command`; JSON's texts, numbers and lists are TOML's too."""
        table = self._table(settings)
        lines = [f"{name} = {json.dumps(value)}" for name, value in table.items() if not isinstance(value, dict)]
        for section, values in table.items():
            if isinstance(values, dict):
                lines += [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        path = self.folder / "job.toml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """``batchvision`` with these arguments, as cron calls it."""
        return subprocess.run(
            [sys.executable, "-m", "batchvision", *map(str, arguments)],
            cwd=self.folder,
            env={**os.environ, "XAI_API_KEY": self.key, "BATCHVISION_CACHE_DIR": str(self.folder / "cache")},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def now(self) -> datetime:
        self.readings += 1
        return datetime.now(UTC) + self.ahead + (self.jump if self.readings > READINGS_BEFORE_A_JUMP else timedelta())

    def hand_in(self, settings: Mapping[str, Any] | None = None) -> RunResult:
        """A run that leaves one ticket a row: the provider is not ready yet when it ends, and is afterwards."""
        self.emulator.configure(deferred_seconds=3_600.0)
        session = self.run({**DEFERRED, **(settings or {})})
        self.emulator.configure(deferred_seconds=0.0)
        make_ready(self.emulator)
        return session

    # ---------------------------------------------------------------------------- after the run

    def show(self, status: str = "completed") -> dict[str, str]:
        """By row: its kept cell, as ``show`` gives it."""
        rows = [row for batch in rows_of(self.output, status).batches for row in batch.to_pylist()]
        shown = {row["row_id"]: row["title"] for row in rows}
        assert len(shown) == len(rows), "a row is shown twice"
        return shown

    def verify(self) -> VerifyReport:
        return anyio.run(verify, self.output)

    def is_right(self) -> bool:
        """``verify`` finds nothing wrong, and its counts are those of the last run."""
        report = self.verify()
        latest = OutputView(self.output).latest()
        if not report.is_right or latest is None or report.manifest is None:
            return report.is_right
        found = report.manifest
        return (found.completed, found.failed, found.pending) == (
            latest.rows_completed,
            latest.rows_failed,
            latest.rows_pending,
        )

    def table(self, name: str) -> list[dict[str, Any]]:
        paths = sorted((self.output / name).rglob("part-*.parquet"))
        return [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]

    def states(self) -> Counter[str]:
        """Of the ledger's lines."""
        return Counter(row["state"] for row in self.table("attempts"))


def make_ready(emulator: RunningEmulator) -> None:
    """Every deferred answer may be collected from now on."""

    def ready() -> None:
        waiting = emulator._emulator._tickets._waiting
        waiting.update({name: replace(ticket, ready_at=0.0) for name, ticket in waiting.items()})

    emulator._inside(ready)


def waiting(emulator: RunningEmulator) -> dict[str, str]:
    """The ids of the answers that wait to be collected, by ticket."""
    tickets = emulator._emulator._tickets._waiting
    return emulator._inside(lambda: {name: ticket.entry.request_id for name, ticket in tickets.items()})


def billed(emulator: RunningEmulator) -> Counter[Asked]:
    """How often each row was billed with each cell."""
    return Counter(_asked(entry.text, entry.echo) for entry in emulator.bill().entries if entry.ticks)


def _asked(text: str, echo: str) -> Asked:
    return echo, text.removeprefix("Describe ").partition(" [[")[0]
