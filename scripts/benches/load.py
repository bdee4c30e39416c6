"""First loads into DuckDB and PostgreSQL, beside the engine's own bulk load of the same Parquet files."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from postgres_server import running_server

from benches.measure import Contender, Result, client, interleaved, median_ratio, medians, table

PARTS = ("duckdb", "postgres", "memory")
ROWS, MANY_ROWS, FEW_ROWS = 200_000, 1_000_000, 100_000
TARGETS = {"duckdb": 0.5, "postgres": 0.3}


def bench(chosen: Namespace, folder: Path) -> None:
    rows = chosen.rows or ROWS
    for engine in TARGETS:
        if chosen.only in (None, engine):
            _speed(chosen, folder, engine, rows)
    if chosen.only in (None, "memory"):
        for engine in TARGETS:
            _memory(folder, engine, rows * MANY_ROWS // ROWS, rows * FEW_ROWS // ROWS)


@contextmanager
def _database(folder: Path, engine: str) -> Iterator[str]:
    """A URL with {} in place of the database's name."""
    if engine == "duckdb":
        yield f"duckdb:///{folder}/{{}}.db"
        return
    with running_server() as server:
        yield server.url("{}")


def _made(folder: Path, rows: int) -> Mapping[str, Any]:
    client("wide output", {"folder": str(folder), "rows": rows})
    return {"folder": str(folder), "rows": rows}


def _speed(chosen: Namespace, folder: Path, engine: str, rows: int) -> None:
    made = _made(folder, rows)
    with _database(folder, engine) as url:
        contenders = [
            Contender("bulk load", f"bulk {engine}", {**made, "to": url, "output": "bulk"}),
            Contender("load", "load", {**made, "to": url, "output": "load"}),
            Contender("load again", "load", {**made, "to": url, "output": "load"}),
        ]
        results = interleaved(contenders, chosen.rounds, None)
    ratio = median_ratio(results["load"], results["bulk load"], "rows_per_second")
    table(
        f"{engine}: {rows:,} rows of results and as many attempts",
        ["", "rows/s", "CPU-us/row", "seconds", "peak MiB"],
        [[title, *_cells(each)] for title, each in results.items()],
        f"A first load has {ratio:.2f} of the rate of the bulk load (target {TARGETS[engine]}).",
    )


def _cells(results: list[Result]) -> list[str]:
    seconds, cpu_seconds = medians(results, "seconds"), medians(results, "cpu_seconds")
    rows = results[0].rows
    cells = [f"{rows / seconds:,.0f}", f"{cpu_seconds * 1e6 / rows:.1f}", f"{seconds:.1f}"]
    return [*cells, f"{medians(results, 'peak_mib'):.0f}"]


def _memory(folder: Path, engine: str, many: int, few: int) -> None:
    peaks: dict[str, list[float]] = {"first load": [], "load again": []}
    with _database(folder, engine) as url:
        for rows in (few, many):
            spec = {**_made(folder, rows), "to": url, "output": f"memory-{rows}"}
            found = interleaved([Contender(title, "load", spec) for title in peaks], 1, None)
            for title, (result,) in found.items():
                peaks[title].append(result.peak_mib)
    lines = [[title, *(f"{peak:.0f}" for peak in each), f"{each[1] - each[0]:+.0f}"] for title, each in peaks.items()]
    heads = ["", f"peak MiB of {few:,} rows", f"of {many:,} rows", "difference (target: at most +100)"]
    table(f"{engine}: memory", heads, lines)
