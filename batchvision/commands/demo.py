"""The demo: sample images, a provider on this machine, and the ordinary run between them.

Rule: nothing here is special to the demo but the job's text; what it shows is what a user's own job does.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from batchvision.emulator import EmulatorOptions, start_in_thread
from batchvision.job import Job
from batchvision.records import RunSummary
from batchvision.runner import Watch, run_async
from batchvision.samples import draw_samples

JOB_NAME = "demo.toml"
#: Long enough for a progress bar to be seen, short enough not to be waited for.
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
    """What the demo made: the folder with everything, its job, and how the run went."""

    folder: Path
    job_path: Path
    summary: RunSummary


async def demo(folder: Path, watch: Watch | None = None) -> DemoRun:
    """Draw the samples, write the job, run it against an emulator. Run again, it finds all rows done.

    Raises StopRun as a run does.
    """
    if not (folder / "photos" / "photos.csv").exists():
        draw_samples(folder / "photos")
    job_path = folder / JOB_NAME
    job_path.write_text(JOB_TEXT.format(here=folder), encoding="utf-8")
    with start_in_thread(EmulatorOptions(latency_seconds=LATENCY_SECONDS)) as emulator:
        here = {"provider.base_url": f"{emulator.url}/v1", "provider.proxy": "none"}
        job = Job.load(job_path, overrides=here, environ={})
        summary = await run_async(job, watch=watch, environ={})
    return DemoRun(folder, job_path, summary)
