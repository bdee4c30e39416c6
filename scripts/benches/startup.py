"""What one waits for before anything happens, and what a run of URLs holds in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benches.measure import CLIENT_CORE, Server, client, served, table
from benches.process import at_home

TRIES_A_ROUND = 5
FEW_ROWS = 10


def bench(chosen: Namespace, folder: Path) -> None:
    tries = chosen.rounds * TRIES_A_ROUND
    with served() as server:
        first = [_first_request(server, job) for job in _jobs(folder, server, tries)]
        nothing, help_ = [], []
        for _ in range(tries):
            nothing.append(_seconds(["-c", "pass"]))
            help_.append(_seconds(["-m", "batchvision", "--help"]))
        rows = chosen.rows or 20_000
        peak = _peak_of_a_run(chosen, folder, server, rows)
    table(
        f"Starting, median (and best) of {tries}",
        ["", "seconds", "best"],
        [
            ["python -c pass", *_two(nothing)],
            ["batchvision --help", *_two(help_)],
            [f"batchvision run, {FEW_ROWS} rows: from its start to the first request at the server", *_two(first)],
        ],
    )
    table(f"Peak memory of a run of {rows:,} URLs, 256 in flight", ["", "MiB"], [["batchvision", f"{peak:.0f}"]])


def _two(seconds: Sequence[float]) -> list[str]:
    return [f"{median(seconds):.3f}", f"{min(seconds):.3f}"]


def _environ() -> dict[str, str]:
    """A user's: pip compiles what it installs, and a checkout is compiled when it first runs, unless this says no."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**ours, "XAI_API_KEY": "bench-key-0000"}


def _command(arguments: Sequence[str], **more: Any) -> None:
    """On the client's core, and quiet."""
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env=_environ(),
        preexec_fn=lambda: at_home(CLIENT_CORE),
        **more,
    )


def _seconds(arguments: Sequence[str]) -> float:
    began = time.perf_counter()
    _command(arguments)
    return time.perf_counter() - began


def _jobs(folder: Path, server: Server, count: int) -> list[str]:
    """Job files over one small manifest, each with an output of its own."""
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
    """Of the command, whose process is its own. What its parent holds when it is started is far less."""
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
