"""Count the functions and files of batchvision that one row passes, from the feed to its durable answer.

A run asks about nine rows with an image URL each, one request at a time. The transport is faked. Counted are the
functions called, in any thread, between the arrival of the fourth request and the arrival of the seventh. In this
steady state each step of a row happens at least once: preparation, permit, intent, sending, raw answer, classification,
booking, and the journal's commits. Reading the manifest, opening the output and sealing are not counted. Neither are
comprehensions and methods that Python generates (named tuples, dataclasses).
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import anyio
import httpx
from anyio.lowlevel import checkpoint

import batchvision
from batchvision.job import Job
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.session import run_async

PACKAGE = Path(batchvision.__file__).parent
ROWS = 9
FIRST_REQUEST, LAST_REQUEST = 4, 7
ANSWER = {
    "id": "answer-1",
    "model": "grok-4.3",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A red shoe."}}],
    "usage": {"prompt_tokens": 300, "completion_tokens": 5, "total_tokens": 305, "cost_in_usd_ticks": 4_000_000},
}
_GENERATED = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>"}


class Tracer:
    """The provider's side of the run, and the code objects called while its requests are in the window."""

    def __init__(self) -> None:
        self.codes: set[CodeType] = set()
        self.requests = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        self.requests += 1
        await checkpoint()
        return httpx.Response(200, json=ANSWER)

    def profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and FIRST_REQUEST <= self.requests < LAST_REQUEST:
            self.codes.add(frame.f_code)

    def functions(self) -> Mapping[str, list[str]]:
        """The functions of batchvision by file, each with its line."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for code in sorted(self.codes, key=lambda code: code.co_firstlineno):
            path = Path(code.co_filename)
            if path.is_relative_to(PACKAGE) and code.co_name not in _GENERATED:
                found[str(path.relative_to(PACKAGE))].append(f"{code.co_firstlineno}: {code.co_qualname}")
        return dict(sorted(found.items()))


def trace(folder: Path) -> Mapping[str, list[str]]:
    """Run the job in ``folder`` and return the functions by file."""
    lines = ["sku,image,title", *(f"{n},https://img.example/{n}.jpg,shoe {n}" for n in range(ROWS))]
    (folder / "photos.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = {
        "name": "traced",
        "manifest": {"path": "photos.csv", "id": "sku", "keep": ["title"]},
        "prompt": {"user": "Describe {title}."},
        "provider": {"name": "xai", "model": "grok-4.3"},
        "limits": {"concurrency": 1},
        "output": {"path": "out"},
    }
    job, tracer = Job.from_mapping(table, folder, {}), Tracer()
    dependencies = RunDependencies(rng=random.Random(0), transport=httpx.MockTransport(tracer.answer))

    async def run() -> None:
        summary = await run_async(job, environ={"XAI_API_KEY": "traced-key-0000"}, dependencies=dependencies)
        if summary.rows_completed != ROWS:
            raise RuntimeError(f"only {summary.rows_completed} of {ROWS} rows were completed: {summary.message}")

    before = sys.getprofile(), threading.getprofile()
    threading.setprofile(tracer.profile)
    sys.setprofile(tracer.profile)
    try:
        anyio.run(run)
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])
    return tracer.functions()


def main() -> None:
    """Print the figures; with ``--list`` the functions too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name the functions by file")
    parser.add_argument("--json", action="store_true", help="print the functions by file as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = trace(Path(folder))
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for path, names in found.items() if options.list else ():
        print(f"{path}  ({len(names)})", *names, sep="\n  ")
    print(f"{sum(map(len, found.values()))} functions in {len(found)} files")


if __name__ == "__main__":
    main()
