"""Ten thousand open tickets: the CPU of polling them, and the delay of each poll."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benches.measure import Contender, Result, client, interleaved, served, table

#: The lower rate stretches the timetable (polls take half of it), the higher one does not.
RATES_PER_MINUTE = (12_000, 60_000)
LATENCY_SECONDS = 0.05


def bench(chosen: Namespace, folder: Path) -> None:
    rows = chosen.rows or 10_000
    seconds = chosen.seconds or 60.0
    where = {"folder": str(folder), "manifest": "tickets.parquet", "lane": "deferred", "rows": rows, "seconds": seconds}
    client("material", {"make": "urls", **where})
    contenders = [
        Contender(
            f"{per_minute / 60:,.0f} requests a second",
            "tickets",
            {**where, "output": f"tickets-{per_minute}", "limits": {"requests_per_minute": per_minute}},
            {"ticket_seconds": 86_400.0, "latency_seconds": LATENCY_SECONDS},
        )
        for per_minute in RATES_PER_MINUTE
    ]
    with served() as server:
        found = interleaved(contenders, chosen.rounds, server)
    table(
        f"{rows:,} tickets open, over {seconds:g} s; answers to polls after {LATENCY_SECONDS * 1000:.0f} ms",
        ["limit", "polls/s", "of the request rate", "of a core", "late, median", "99th percentile", "most"],
        [
            [title, *_cells(rounds, per_minute / 60)]
            for (title, rounds), per_minute in zip(found.items(), RATES_PER_MINUTE, strict=True)
        ],
        "No ticket has its answer yet. Late: on the wire after its slot in the lane's timetable.",
    )


def _cells(rounds: Sequence[Result], per_second: float) -> list[str]:
    polls = median(_polls_per_second(found) for found in rounds)
    lateness = [found.more["late"] for found in rounds]
    return [
        f"{polls:.0f}",
        f"{polls / per_second:.2f}",
        f"{median(found.more['core_share'] for found in rounds):.1%}",
        *(
            f"{median(late[min(len(late) - 1, int(share * len(late)))] for late in lateness):.3f} s"
            for share in (0.5, 0.99, 1.0)
        ),
    ]


def _polls_per_second(found: Result) -> float:
    since, span = found.more["since"], found.more["span"]
    return sum(since <= at < since + span for at in found.told["polls"]) / span
