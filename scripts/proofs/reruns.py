"""``scripts/reruns``: random sequences of runs of one job, compared with a model and with the provider's bill.

A run may change cells, images, prompt, provider, host, lane, spend caps and the clock. It may be a trial or a pilot,
a redo may follow it, and both may be killed. ``tests/integration/test_reruns_property.py`` plays a few sequences. This
script plays any number.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from rerun_model import Plan
from rerun_sequences import PLANS, RerunSequence

from batchvision.emulator import RunningEmulator, start_in_thread

MOST_RUNS = 8  #: of a sequence
HANGS_AFTER_SECONDS = 120


class Tally:
    """The sequences so far. ``faults``: how often each was found."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def play(self, plans: Sequence[Plan], hosts: Sequence[RunningEmulator]) -> None:
        """Play a sequence up to its first fault. A run that hangs ends the script with the stacks of its threads."""
        with tempfile.TemporaryDirectory(prefix="batchvision-reruns-") as folder:
            sequence = RerunSequence(Path(folder), hosts)
            self.counts["sequences"] += 1
            for number, plan in enumerate(plans, 1):
                faulthandler.dump_traceback_later(HANGS_AFTER_SECONDS, exit=True)
                try:
                    sequence.play(plan)
                except Exception as fault:  # noqa: BLE001  an error of the run is a fault as well
                    self._print(f"{type(fault).__name__}: {fault}", plans[:number])
                    break
                self.counts["runs"] += 1
            faulthandler.cancel_dump_traceback_later()
            self.counts["kills"] += sequence.kills
            self.counts["requests bought"] += len(sequence.model.payments)
            self.counts["of them by redos"] += len(sequence.model.redone)

    def _print(self, sentence: str, plans: Sequence[Plan]) -> None:
        self.faults[sentence] += 1
        print(f"NOT AS PROMISED: {sentence}", *(f"    {plan!r}," for plan in plans), sep="\n", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Play the sequences and print what was found. Exit 1 if a promise is broken."""
    parser = argparse.ArgumentParser(prog="scripts/reruns", description=__doc__)
    parser.add_argument("sequences", type=int, nargs="?", default=200, help="default: 200")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    tally, started = Tally(), time.monotonic()
    with start_in_thread() as here, start_in_thread() as there:

        @seed(chosen.seed)
        @settings(
            max_examples=chosen.sequences,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(st.lists(PLANS, min_size=2, max_size=MOST_RUNS))
        def play(plans: list[Plan]) -> None:
            tally.play(plans, (here, there))

        play()
    print(", ".join(f"{count:,} {name}" for name, count in tally.counts.items()), end=", ")
    print(f"{tally.faults.total()} faults ({time.monotonic() - started:.0f} s)")
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
