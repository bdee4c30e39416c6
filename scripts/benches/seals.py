"""Seals beside open work: bytes written and files read, memory of open tickets, and the longest stall of the loop."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benches.measure import Contender, interleaved, medians, table

PARTS = ("bytes", "memory", "stall")
TICKETS, FAILED = 50_000, 200_000
SEAL_ROWS = 4_000
ROWS_PER_SECOND = 2_000
FIRST_TICKETS = 2_000  #: Memory is compared from here on, with requests in flight.


def bench(chosen: Namespace, folder: Path) -> None:
    share = (chosen.rows or TICKETS) / TICKETS
    work = {"folder": str(folder), "tickets": round(TICKETS * share), "failed": round(FAILED * share)}
    if chosen.only in (None, "bytes"):
        written(chosen, work)
    if chosen.only in (None, "memory"):
        memory(work)
    if chosen.only in (None, "stall"):
        stall(chosen, {**work, "rows": round(10 * SEAL_ROWS * share)})


def written(chosen: Namespace, work: Mapping[str, Any]) -> None:
    contenders = [
        Contender("no open work", "seals", {**work, "tickets": 0, "failed": 0, "output": "alone", "rows": SEAL_ROWS}),
        Contender(_named(work), "seals", {**work, "output": "beside", "rows": SEAL_ROWS}),
    ]
    found = {title: each[0] for title, each in interleaved(contenders, 1, None).items()}
    alone = found["no open work"].more["written_bytes"]
    table(
        f"A seal of {SEAL_ROWS:,} rows, the largest of three",
        ["", "bytes written", "x no open work", "files read"],
        [
            [
                title,
                f"{each.more['written_bytes']:,}",
                f"{each.more['written_bytes'] / alone:.2f}",
                f"{each.more['reads']}",
            ]
            for title, each in found.items()
        ],
    )


def memory(work: Mapping[str, Any]) -> None:
    spec = {**work, "output": "accepted", "first": min(FIRST_TICKETS, work["tickets"] // 4)}
    ((result,),) = interleaved([Contender("accepted", "accepted", spec)], 1, None).values()
    more_mib = result.more["late_mib"] - result.more["early_mib"]
    table(
        f"Memory of {result.rows:,} more open tickets",
        ["", "MiB", "bytes a ticket", "MiB for 50,000"],
        [
            [
                "batchvision",
                f"{more_mib:.1f}",
                f"{more_mib * 2**20 / result.rows:.0f}",
                f"{more_mib * 50_000 / result.rows:.1f}",
            ]
        ],
    )


def stall(chosen: Namespace, work: Mapping[str, Any]) -> None:
    alone = {**work, "tickets": 0, "failed": 0, "per_second": ROWS_PER_SECOND}
    contenders = [
        Contender("without seals", "stall", {**alone, "output": "unsealed", "seals": False}),
        Contender("with seals", "stall", {**alone, "output": "sealed", "seals": True}),
        Contender(f"with seals, {_named(work)}", "stall", {**alone, **work, "output": "sealed-beside", "seals": True}),
    ]
    found = interleaved(contenders, chosen.rounds, None)
    least = {
        title: min(each.more["longest_ms"] for each in rounds) for title, rounds in found.items()
    }  # the other rounds met other processes
    table(
        f"Longest stall of the event loop, {work['rows']:,} rows at {ROWS_PER_SECOND:,} a second",
        ["", "longest, ms", "x without seals", "99.9th percentile, ms", "rows/s"],
        [
            [
                title,
                f"{least[title]:.1f}",
                f"{least[title] / least['without seals']:.2f}",
                f"{min(each.more['most_ms'] for each in rounds):.1f}",
                f"{medians(rounds, 'rows_per_second'):,.0f}",
            ]
            for title, rounds in found.items()
        ],
        "The best of all rounds. A timer of a millisecond runs beside the run; a stall is by how much it is late.",
    )


def _named(work: Mapping[str, Any]) -> str:
    return f"{work['tickets']:,} tickets and {work['failed']:,} failed rows"
