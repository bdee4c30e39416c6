"""Outputs by their place: a folder, or the URL of an object store, which is fetched for reading."""

from __future__ import annotations

import os
from pathlib import Path

from batchvision.checkpoint import Disk, disk_at, fetch_output
from batchvision.errors import JobInvalid
from batchvision.job import Job, OutputSection, local_copy
from batchvision.object_store import is_object_url


def output_at(place: str | os.PathLike[str]) -> Path:
    """The folder of an output. Raises JobInvalid, DiskFailed, CheckpointDamaged where it must be fetched."""
    text = os.fspath(place)
    return _fetched(text, local_copy(text)) if is_object_url(text) else Path(text).expanduser()


def output_of_job(job: Job) -> Path:
    """The folder of a job's output. Raises as :func:`output_at`."""
    return job.output_path if job.output_url is None else _fetched(job.output_url, job.output_path)


def _fetched(url: str, copy: Path) -> Path:
    output = fetch_output(url, copy)
    if not any(output.iterdir()):
        raise JobInvalid(f"there is no output at {url}: batchvision run JOB makes one")
    return output


def reading(job: Job) -> Job:
    """The job, with its output, which may be new, where it can be read without the lock. Raises DiskFailed."""
    if job.output_url is None:
        return job
    return job.model_copy(update={"output_path": fetch_output(job.output_url, job.output_path)})


def local_folder(place: Job | str) -> Path:
    """The folder where a run of this machine works on an output. For an object store it is the local copy."""
    if isinstance(place, Job):
        return place.output_path
    return local_copy(place) if is_object_url(place) else Path(place).expanduser()


def for_writing(place: Job | str) -> tuple[Path, Disk]:
    """The folder of an output, and its disk, for a command that takes its lock. Raises JobInvalid."""
    if isinstance(place, Job):
        url, output, seconds = place.output_url, place.output_path, place.output.sync_seconds
    elif is_object_url(place):
        url, output, seconds = place, local_copy(place), OutputSection(path=place).sync_seconds
    else:
        url, output, seconds = None, Path(place).expanduser(), 0.0
    return output, disk_at(output, url, seconds)
