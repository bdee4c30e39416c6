"""Measure photos: JPEGs of 240 KB, read from disk and sent inline."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from benches.measure import Contender, client, interleaved, median_ratio, served, table
from benches.throughput import speed_line

IN_FLIGHT = 256  #: a job's default
FEWER = 64


def bench(chosen: Namespace, folder: Path) -> None:
    rows = chosen.rows or 8_000
    where = {"folder": str(folder), "manifest": "photos.parquet", "output": "photos"}
    files = client("material", {"make": "photos", "rows": rows, **where})["files"]
    few = {"files": files, "in_flight": IN_FLIGHT, "rows": rows}
    each_asked = {"limits": {"deduplicate": False}}  # the files come again and again
    ours = {**where, "in_flight": IN_FLIGHT, "rows": rows, **each_asked}
    fewer, plain = {"in_flight": FEWER}, {"plain_base64": True}
    slow = {"rows": max(IN_FLIGHT, rows // 8)}
    contenders = [
        Contender("aiohttp loop, bodies by hand", "aiohttp", few),
        Contender("transport alone", "transport", few),
        Contender("batchvision", "batchvision", ours),
        Contender(f"aiohttp loop, {FEWER} in flight", "aiohttp", {**few, **fewer}),
        Contender(f"batchvision, {FEWER} in flight", "batchvision", {**ours, **fewer, "output": "fewer"}),
        Contender("aiohttp loop without pybase64", "aiohttp", {**few, **plain}),
        Contender("batchvision without pybase64", "batchvision", {**ours, **plain, "output": "plain"}),
        Contender("openai SDK loop", "openai", {**few, **slow}),
        Contender("httpx, its own pool", "httpx", {**few, **slow}),
    ]
    with served() as server:
        results = interleaved(contenders, chosen.rounds, server)
    base, best = results["aiohttp loop, bodies by hand"], results["batchvision"]
    fewer_share, plain_share = (
        median_ratio(results[f"aiohttp loop{how}"], results[f"batchvision{how}"], "cpu_ms_per_row")
        for how in (f", {FEWER} in flight", " without pybase64")
    )
    table(
        f"240 KB JPEG inline from {len(files)} local files, {IN_FLIGHT} in flight, {rows:,} rows",
        ["", "CPU-ms/row", "rows/s", "rows per CPU-s, aiohttp = 1", "batchvision is", "peak MiB"],
        [speed_line(title, each, base, best) for title, each in results.items()],
        "All read the file for every row, and use pybase64 (the extra `fast`) unless said. batchvision also looks at "
        "every image and hashes it. The openai and httpx loops have an eighth of the rows. "
        f"Of the aiohttp loop per CPU-second, both with {FEWER} in flight: {fewer_share:.3f}; both without pybase64: "
        f"{plain_share:.3f}.",
    )
