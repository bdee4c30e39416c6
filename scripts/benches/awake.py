"""Keep the cores of this machine awake for benches that a clock measures: ``python -m benches.awake CORE``.

An idle core of a rented machine is lent to other machines and may return ten milliseconds late, longer than the time
between two requests. A loop of idle priority on each core keeps it, and gives way at once to every other process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benches.process import at_home

CAN_BE_KEPT = hasattr(os, "SCHED_IDLE")  #: as Linux does


@contextmanager
def kept_awake() -> Iterator[None]:
    """Until the block ends; where the system has no idle priority, nothing is done."""
    cores = sorted(os.sched_getaffinity(0)) if CAN_BE_KEPT else ()
    loops = [subprocess.Popen([sys.executable, "-m", "benches.awake", str(core), str(os.getpid())]) for core in cores]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> None:
    core, parent = (int(text) for text in sys.argv[1:])
    at_home(core)
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    while os.getppid() == parent:  # which may have been killed
        for _ in range(100_000):
            pass


if __name__ == "__main__":
    main()
