"""The argument JOB or OUT: an output folder, or the job that writes it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from batchvision.cli.options import complete_file, load_job

if TYPE_CHECKING:
    from batchvision.job import Job

place_argument = click.argument("place", metavar="OUT|JOB", type=str, shell_complete=complete_file)


def output_of(place: str) -> Path:
    """The folder with the output at ``place``, or of the job at ``place``. One in an object store is fetched."""
    from batchvision.commands.places import output_at, output_of_job

    job = job_at(place)
    return output_at(place) if job is None else from_here(output_of_job(job))


def url_of(place: str) -> str | None:
    """The URL of an output in an object store, which messages name instead of its copy."""
    from batchvision.object_store import is_object_url

    job = job_at(place)
    return job.output_url if job is not None else place if is_object_url(place) else None


def local_folder_of(place: str) -> Path:
    """The folder where a run of this machine works on the output at ``place``. Nothing is fetched."""
    from batchvision.commands.places import local_folder

    return local_folder(job_at(place) or place)


def job_at(place: str) -> Job | None:
    """The job at ``place``; ``None`` where it is an output."""
    if "://" in place:
        return None
    path = Path(place).expanduser()
    return load_job(place, {}, ()) if not path.is_dir() and (path.suffix == ".toml" or path.is_file()) else None


def from_here(path: Path) -> Path:
    """``path`` relative to the working directory, if it lies below."""
    here = Path.cwd()
    straight = path.resolve() if ".." in path.parts else path
    return straight.relative_to(here) if straight.is_relative_to(here) else straight
