"""Manifest, small images and output in a bucket, beside the same job on a local disk and a bare loop over the bucket.

The S3 server is moto: one process of Python, which the bare loop measures. Where the loop is slower than the run on a
local disk, moto is the limit, and the ratio to the loop counts.
"""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from unittest.mock import patch

from s3_server import BUCKET, s3_server

from benches.measure import Contender, Result, client, interleaved, median_ratio, medians, served, table

#: Requests on the wire. The first leaves moto time to spare, the second is a job's default.
PARTS = ("16", "256")
ROWS, LATENCY_SECONDS = 2_000, 0.05
TARGET = 0.8


def bench(chosen: Namespace, folder: Path) -> None:
    rows = chosen.rows or ROWS
    local = {"folder": str(folder), "manifest": "photos.parquet", "output": "local", "rows": rows}
    in_bucket = {**local, "manifest": f"s3://{BUCKET}/photos.parquet", "output": f"s3://{BUCKET}/output"}
    with s3_server() as server, patch.dict(os.environ, server.environ, BATCHVISION_STATE_DIR=str(folder / "state")):
        client("material", {**local, "make": "small photos", "bucket": f"s3://{BUCKET}"})
        for part in PARTS if chosen.only is None else (chosen.only,):
            in_flight, wait = {"in_flight": int(part)}, {"latency_seconds": LATENCY_SECONDS}
            contenders = [
                Contender("local disk", "batchvision", {**local, **in_flight, "output": f"local-{part}"}, wait),
                Contender(
                    "all on S3",
                    "batchvision",
                    {**in_bucket, **in_flight, "output": f"{in_bucket['output']}-{part}"},
                    wait,
                ),
                Contender("loop that reads the images", "read objects", {**in_bucket, **in_flight}),
            ]
            with served() as provider:
                _table(interleaved(contenders, chosen.rounds, provider), part, rows)


def _table(results: dict[str, list[Result]], in_flight: str, rows: int) -> None:
    local, in_bucket, loop = results.values()
    table(
        f"{rows:,} images of 30 kB, {in_flight} in flight, {LATENCY_SECONDS * 1000:g} ms of the provider",
        ["", "rows/s", "CPU-ms/row", "seconds", "peak MiB"],
        [[title, *_cells(each)] for title, each in results.items()],
        f"All on S3 has {median_ratio(in_bucket, local, 'rows_per_second'):.2f} of the rate on a local disk "
        f"(target {TARGET}), and {median_ratio(in_bucket, loop, 'rows_per_second'):.2f} of the loop's.",
    )


def _cells(results: list[Result]) -> list[str]:
    seconds, cpu_seconds = medians(results, "seconds"), medians(results, "cpu_seconds")
    rows = results[0].rows
    cells = [f"{rows / seconds:,.0f}", f"{cpu_seconds * 1e3 / rows:.2f}", f"{seconds:.1f}"]
    return [*cells, f"{medians(results, 'peak_mib'):.0f}"]
