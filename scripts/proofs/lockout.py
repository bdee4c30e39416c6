"""Two processes on one output: one is sent away at once, the other never notices."""

from __future__ import annotations

import time
from pathlib import Path

from proofs.bench import Bench
from proofs.kills import settled
from proofs.reckoning import Reckoner, Tally

AT_ONCE_SECONDS = 2.0
HELD = 11


def meet(folder: Path, times: int, *, in_time: bool = True) -> Tally:
    """A long run, and a second start on the same output, so many times; then the first must end as if alone.

    ``in_time`` False: how long the second took is not looked at, as this machine may be busy with other things.
    """
    with Bench(folder, "online", 20 * times + 40, concurrency=2, latency_seconds=(0.8, 1.0)) as bench:
        reckoner = Reckoner(bench.output, bench.concurrency)
        faults, slowest = reckoner.tally.faults, 0.0
        first = bench.start()
        first.wait_until(lambda: bench.emulator.bill().requests > 0)
        for _ in range(times):
            started = time.monotonic()
            second = bench.start().wait()
            took = time.monotonic() - started
            slowest = max(slowest, took)
            if second.code != HELD:
                faults.append(f"the second left with exit {second.code}: {second.stderr[-300:]}")
            if in_time and took >= AT_ONCE_SECONDS:
                faults.append(f"the second took {took:.1f} s to leave")
        if first.process.poll() is not None:
            faults.append("the first had ended before all had met it: this proves nothing")
        bench.emulator.configure(latency_seconds=0.0)
        ended = first.wait()
        bill = bench.emulator.bill()
        if ended.code != 0 or bill.requests != len(bench.manifest):
            faults.append(f"the first: exit {ended.code} after {bill.requests} requests: {ended.stderr[-300:]}")
        tally = settled(bench, reckoner)
        tally.acknowledged = bill.delivered
        print(f"  met {times} times; the slowest left after {slowest:.2f} s")
        return tally
