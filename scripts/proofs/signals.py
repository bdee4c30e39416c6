"""The one-time read under two signals in a row, while answers arrive slowly."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from proofs.bench import Bench
from proofs.kills import settled
from proofs.reckoning import Reckoner, Tally
from proofs.victim import Plan

SLOW_SECONDS = 1.5


def interrupted_reads(folder: Path, sabotage: str | None = None, rows: int = 12) -> Tally:
    """Deferred answers that arrive slowly; SIGTERM twice meanwhile.

    Every read in flight must end with its answer, because nothing was killed.
    """
    with Bench(folder, "deferred", rows) as bench:
        bench.emulator.configure(
            slow_seconds=SLOW_SECONDS, fault_rates={"slow_body": 1.0}, deferred_seconds=0.1, latency_seconds=0.0
        )
        reckoner = Reckoner(bench.output, bench.concurrency)
        told = bench.folder / "told.txt"
        told.touch()
        running = bench.start(Plan(sabotage=sabotage, told=str(told)))
        running.wait_until(lambda: told.read_text().count("poll") >= rows)
        for _ in range(2):
            running.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        ended = running.wait()
        if ended.code != 143:
            reckoner.tally.faults.append(f"SIGTERM ended the run with exit {ended.code}: {ended.stderr[-400:]}")
        bench.emulator.configure(fault_rates={})
        tally = settled(bench, reckoner)
        tally.acknowledged = bench.emulator.bill().delivered
        if tally.lost_after_read:
            tally.faults.append(f"{tally.lost_after_read} one-time answers were cut off on the wire by a signal")
        return tally
