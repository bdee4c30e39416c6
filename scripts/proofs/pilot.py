"""``scripts/money --pilot``: compare the estimate of a pilot with the cost of the whole job, in virtual time.

Each seed is a manifest of mixed image sizes, sorted by size, so that its first rows are its smallest. A pilot of some
rows is followed by a run of the rest. The emulator's bill must lie in the interval of the pilot.
"""

from __future__ import annotations

import csv
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from typing import Any

import anyio
from emulated_provider import EmulatedProvider
from PIL import Image
from virtual_time import VIRTUAL

from batchvision import Job
from batchvision.commands.pilot import Pilot, pilot
from batchvision.commands.pilot.frame import Choice, ChosenStratum, SamplingFrame
from batchvision.records import RunSummary
from batchvision.runner.session import run_async

ENVIRON = {"XAI_API_KEY": "xai-secret-key-000"}
#: Distinct images; rows share them, and differ in their text.
IMAGES = 60
#: The least share of intervals that must hold the truth, and their largest width.
HITS_WANTED, WIDEST = 0.9, 0.15


@dataclass(frozen=True)
class Told:
    """One seed: the estimate of the pilot and the cost of the whole."""

    seed: int
    low_ticks: float
    high_ticks: float
    share: float
    billed_ticks: int
    asked_twice: int
    pending: int

    @property
    def is_hit(self) -> bool:
        return self.low_ticks <= self.billed_ticks <= self.high_ticks

    def line(self) -> str:
        low, high, billed = (ticks / 1e10 for ticks in (self.low_ticks, self.high_ticks, self.billed_ticks))
        hit = "in" if self.is_hit else "OUT"
        return f"  seed {self.seed:>3}  {low:.4f} to {high:.4f} (+-{self.share:.1%})  billed {billed:.4f}  {hit}"


def write_manifest(folder: Path, rows: int, seed: int, images_wanted: int = IMAGES) -> None:
    """Sides from 100 to 3,000 pixels, as many in each octave; now and then a long text. Sorted by size."""
    rng = random.Random(seed)
    images = []
    for number in range(images_wanted):
        width = round(exp(rng.uniform(log(100), log(3_000))))
        height = max(60, round(width * rng.choice([0.5625, 0.75, 1.0, 1.333])))
        Image.new("RGB", (width, height), rng.choice(["red", "green", "blue"])).save(folder / f"{number}.png")
        images.append((width * height, f"{number}.png"))
    chosen = sorted(rng.choice(images) for _ in range(rows))
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "image", "hint"])
        for number, (_, image) in enumerate(chosen):
            words = " word" * rng.choice([0, 5, 20, 60])
            writer.writerow([f"r{number}", image, f"[[echo:r{number}]]{words}"])


def job_of(folder: Path, overrides: dict[str, Any] | None = None) -> Job:
    settings: dict[str, Any] = {
        "name": "whole",
        "manifest": {"path": "photos.csv", "id": "sku"},
        "prompt": {"system": "You describe product photos in one sentence.", "user": "Describe it. {hint}"},
        "provider": {"name": "xai", "model": "grok-4.3", "parameters": {"max_tokens": 900}},
        "limits": {"concurrency": 64},
        "output": {"path": "out"},
    }
    return Job.from_mapping(settings, folder, overrides)


HONEST = SamplingFrame.choose


def first_rows(frame: SamplingFrame, rows: int, seed: int = 0) -> Choice:
    """The sabotaged pilot: the rows as they come in the manifest, as if they were all of one kind."""
    every = [chosen for stratum in HONEST(frame, len(frame), seed).strata for chosen in stratum.chosen]
    first = sorted(every, key=lambda chosen: int(chosen.row_id[1:]))[:rows]
    ticks, tokens = sum(chosen.ticks for chosen in every), sum(chosen.tokens for chosen in every)
    return Choice(len(frame), (ChosenStratum(len(frame), ticks, tokens, tuple(first)),))


def play(folder: Path, rows: int, asked: int, seed: int, provider: EmulatedProvider, images: int = IMAGES) -> Told:
    """One seed."""
    write_manifest(folder, rows, seed, images)
    job = job_of(folder)

    async def session() -> tuple[Pilot, RunSummary]:
        told = await pilot(job, asked, seed=seed, environ=ENVIRON, dependencies=provider.dependencies(2 * seed))
        return told, await run_async(job, environ=ENVIRON, dependencies=provider.dependencies(2 * seed + 1))

    told, summary = anyio.run(session, backend_options=VIRTUAL)
    assert told.cost is not None
    return Told(
        seed,
        told.cost.low,
        told.cost.high,
        told.cost.share,
        provider.billed_ticks,
        sum(count > 1 for count in provider.requests.values()),
        summary.rows_pending,
    )


def tell(rows: int, asked: int, seeds: int, rule: str, restless: float, images: int = IMAGES) -> Iterator[Told]:
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(prefix="batchvision-pilot-") as name:
            provider = EmulatedProvider(rule=rule, restless=restless, seed=seed)
            yield play(Path(name), rows, asked, seed, provider, images)


def faults(found: list[Told]) -> list[str]:
    """In words; empty: all is as promised."""
    hits = sum(told.is_hit for told in found)
    wrong = [] if hits >= HITS_WANTED * len(found) else [f"{hits} of {len(found)} bills lie in their interval"]
    wrong += [f"seed {told.seed}: ±{told.share:.1%} is too wide" for told in found if told.share > WIDEST]
    wrong += [f"seed {told.seed}: {told.asked_twice} rows were asked twice" for told in found if told.asked_twice]
    wrong += [f"seed {told.seed}: {told.pending} rows are pending" for told in found if told.pending]
    return wrong


def prove(rows: int, asked: int, seeds: int, rule: str, restless: float, *, sabotage: bool) -> int:
    """Run all seeds and print them. Returns 1 if a promise is broken."""
    if sabotage:
        SamplingFrame.choose = first_rows  # type: ignore[method-assign]
    found = []
    for told in tell(rows, asked, seeds, rule, restless):
        found.append(told)
        print(told.line(), flush=True)
    hits, widest = sum(told.is_hit for told in found), max(told.share for told in found)
    print(f"{hits} of {len(found)} bills lie in their interval, the widest of which is +-{widest:.1%}")
    for sentence in (wrong := faults(found)):
        print(f"  NOT AS PROMISED: {sentence}")
    return 1 if wrong else 0
