"""The argument JOB or OUT: an output folder, or the job that writes it."""

from __future__ import annotations

from pathlib import Path

import click

from batchvision.cli.options import load_job

place_argument = click.argument("place", metavar="OUT|JOB", type=str)


def output_of(place: str) -> Path:
    """The output folder at ``place``, or of the job at ``place``."""
    path = Path(place).expanduser()
    if not path.is_dir() and (path.suffix == ".toml" or path.is_file()):
        return from_here(Path(load_job(place, {}, ()).output_path))
    return path


def from_here(path: Path) -> Path:
    """``path`` relative to the working directory, if it lies below."""
    here = Path.cwd()
    straight = path.resolve() if ".." in path.parts else path
    return straight.relative_to(here) if straight.is_relative_to(here) else straight
