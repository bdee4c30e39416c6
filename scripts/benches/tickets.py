"""Ten thousand open tickets: what it takes to ask for them, and whether each is asked when its time has come."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from benches.measure import Contender, Result, client, interleaved, served, table

#: The lower rate stretches the timetable (polls take half of it), the higher one does not.
RATES_PER_MINUTE = (12_000, 60_000)
LATENCY_SECONDS = 0.05


def bench(chosen: Namespace, folder: Path) -> None:
    rows = chosen.rows or 10_000
    seconds = chosen.seconds or 60.0
    where = {"folder": str(folder), "manifest": "tickets.parquet", "lane": "deferred", "rows": rows, "seconds": seconds}
    client("material", {"make": "urls", **where})
    lines = []
    with served() as server:
        for per_minute in RATES_PER_MINUTE:
            spec = {**where, "output": f"tickets-{per_minute}", "limits": {"requests_per_minute": per_minute}}
            title = f"{per_minute / 60:,.0f} requests a second"
            contender = Contender(
                title, "tickets", spec, {"ticket_seconds": 86_400.0, "latency_seconds": LATENCY_SECONDS}
            )
            (found,) = interleaved([contender], 1, server)[title]
            lines.append([title, *_cells(found, per_minute / 60)])
    table(
        f"{rows:,} tickets open, over {seconds:g} s; answers to polls after {LATENCY_SECONDS * 1000:.0f} ms",
        ["limit", "polls/s", "of the request rate", "of a core", "late, median", "99th percentile", "most"],
        lines,
        "No ticket has its answer yet. Late: on the wire after its slot in the lane's timetable.",
    )


def _cells(found: Result, per_second: float) -> list[str]:
    since, span, late = found.more["since"], found.more["span"], found.more["late"]
    polls = sum(since <= at < since + span for at in found.told["polls"]) / span
    return [
        f"{polls:.0f}",
        f"{polls / per_second:.2f}",
        f"{found.more['core_share']:.1%}",
        *(f"{late[min(len(late) - 1, int(share * len(late)))]:.3f} s" for share in (0.5, 0.99, 1.0)),
    ]
