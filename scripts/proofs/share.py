"""``scripts/share``: three processes with one limit of requests, at the emulator. One of them is killed.

The granted slots show the limit and the parts. The emulator's arrivals show that requests leave at the slots.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from harness import Workbench

from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread

NAMES = ("a", "b", "c")
LEAST_SHARE, MOST_IN_A_SECOND, MOST_OF_A_THIRD, MOST_TO_TAKE_OVER_SECONDS = 0.93, 1.1, 0.1, 10.0


class Measured(NamedTuple):
    """Shares of the limit. ``arrived`` and ``granted``: while all processes run."""

    granted: float
    arrived: float
    worst_second: float  #: of granted slots
    worst_arrivals: float  #: of one second
    thirds: tuple[float, ...]  #: parts of the granted slots, times 3
    taken_over_seconds: float  #: from the kill until the others use the limit for two seconds
    after_kill: float  #: granted from then on

    def problems(self) -> list[str]:
        """A sentence for each figure that is not as promised."""
        found = []
        if min(self.granted, self.arrived, self.after_kill) < LEAST_SHARE:
            found.append(f"less than {LEAST_SHARE} of the limit was used")
        if self.worst_second > MOST_IN_A_SECOND:
            found.append(f"a second had more than {MOST_IN_A_SECOND} of the slots")
        if any(abs(part - 1) > MOST_OF_A_THIRD for part in self.thirds):
            found.append("a process had no third of the slots")
        if self.taken_over_seconds > MOST_TO_TAKE_OVER_SECONDS:
            found.append("the part of the killed process was not taken in time")
        return found


@dataclass
class Runner:
    """One process, with its own job and output."""

    bench: Workbench
    process: subprocess.Popen[bytes]
    slots_file: Path

    def slots(self) -> list[float]:
        return [float(line) for line in self.slots_file.read_text().splitlines()] if self.slots_file.exists() else []


def start(folder: Path, name: str, emulator: RunningEmulator, share: Path, per_minute: float, rows: int) -> Runner:
    bench = Workbench(folder / name)
    bench.folder.mkdir()
    manifest = bench.manifest(bench.rows(rows))
    limits = f'requests_per_minute = {per_minute}\nshare = "{share}"\nconcurrency = 64'
    job = bench.job(manifest, limits=limits)
    slots = folder / f"{name}.slots"
    command = [sys.executable, "-m", "proofs.recorded_slots", "run", str(job), "--quiet", "--provider", "xai"]
    process = subprocess.Popen(
        [*command, "--base-url", f"{emulator.url}/xai/v1"],
        cwd=bench.folder,
        env={**bench.environment(), "RECORDED_SLOTS": str(slots), "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )
    return Runner(bench, process, slots)


def wait_until_all_run(runners: Sequence[Runner], seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    while not all(runner.slots() for runner in runners):
        for runner in runners:
            if runner.process.poll() is not None:
                raise RuntimeError(f"a run ended early: {runner.process.communicate()[1].decode()}")
        if time.monotonic() > until:
            raise RuntimeError("not all runs have begun")
        time.sleep(0.05)


def measure(folder: Path, per_minute: float, seconds: float) -> Measured:
    """Run three processes for so long, kill one, and run the others for half as long."""
    rows = int(per_minute / 60 * (seconds + 60))
    with start_in_thread(EmulatorOptions(latency_seconds=0.2, ledger_entries=1_000_000)) as emulator:
        runners = [start(folder, name, emulator, folder / "budget", per_minute, rows) for name in NAMES]
        try:
            wait_until_all_run(runners)
            begin = time.monotonic() + 2.0
            time.sleep(2.0 + seconds)
            killed_at = time.monotonic()
            runners[-1].process.kill()
            time.sleep(seconds / 2)
            end = time.monotonic()
        finally:
            for runner in runners:
                runner.process.send_signal(signal.SIGINT)
            for runner in runners:
                runner.process.communicate()
        arrivals = sorted(entry.arrived_at for entry in emulator.bill().entries)
    per_second = per_minute / 60
    slots = [[at for at in runner.slots() if at < end] for runner in runners]
    together = sorted(at for each in slots for at in each)
    full = [[at for at in each if begin <= at < killed_at] for each in slots]
    total, span = sum(map(len, full)), killed_at - begin
    after = next(
        (at for at in together if at >= killed_at and count(together, at, at + 2.0) >= 0.93 * 2 * per_second), end
    )
    return Measured(
        granted=total / span / per_second,
        arrived=count(arrivals, begin, killed_at) / span / per_second,
        worst_second=most_in_a_second([at for at in together if at >= begin]) / per_second,
        worst_arrivals=most_in_a_second([at for at in arrivals if begin <= at < end]) / per_second,
        thirds=tuple(3 * len(each) / total for each in full),
        taken_over_seconds=after - killed_at,
        after_kill=count(together, after, end) / max(0.001, end - after) / per_second,
    )


def count(times: Sequence[float], begin: float, end: float) -> int:
    return bisect_left(times, end) - bisect_left(times, begin)


def most_in_a_second(times: Sequence[float]) -> int:
    return max((count(times, at, at + 1.0) for at in times), default=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per-minute", type=float, default=6_000, help="the limit that three processes share")
    parser.add_argument("--seconds", type=float, default=60, help="how long all of them run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(Path(folder), given.per_minute, given.seconds)
    for name, value in measured._asdict().items():
        print(f"{name:<20} {', '.join(f'{each:.3f}' for each in (value if isinstance(value, tuple) else (value,)))}")
    for problem in measured.problems():
        print(f"FAILED: {problem}")
    return 1 if measured.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
