"""A manifest of a million rows, most of them done: speed and memory of passing over them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from benches.measure import Contender, Result, client, interleaved, medians, say, table

PARTS = ("skip", "memory")
DONE_SHARE = 0.9
PART_ROWS = 4_000
EARLY_ROWS = 10_000


def bench(chosen: Namespace, folder: Path) -> None:
    rows = chosen.rows or 1_000_000
    if chosen.only in (None, "skip"):
        skipping(chosen, folder, rows)
    if chosen.only in (None, "memory"):
        memory(chosen, folder, min(rows, 1_000_000))


def skipping(chosen: Namespace, folder: Path, rows: int) -> None:
    # every round of every contender finds the output as it was made: a limited run seals two rows more
    where = {"folder": str(folder), "manifest": "many.parquet", "rows": rows}
    spec = {**where, "output": "done-0", "url": "http://127.0.0.1:9", "limit": 2}
    say(f"  making an output with {DONE_SHARE:.0%} of {rows:,} rows done")
    client("material", {**spec, "make": "done", "done_share": DONE_SHARE, "part_rows": PART_ROWS})
    for turn in range(1, chosen.rounds):
        (folder / f"done-{turn}").symlink_to(folder / "done-0", target_is_directory=True)
    shared = {**where, "output": "done", "limit": 2}
    contenders = [Contender("plan", "plan", shared), Contender("run --limit 2", "resume", shared)]
    results = interleaved(contenders, chosen.rounds, None)
    table(
        f"{rows:,} rows, {DONE_SHARE:.0%} done in parts of {PART_ROWS:,}",
        ["", "rows/s", "CPU-us/row", "seconds", "peak MiB"],
        [
            [
                title,
                f"{rows / medians(each, 'seconds'):,.0f}",
                f"{medians(each, 'cpu_seconds') * 1e6 / rows:.2f}",
                f"{medians(each, 'seconds'):.1f}",
                f"{medians(each, 'peak_mib'):.0f}",
            ]
            for title, each in results.items()
        ],
        "All of it, from the opening of the manifest: survey, reading the parts, passing over the rows. "
        "Without a network; imports are not counted in the time, and are in the memory.",
    )


def memory(chosen: Namespace, folder: Path, rows: int) -> None:
    """One round: what grows shows at once."""
    few = min(EARLY_ROWS, rows)
    lines = []
    for count in dict.fromkeys((few, rows)):
        where = {"folder": str(folder), "manifest": f"memory-{count}.parquet", "output": f"memory-{count}"}
        client("material", {"make": "urls", "rows": count, **where})
        title = f"run of {count:,} rows"
        contender = Contender(title, "memory", {**where, "rows": count, "early": few * 0.9})
        (found,) = interleaved([contender], 1, None)[title]
        lines.append([title, *_memory_cells(found)])
    table(
        "Memory of a run, answers from a stub",
        ["", f"MiB after {few * 0.9:,.0f} rows", "MiB at the end", "peak MiB", "CPU-ms/row"],
        lines,
    )


def _memory_cells(found: Result) -> list[str]:
    held = [f"{found.more.get(name, 0.0):.0f}" for name in ("early_mib", "late_mib")]
    return [*held, f"{found.peak_mib:.0f}", f"{found.cpu_ms_per_row:.3f}"]
