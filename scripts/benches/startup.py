"""Measure the time until a run sends its first request, the CPU of ``--help``, and the peak memory of a run of URLs."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benches.measure import CLIENT_CORE, Server, client, served, table
from benches.process import at_home

TRIES_A_ROUND = 5
FEW_ROWS = 10


def bench(chosen: Namespace, folder: Path) -> None:
    tries = chosen.rounds * TRIES_A_ROUND
    with served() as server:
        first = [_first_request(server, job) for job in _jobs(folder, server, tries)]
        nothing, click, help_ = [], [], []
        for _ in range(tries):
            nothing.append(_used(["-c", "pass"]))
            click.append(_used(["-c", "import click"]))
            help_.append(_used(["-m", "batchvision", "--help"]))
        rows = chosen.rows or 20_000
        peak = _peak_of_a_run(chosen, folder, server, rows)
    table(
        f"Starting, median (and best) of {tries}",
        ["", "seconds", "best"],
        [
            ["python -c pass", *_two([each.seconds for each in nothing])],
            ["python -c 'import click'", *_two([each.seconds for each in click])],
            ["batchvision --help", *_two([each.seconds for each in help_])],
            [f"batchvision run, {FEW_ROWS} rows: from its start to the first request at the server", *_two(first)],
        ],
        f"CPU of batchvision --help: {_ratio(help_, click):.2f}x that of python -c 'import click' (medians).",
    )
    table(f"Peak memory of a run of {rows:,} URLs, 256 in flight", ["", "MiB"], [["batchvision", f"{peak:.0f}"]])


def _two(seconds: Sequence[float]) -> list[str]:
    return [f"{median(seconds):.3f}", f"{min(seconds):.3f}"]


def _environ() -> dict[str, str]:
    """The environment of a user, where Python keeps compiled modules."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**ours, "XAI_API_KEY": "bench-key-0000"}


def _command(arguments: Sequence[str], **more: Any) -> None:
    """Run Python on the client's core, without output."""
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=_environ(),
        preexec_fn=lambda: at_home(CLIENT_CORE),
        **more,
    )


class Used(NamedTuple):
    """Time and CPU of one process."""

    seconds: float
    cpu_seconds: float


def _used(arguments: Sequence[str]) -> Used:
    began, cpu = time.perf_counter(), _cpu_of_children()
    _command(arguments)
    return Used(time.perf_counter() - began, _cpu_of_children() - cpu)


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ratio(ours: Sequence[Used], theirs: Sequence[Used]) -> float:
    return median([each.cpu_seconds for each in ours]) / median([each.cpu_seconds for each in theirs])


def _jobs(folder: Path, server: Server, count: int) -> list[str]:
    """Job files with one small manifest, each with its own output."""
    where = {"folder": str(folder), "manifest": "few.parquet", "rows": FEW_ROWS}
    client("material", {"make": "urls", **where})
    outputs = [f"few-{turn}" for turn in range(count)]
    made: list[str] = client("material", {"make": "jobs", "url": server.url, "outputs": outputs, **where})["jobs"]
    return made


def _first_request(server: Server, job: str) -> float:
    """Both processes read the same monotonic clock."""
    server.set()
    began = time.monotonic()
    _command(["-m", "batchvision", "run", job, "--quiet"])
    first: float = server.told()["arrivals"][0]
    return first - began


def _peak_of_a_run(chosen: Namespace, folder: Path, server: Server, rows: int) -> float:
    """The median peak memory of the command in MiB."""
    where = {"folder": str(folder), "manifest": "urls.parquet", "rows": rows}
    client("material", {"make": "urls", **where})
    outputs = [f"peak-{turn}" for turn in range(chosen.rounds)]
    jobs = client("material", {"make": "jobs", "url": server.url, "outputs": outputs, **where})["jobs"]
    return median([_peak_mib(server, job) for job in jobs])


def _peak_mib(server: Server, job: str) -> float:
    server.set()
    run = subprocess.Popen([sys.executable, "-m", "batchvision", "run", job, "--quiet"], env=_environ())
    _, status, used = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    if run.returncode:
        raise RuntimeError(f"the run ended with exit code {run.returncode}")
    return used.ru_maxrss / 1024
