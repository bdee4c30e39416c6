"""Measure a report of 2,000 rows in headless Chromium, beside an empty page of the same size.

A page is usable when its script has run and the frame after ``load`` is drawn. A search counts from the last key to the
frame that shows its result; the page waits for 80 ms of silence first.
"""

from __future__ import annotations

import csv
import shutil
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from batchvision.commands.report import collect, html_of
from batchvision.commands.run import run
from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.job import Job
from benches.measure import table

IMAGES = 40
TRIES_A_ROUND = 3
_USABLE = """new Promise(done => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"""
_SEARCH = """words => new Promise(done => {
  const search = document.getElementById("search"), began = performance.now();
  const look = () => document.querySelectorAll(".card:not([hidden])").length === 1
    ? setTimeout(() => done(performance.now() - began)) : requestAnimationFrame(look);
  search.value = words;
  search.dispatchEvent(new Event("input"));
  requestAnimationFrame(look);
})"""


def bench(chosen: Namespace, folder: Path) -> None:
    rows = chosen.rows or 2_000
    page = _report(folder, rows)
    (folder / "report.html").write_text(page, encoding="utf-8")
    size_bytes = len(page.encode())
    empty = "<!doctype html><title>empty</title><p>empty</p><!---->"
    (folder / "empty.html").write_text(empty.replace("<!--", "<!--" + "x" * (size_bytes - len(empty))))
    report, search, nothing = _measured(folder, chosen.rounds * TRIES_A_ROUND, f"row {rows - 1}")
    table(
        f"A report of {rows:,} rows, {size_bytes / 1e6:.1f} MB, in headless Chromium",
        ["", "ms until it is usable", "ms of a search"],
        [
            ["report", f"{median(report):.0f}", f"{median(search):.0f}"],
            ["empty page of the same size", f"{median(nothing):.0f}", ""],
        ],
        f"The report takes {median(report) / median(nothing):.2f}x the time of the empty page (medians).",
    )


def _report(folder: Path, rows: int) -> str:
    """The page of a real run of a few rows, with their cards repeated under other ids."""
    _material(folder)
    with start_in_thread(EmulatorOptions()) as emulator:
        run(Job.from_mapping(_settings(f"{emulator.url}/v1"), folder), environ={})
    report = collect(folder / "out", rows=IMAGES)
    cards = (report.cards[number % len(report.cards)]._replace(row_id=f"row {number}") for number in range(rows))
    return html_of(replace(report, cards=tuple(cards), rows_known=rows))


def _material(folder: Path) -> None:
    """Images whose thumbnails are as large as those of detailed photos, and their manifest."""
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "image", "title"])
        for number in range(IMAGES):
            detail = Image.effect_noise((240, 160), 20 + number).resize((960, 640)).convert("RGB")
            colours = Image.linear_gradient("L").resize((960, 640)).convert("RGB")
            Image.blend(colours, detail, 0.5).save(folder / f"{number}.jpg", quality=90)
            writer.writerow([f"r{number}", f"{number}.jpg", f"Thing {number}, blue, size {number % 7}"])


def _settings(base_url: str) -> Mapping[str, Any]:
    return {
        "name": "bench",
        "manifest": {"path": "rows.csv", "id": "id", "keep": ["title"]},
        "prompt": {"user": "Which category has {title}?"},
        "answer": {"labels": ["shoe", "bag", "hat", "shirt", "coat", "other"]},
        "provider": {"name": "emulator", "model": "grok-4.3", "base_url": base_url},
        "output": {"path": "out"},
    }


def _measured(folder: Path, tries: int, last_row: str) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    """Milliseconds until the report is usable, of a search in it, and until the empty page is usable; in turns."""
    from playwright.sync_api import sync_playwright

    report, search, empty = [], [], []
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(tries):
            for name, found in (("report", report), ("empty", empty)):
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.goto((folder / f"{name}.html").as_uri())
                found.append(page.evaluate(_USABLE))
                if name == "report":
                    search.append(page.evaluate(_SEARCH, last_row))
                page.close()
        browser.close()
    return report, search, empty
