"""Runs contenders one after the other in rounds, keeps the medians, prints tables, and names the machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from benches.process import cores

CLIENT_CORE, SERVER_CORE = cores()
PACKAGES = ("batchvision", "aiohttp", "httpx", "openai", "pyarrow", "pybase64")


@dataclass(frozen=True, slots=True)
class Server:
    """The canned provider, in its own process."""

    url: str

    def set(self, **settings: Any) -> None:
        """Set the behaviour of the server and clear its record."""
        self._ask(json.dumps(settings).encode())

    def told(self) -> dict[str, Any]:
        return self._ask(None)

    def _ask(self, body: bytes | None) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url}/bench", body, timeout=60) as response:
            document: dict[str, Any] = json.loads(response.read())
            return document


@contextmanager
def served() -> Iterator[Server]:
    command = [sys.executable, "-m", "benches.server", json.dumps(SERVER_CORE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.terminate()


@dataclass(frozen=True, slots=True)
class Contender:
    """One line of a table: ``client`` is its name in ``client.py``. ``server``: settings of its own."""

    title: str
    client: str
    spec: Mapping[str, Any]
    server: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """The measurements of one contender. ``told`` is the record of the server."""

    rows: int
    seconds: float
    cpu_seconds: float
    peak_mib: float
    more: Mapping[str, Any] = field(default_factory=dict)
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds

    @property
    def cpu_ms_per_row(self) -> float:
        return self.cpu_seconds * 1000 / self.rows


def client(name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    """Run one function of ``client.py`` and return the document that it printed."""
    command = [sys.executable, "-m", "benches.client", name, json.dumps({**spec, "core": CLIENT_CORE})]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


def measured(contender: Contender, server: Server | None, turn: int) -> Result:
    if server is not None:
        server.set(**contender.server)
    spec = {**contender.spec, "url": server.url if server else "http://127.0.0.1:9"}
    if "output" in spec:
        spec["output"] = f"{spec['output']}-{turn}"
    found = client(contender.client, spec)
    fixed = {name: found.pop(name) for name in ("rows", "seconds", "cpu_seconds", "peak_mib")}
    return Result(**fixed, more=found, told=server.told() if server else {})


def interleaved(contenders: Sequence[Contender], rounds: int, server: Server | None) -> dict[str, list[Result]]:
    """Every contender once a round, so that a noisy minute hits all of them."""
    results: dict[str, list[Result]] = {contender.title: [] for contender in contenders}
    for turn in range(rounds):
        for contender in contenders:
            began = time.perf_counter()
            results[contender.title].append(measured(contender, server, turn))
            say(f"  round {turn + 1}: {contender.title} ({time.perf_counter() - began:.0f} s)")
    return results


def medians(results: Sequence[Result], name: str) -> float:
    return float(median(getattr(result, name) for result in results))


def median_ratio(over: Sequence[Result], under: Sequence[Result], name: str) -> float:
    """The median of the ratios of the rounds. Both halves of a ratio are measured one after the other."""
    return float(median(getattr(a, name) / getattr(b, name) for a, b in zip(over, under, strict=True)))


# ---------------------------------------------------------------------------------- saying


def say(text: str) -> None:
    """Progress of the measurement, apart from its tables."""
    sys.stderr.write(text + "\n")


def table(title: str, heads: Sequence[str], lines: Sequence[Sequence[str]], note: str = "") -> None:
    """A Markdown table that is a table on a terminal too."""
    widths = [max(len(cell) for cell in column) for column in zip(heads, *lines, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(w) if n == 0 else cell.rjust(w) for n, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 1) + ("-" if n == 0 else ":") for n, width in enumerate(widths))
    print(f"\n### {title}\n\n{line(heads)}\n|{rule}|")
    print("\n".join(line(cells) for cells in lines))
    if note:
        print(f"\n{note}")
    sys.stdout.flush()


def head(arguments: Sequence[str]) -> None:
    """Print the command, the machine and the time."""
    pins = f"client on core {CLIENT_CORE}, server on core {SERVER_CORE}"
    if CLIENT_CORE is None:
        pins = "not pinned: this machine cannot, or has one core"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    print(f"## scripts/bench {' '.join(arguments)}\n")
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_processor()}, {os.cpu_count()} cores, {platform.platform()}")
    print(f"Python {platform.python_version()}, {', '.join(_versions())}, commit {_commit()}")
    print(f"{pins}; load before: {load}")
    sys.stdout.flush()


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        try:
            yield f"{name} {version(name)}"
        except PackageNotFoundError:
            yield f"no {name}"


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "processor unknown"


def _commit() -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        asked = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(
            asked, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, text=True
        ).stdout.strip()
    return "unknown"
