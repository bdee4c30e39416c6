"""The runs of ``scripts/bench seals``, each in a process of its own. ``open_work`` is a module of the tests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from open_work import Enough, OpenWork

from batchvision.checkpoint import SealAfter
from batchvision.checkpoint import writer as writer_module
from batchvision.records import Counters
from benches.loops import Spec
from benches.process import memory_mib

NEVER = SealAfter(attempts=10**9, journal_bytes=10**12, seconds=10.0**9)


def _work(spec: Spec) -> OpenWork:
    folder = Path(spec["folder"]) / spec["output"]
    folder.mkdir()
    return OpenWork(folder, spec["tickets"], spec["failed"])


def seal_costs(spec: Spec) -> Mapping[str, Any]:
    writer_module.SealAfter = lambda: SealAfter(attempts=spec["rows"])  # type: ignore[misc, assignment]
    work = _work(spec)
    work.leave()
    return {"rows": spec["rows"], **work.answer(3 * spec["rows"])._asdict()}


def accepted(spec: Spec) -> Mapping[str, Any]:
    """Memory with ``first`` open tickets and with nine tenths of ``tickets``."""
    seen: dict[str, float] = {}
    first, last = spec["first"], round(spec["tickets"] * 0.9)

    def measure(counters: Counters) -> None:
        if counters.tickets_open >= first:
            seen.setdefault("early_mib", memory_mib("VmRSS"))
        if counters.tickets_open >= last:
            seen["late_mib"] = memory_mib("VmRSS")
            raise Enough

    OpenWork(_work(spec).folder, spec["tickets"]).leave(measure)
    return {"rows": last - first, **seen}


def stall(spec: Spec) -> Mapping[str, Any]:
    work = _work(spec)
    work.leave()
    if not spec["seals"]:
        writer_module.SealAfter = lambda: NEVER  # type: ignore[misc, assignment]
    began = time.perf_counter()
    late = sorted(work.stalls(spec["rows"], spec["per_second"]))
    seconds = time.perf_counter() - began
    return {
        "rows": spec["rows"],
        "seconds": seconds,
        "longest_ms": 1000 * late[-1],
        "most_ms": 1000 * late[round(0.999 * (len(late) - 1))],
    }
