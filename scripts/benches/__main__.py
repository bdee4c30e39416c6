"""``scripts/bench WHAT``: reads the command line, makes a folder to work in, and runs one bench after the other."""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from benches.measure import head

BENCHES = ("throughput", "images", "limits", "load", "report", "resume", "s3", "seals", "startup", "tickets")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures batchvision against an aiohttp loop, httpx with its own pool and the openai SDK, all in "
        "one interleaved run over one server on this machine. Nothing is sent anywhere else.",
    )
    parser.add_argument("what", nargs="+", choices=BENCHES)
    parser.add_argument("--rounds", type=int, default=3, help="medians are of so many (default 3)")
    parser.add_argument("--rows", type=int, help="another number of rows (resume: 10000000 for the long one)")
    parser.add_argument(
        "--only",
        help="one part: a latency (throughput), a case (limits), skip or memory (resume), a part (load, seals), "
        "requests in flight (s3)",
    )
    parser.add_argument("--seconds", type=float, help="limits, tickets: so long for each case, for a quick look")
    parser.add_argument("--folder", type=Path, help="where to work; the disk under it is part of what is measured")
    chosen = parser.parse_args()
    for what in chosen.what:
        parts = getattr(import_module(f"benches.{what}"), "PARTS", ())
        if chosen.only is not None and chosen.only not in parts:
            parser.error(f"--only {chosen.only}: the parts of {what} are {', '.join(parts) or 'not to be had alone'}")
    return chosen


def main() -> None:
    chosen = arguments()
    head(sys.argv[1:])
    for what in chosen.what:
        with tempfile.TemporaryDirectory(prefix="batchvision-bench-", dir=chosen.folder) as folder:
            import_module(f"benches.{what}").bench(chosen, Path(folder))


if __name__ == "__main__":
    main()
