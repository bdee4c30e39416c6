"""Measure URL rows: CPU a row at full speed, and the share of the ideal rate with slow answers."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benches.measure import Contender, Result, Server, client, interleaved, median_ratio, medians, served, table
from benches.steady import BEGINNING_WAVES, share_of_ideal

IN_FLIGHT = 256
SLOW = ((0.3, 512, 16), (5.0, 4_000, 6))  #: latency in seconds, requests in flight, waves of them
PARTS = ("0", *(f"{latency:g}" for latency, _, _ in SLOW))


def bench(chosen: Namespace, folder: Path) -> None:
    with served() as server:
        at_full_speed(chosen, folder, server)
        for latency, in_flight, waves in SLOW:
            if chosen.only in (None, f"{latency:g}"):
                slow_answers(chosen, folder, server, latency, in_flight, waves)


def _spec(folder: Path, rows: int, in_flight: int, output: str, **more: Any) -> dict[str, Any]:
    where = {"folder": str(folder), "manifest": f"urls-{rows}.parquet", "output": output}
    if not (folder / where["manifest"]).exists():
        client("material", {"make": "urls", "rows": rows, **where})
    return {**where, "rows": rows, "in_flight": in_flight, **more}


def at_full_speed(chosen: Namespace, folder: Path, server: Server) -> None:
    if chosen.only not in (None, "0"):
        return
    rows = chosen.rows or 20_000
    few = {"in_flight": IN_FLIGHT, "rows": rows}
    contenders = [
        Contender("aiohttp loop", "aiohttp", few),
        Contender("transport alone", "transport", few),
        Contender("batchvision", "batchvision", _spec(folder, rows, IN_FLIGHT, "plain")),
        Contender("batchvision, progress bar", "batchvision", _spec(folder, rows, IN_FLIGHT, "bar", progress=True)),
        Contender("openai SDK loop", "openai", {**few, "rows": max(IN_FLIGHT, rows // 5)}),
        Contender("httpx, its own pool", "httpx", {**few, "rows": max(IN_FLIGHT, rows // 10)}),
    ]
    results = interleaved(contenders, chosen.rounds, server)
    base, ours = results["aiohttp loop"], results["batchvision"]
    table(
        f"URL rows, {IN_FLIGHT} in flight, no latency, {rows:,} rows",
        ["", "CPU-ms/row", "rows/s", "rows per CPU-s, aiohttp = 1", "batchvision is", "peak MiB"],
        [speed_line(title, each, base, ours) for title, each in results.items()],
        "batchvision: manifest, pacing, journal with fsync, sealed parts; the loops and the transport alone keep "
        "nothing. "
        "The openai loop has a fifth of the rows, httpx a tenth.",
    )


def speed_line(title: str, each: Sequence[Result], base: Sequence[Result], ours: Sequence[Result]) -> list[str]:
    return [
        title,
        f"{medians(each, 'cpu_ms_per_row'):.3f}",
        f"{medians(each, 'rows_per_second'):,.0f}",
        f"{median_ratio(base, each, 'cpu_ms_per_row'):.3f}",
        f"{median_ratio(each, ours, 'cpu_ms_per_row'):.2f}x",
        f"{medians(each, 'peak_mib'):.0f}",
    ]


def slow_answers(chosen: Namespace, folder: Path, server: Server, latency: float, in_flight: int, waves: int) -> None:
    """httpx and openai are left out with thousands in flight, where they make no progress."""
    if chosen.rows:
        in_flight = min(in_flight, max(1, chosen.rows // waves))
    rows = in_flight * waves
    slow = {"latency_seconds": latency}
    few = {"in_flight": in_flight, "rows": rows}
    contenders = [
        Contender("aiohttp loop", "aiohttp", few, slow),
        Contender("batchvision", "batchvision", _spec(folder, rows, in_flight, f"slow-{latency:g}"), slow),
    ]
    if in_flight <= 512:
        contenders.append(Contender("openai SDK loop", "openai", {**few, "rows": rows // 2}, slow))
        contenders.append(Contender("httpx, its own pool", "httpx", {**few, "rows": in_flight * 4}, slow))
    results = interleaved(contenders, chosen.rounds, server)
    table(
        f"{latency:g} s latency, {in_flight:,} in flight (ideal {in_flight / latency:,.0f} rows/s), {rows:,} rows",
        ["", "share of the ideal rate", "CPU-ms/row", "connections", "peak MiB"],
        [_slow_line(title, each, in_flight, latency) for title, each in results.items()],
        f"Steady state: the first {BEGINNING_WAVES} waves are left out, for a slow start; then "
        "the latency over the mean time from a request's arrival to "
        "that of the one a wave later. Rows: httpx four waves, openai half as many as the others.",
    )


def _slow_line(title: str, each: Sequence[Result], in_flight: int, latency: float) -> list[str]:
    shares = sorted(share_of_ideal(result.told["arrivals"], in_flight, latency) or 0.0 for result in each)
    return [
        title,
        f"{shares[len(shares) // 2]:.3f}",
        f"{medians(each, 'cpu_ms_per_row'):.3f}",
        f"{each[-1].told['connections']:,}",
        f"{medians(each, 'peak_mib'):.0f}",
    ]
