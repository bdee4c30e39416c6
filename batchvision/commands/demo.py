"""The demo: write sample images and run a job on them against the emulator.

The job and its run are ordinary.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.job import Job
from batchvision.records import RunSummary
from batchvision.runner import Watch, run_async
from batchvision.samples import write_samples

JOB_NAME = "demo.toml"
#: Bounds that make the progress bar visible for a few seconds.
LATENCY_SECONDS = (0.05, 0.3)

JOB_TEXT = """\
# The demo's job. To run it again by hand: `batchvision emulate` in one terminal, in another
#   batchvision run {here}/demo.toml
# To ask a real model: set its key (export XAI_API_KEY=...), then
#   batchvision run {here}/demo.toml --provider xai --out out/real

name = "demo"

[manifest]
path = "photos/photos.csv"    # id, image, title
id = "id"
images = ["image"]
keep = ["title"]              # copied to the results

[prompt]
system = "You label product photos."
user = "Describe this {{title}}."

[answer]
labels = ["shoe", "bag", "cup", "lamp", "chair", "sign", "apple", "clock", "umbrella"]

[answer.schema]               # every answer is checked against this and becomes columns
type = "object"
required = ["main_colour", "caption"]
additionalProperties = false
properties.main_colour = {{ type = "string" }}
properties.caption = {{ type = "string" }}

[provider]
name = "emulator"             # xai | openrouter | openai | emulator
model = "grok-4.3"

[output]
path = "."                    # results/, failures/, attempts/ beside this file
on_recipe_change = "redo"
"""


class DemoRun(NamedTuple):
    """The folder of the demo, its job file and the summary of its run."""

    folder: Path
    job_path: Path
    summary: RunSummary


async def demo(folder: Path, watch: Watch | None = None) -> DemoRun:
    """Write the samples and the job, then run it. A second demo finds all rows done. Raises StopRun as a run does."""
    if not (folder / "photos" / "photos.csv").exists():
        write_samples(folder / "photos")
    job_path = folder / JOB_NAME
    job_path.write_text(JOB_TEXT.format(here=folder), encoding="utf-8")
    with start_in_thread(EmulatorOptions(latency_seconds=LATENCY_SECONDS)) as emulator:
        here = {"provider.base_url": f"{emulator.url}/v1", "provider.proxy": "none"}
        job = Job.load(job_path, overrides=here, environ={})
        summary = await run_async(job, watch=watch, environ={})
    return DemoRun(folder, job_path, summary)
