"""``scripts/batches``: kill runs of the batch lane at random calls, go on, and compare results, ledger and bill.

Each seed draws a face, the size of the batches, the rows and up to three kills in sequence. After the last run every
row has its answer once, nothing was paid twice, and the ledger is the bill to the tick.
``tests/integration/test_batch_runs.py`` kills at each step once, and has the saboteurs.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

from batch_runs import BatchRuns

from batchvision.emulator import EmulatorOptions, Face, RunningEmulator, start_in_thread
from batchvision.runner.lanes import batch as lane


def play(seed: int, emulator: RunningEmulator) -> tuple[int, str | None]:
    """One seed. Returns the kills, and the fault that was found."""
    rng = random.Random(seed)
    emulator.reset()
    with tempfile.TemporaryDirectory(prefix="batchvision-batches-") as folder:
        runs = BatchRuns(Path(folder), emulator, rng.choice([Face.XAI, Face.OPENAI]), rows=rng.randint(1, 30))
        runs.delivery = f"max_batch_rows = {rng.randint(2, 12)}"
        kills = 0
        for _ in range(rng.randint(1, 3)):
            kills += runs.killed(rng.randint(1, 14), rng.choice(["before", "after"]))
        try:
            summary = runs.run()
            assert (summary.exit_code, summary.rows_completed) == (0, runs.rows), (
                f"{summary.exit_code} {summary.message}"
            )
            runs.assert_right()
            assert runs.run().requests_sent == 0, "a rerun sends requests"
        except Exception as fault:  # noqa: BLE001  an error of the run is a fault as well
            return kills, f"seed {seed}: {type(fault).__name__}: {fault}"
        return kills, None


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/batches", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("seeds", nargs="?", type=int, default=200, help="how many  [200]")
    parser.add_argument("--seed", type=int, default=0, help="the first  [0]")
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    lane.FIRST_LOOK_SECONDS, lane.LISTED_AFTER_SECONDS = 0.02, 0.0  # loopback
    kills, faults, began = 0, list[str](), time.monotonic()
    options = EmulatorOptions(batch_validation_seconds=0.0, batch_seconds=0.0, ledger_entries=100_000)
    with start_in_thread(options) as emulator:
        for seed in range(chosen.seed, chosen.seed + chosen.seeds):
            died, fault = play(seed, emulator)
            kills += died
            if fault is not None:
                faults.append(fault)
                print(fault, flush=True)
    seconds = time.monotonic() - began
    print(f"{chosen.seeds} seeds, {kills} kills, {len(faults)} faults ({seconds:.0f} s)")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
