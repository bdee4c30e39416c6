"""A job folder for the tests of the job room."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from batchvision.errors import JobInvalid
from batchvision.job import Job

MINIMAL = """
[manifest]
path = "photos.csv"
[prompt]
user = "Describe {title}."
[provider]
name = "emulator"
model = "grok-4.3"
"""


def write_job(folder: Path, text: str = MINIMAL, name: str = "captions.toml") -> Path:
    """A job file beside a manifest; the manifest's content does not matter to a job."""
    (folder / "photos.csv").write_text("image,title\na.png,Shoe\n")
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str = MINIMAL, environ: Mapping[str, str] | None = None, **overrides: object) -> Job:
    """The job of ``text``; an override's key has its dots written as two underscores."""
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    return Job.load(write_job(folder, text), dotted, environ or {})


def problems(folder: Path, text: str, environ: Mapping[str, str] | None = None, **overrides: object) -> tuple[str, ...]:
    with pytest.raises(JobInvalid) as caught:
        load(folder, text, environ, **overrides)
    return caught.value.problems


def with_lines(**sections: str) -> str:
    """The minimal job with lines added to its sections."""
    text = MINIMAL
    for section, lines in sections.items():
        header = f"[{section}]"
        text = text.replace(header, f"{header}\n{lines}") if header in text else f"{text}\n{header}\n{lines}\n"
    return text
