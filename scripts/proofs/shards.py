"""``scripts/shards``: 16 shards of one job, two at a time with ``--shards-at-once 2``. One is killed and run again.

While two shards send, they use the whole limit. Then ``verify`` passes, ``load`` gives one table, and ``latest.json``
describes the whole output.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from harness import Workbench, ticks_of

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

SHARDS, AT_ONCE, KILLED = 16, 2, 5


class Found(NamedTuple):
    """What the shards left. ``shares``: of its half of the limit, for each run that was not killed."""

    rows: int
    shares: tuple[float, ...]
    exit_codes: tuple[int, ...]
    results: int
    ambiguous: int
    ledger_ticks: int
    billed_ticks: int
    verify: subprocess.CompletedProcess[str]
    loaded: tuple[int, int]  #: rows, and rows with an id of their own
    latest: dict[str, Any]

    def problems(self, least_share: float) -> Iterator[str]:
        """A sentence for each figure that is not as promised."""
        if set(self.exit_codes) != {0}:
            yield f"a shard left with exit {max(self.exit_codes)}"
        if min(self.shares) < least_share:
            yield f"a shard used only {min(self.shares):.3f} of its half of the limit"
        if self.results != self.rows or self.loaded != (self.rows, self.rows):
            yield f"{self.results} answers of {self.rows} rows, and {self.loaded} were loaded"
        if self.verify.returncode:
            yield f"verify: {self.verify.stdout}{self.verify.stderr}"
        if not self.ledger_ticks <= self.billed_ticks:
            yield "the ledger has more than the bill"
        whole = {name: self.latest[name] for name in ("rows_total", "rows_completed", "rows_pending", "exit_code")}
        if list(whole.values()) != [self.rows, self.rows, 0, 0] or len(self.latest["shards"]) != SHARDS:
            yield f"latest.json is not about the whole: {whole}"


def prove(folder: Path, per_minute: float, rows_of_a_shard: int) -> Found:
    bench = Workbench(folder)
    rows = bench.rows(SHARDS * rows_of_a_shard)
    job = bench.job(bench.manifest(rows), limits=f"requests_per_minute = {per_minute}\nconcurrency = 64")
    with start_in_thread(EmulatorOptions(latency_seconds=0.05, ledger_entries=1_000_000)) as emulator:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            codes = list(pool.map(lambda number: _run(bench, job, emulator, number), range(SHARDS)))
        codes[KILLED] = _start(bench, job, emulator, KILLED).wait()
        bill = emulator.bill()
    attempts = bench.table("attempts")
    target = folder / "warehouse.duckdb"
    bench.call("load", "out", "--to", f"duckdb:///{target}")
    with duckdb.connect(str(target)) as warehouse:
        loaded = warehouse.execute("SELECT count(*), count(DISTINCT row_id) FROM batchvision_results").fetchone()
    assert loaded is not None
    return Found(
        rows=len(rows),
        shares=tuple(_shares(attempts, per_minute / 60 / AT_ONCE)),
        exit_codes=tuple(codes),
        results=len(bench.table("results")),
        ambiguous=sum(attempt["state"] == "ambiguous" for attempt in attempts),
        ledger_ticks=ticks_of(attempts),
        billed_ticks=bill.ticks,
        verify=bench.call("verify", "out"),
        loaded=(loaded[0], loaded[1]),
        latest=json.loads((bench.folder / "out" / "runs" / "latest.json").read_text()),
    )


def _start(bench: Workbench, job: Path, emulator: RunningEmulator, number: int) -> subprocess.Popen[bytes]:
    shard = ["--shard", f"{number}/{SHARDS}", "--shards-at-once", str(AT_ONCE), "--quiet"]
    command = bench.command("run", job, "--provider", "xai", "--base-url", f"{emulator.url}/xai/v1", *shard)
    return subprocess.Popen(command, cwd=bench.folder, env=bench.environment())


def _run(bench: Workbench, job: Path, emulator: RunningEmulator, number: int) -> int:
    """Run a shard to its end; kill one after it has sent some rows."""
    process = _start(bench, job, emulator, number)
    if number != KILLED:
        return process.wait()
    segments = bench.folder / "out" / ".batchvision" / f"{number}of{SHARDS}"
    while process.poll() is None and sum(path.stat().st_size for path in segments.glob("journal-*")) < 8_000:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    return process.wait()


def _shares(attempts: list[dict[str, Any]], per_second: float) -> Iterator[float]:
    """Each run's share of its part of the limit, between its first and its last request."""
    attempts = sorted(attempts, key=lambda attempt: (attempt["run_id"], attempt["sent_at"]))
    for _, group in groupby(attempts, key=lambda attempt: attempt["run_id"]):
        times = [attempt["sent_at"] for attempt in group if attempt["state"] == "ok"]
        if len(times) > len(attempts) / SHARDS / 2:  # a killed run and the rest of its shard are too short
            yield (len(times) - 1) / (times[-1] - times[0]).total_seconds() / per_second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-minute", type=float, default=3_000, help="the limit of the job")
    parser.add_argument("--rows", type=int, default=500, help="rows of a shard")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = prove(Path(folder), given.per_minute, given.rows)
    print(f"{found.rows:,} rows, {found.loaded[0]:,} loaded, {found.ambiguous} attempts ambiguous")
    print(f"share of the limit, by run: {min(found.shares):.3f} to {max(found.shares):.3f}")
    problems = list(found.problems(0.93))
    for problem in problems:
        print(f"FAILED: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
