"""JOB or OUT: commands that look at an output take either the folder or the job that writes it."""

from __future__ import annotations

from pathlib import Path

import click

from batchvision.cli.options import load_job

place_argument = click.argument("place", metavar="OUT|JOB", type=str)


def output_of(place: str) -> Path:
    """The output folder that ``place`` is, or whose job it is."""
    path = Path(place).expanduser()
    if not path.is_dir() and (path.suffix == ".toml" or path.is_file()):
        output = load_job(place, {}, ()).output_path
        assert isinstance(output, Path)
        return from_here(output)
    return path


def from_here(path: Path) -> Path:
    """``path`` relative to where the user stands, if it lies below."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
