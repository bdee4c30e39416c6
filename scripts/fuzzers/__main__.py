"""scripts/fuzz: feed damaged and hostile bytes to every reader of foreign input; exit 1 after a find.

The deep run is ``--seconds 600``. Each find is printed with its traceback, and its bytes are written to a file: make a
test of it. Each target's module states its promise.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import warnings
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

from fuzzers.answers import Answers
from fuzzers.engine import MOST_FINDS, Report, Target, fuzz
from fuzzers.journals import Journals
from fuzzers.manifests import Manifests
from fuzzers.pictures import Pictures
from fuzzers.waits import Waits
from fuzzers.wires import Wires

TARGETS: dict[str, Callable[[], Target]] = {
    each.name: each for each in (Manifests, Answers, Wires, Waits, Journals, Pictures)
}
#: Limit of the address space. A MemoryError is a find.
MOST_BYTES = 4 * 1024**3


def main() -> int:
    parser = ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for each target (deep: 600)")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--inputs", type=int, help="stop after so many, too")
    parser.add_argument("--first", action="store_true", help="stop at the first find")
    parser.add_argument("--finds", type=Path, help="folder for the bytes of finds")
    parser.add_argument("--endings", action="store_true", help="list how inputs ended")
    chosen = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    warnings.simplefilter("error")
    found = 0
    for name in chosen.target or TARGETS:
        report = fuzz(TARGETS[name](), chosen.seconds, chosen.seed, chosen.inputs, 1 if chosen.first else MOST_FINDS)
        tell(report, chosen.finds, endings=chosen.endings)
        found += len(report.finds)
    return 1 if found else 0


def tell(report: Report, folder: Path | None, *, endings: bool) -> None:
    rate = report.inputs / max(report.seconds, 1e-9)
    print(
        f"{report.name}: {report.inputs:,} inputs in {report.seconds:.0f} s ({rate:,.0f}/s), "
        f"{len(report.endings):,} different endings, {len(report.finds)} finds",
        flush=True,
    )
    for ending, times in sorted(report.endings.items(), key=lambda item: -item[1]) if endings else ():
        print(f"  {times:9,}  {ending}")
    for number, (ending, (content, trace)) in enumerate(report.finds.items(), start=1):
        place = (folder or Path(tempfile.gettempdir())) / f"fuzz-{report.name}-{number}.bin"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        print(f"\nfind {number}: {ending}\n{trace}\n  input ({len(content):,} bytes, in {place}): {content[:400]!r}\n")


if __name__ == "__main__":
    sys.exit(main())
