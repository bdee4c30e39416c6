"""JPEGs of 240 KB, read from disk and sent inline."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from benches.measure import Contender, client, interleaved, median_ratio, served, table
from benches.throughput import speed_line

IN_FLIGHT = 64


def bench(chosen: Namespace, folder: Path) -> None:
    rows = chosen.rows or 4_000
    where = {"folder": str(folder), "manifest": "photos.parquet", "output": "photos"}
    files = client("material", {"make": "photos", "rows": rows, **where})["files"]
    few = {"files": files, "in_flight": IN_FLIGHT, "rows": rows}
    each_asked = {"limits": {"deduplicate": False}, "loop": "asyncio"}  # the files come again and again
    ours = {**where, "in_flight": IN_FLIGHT, "rows": rows, **each_asked}
    plain = {"plain_base64": True}
    contenders = [
        Contender("aiohttp loop, bodies by hand", "aiohttp", few),
        Contender("batchvision", "batchvision", ours),
        Contender("aiohttp loop without pybase64", "aiohttp", {**few, **plain}),
        Contender("batchvision without pybase64", "batchvision", {**ours, **plain, "output": "plain"}),
        Contender("openai SDK loop", "openai", {**few, "rows": max(IN_FLIGHT, rows // 4)}),
        Contender("httpx, its own pool", "httpx", {**few, "rows": max(IN_FLIGHT, rows // 4)}),
    ]
    with served() as server:
        results = interleaved(contenders, chosen.rounds, server)
    base, best = results["aiohttp loop, bodies by hand"], results["batchvision"]
    plain_share = median_ratio(
        results["aiohttp loop without pybase64"], results["batchvision without pybase64"], "cpu_ms_per_row"
    )
    table(
        f"240 KB JPEG inline from {len(files)} local files, {IN_FLIGHT} in flight, {rows:,} rows",
        ["", "CPU-ms/row", "rows/s", "rows per CPU-s, aiohttp = 1", "batchvision is", "peak MiB"],
        [speed_line(title, each, base, best) for title, each in results.items()],
        "All read the file for every row, and use pybase64 (the extra `fast`) unless said. batchvision also looks at "
        "every image and hashes it. The openai and httpx loops have a quarter of the rows. "
        f"Without pybase64 on either side: {plain_share:.3f} of the aiohttp loop per CPU-second.",
    )
