"""The load that a job asks for in ``[load]``."""

from __future__ import annotations

import os
from collections.abc import Mapping

from batchvision.commands.load.destination import Destination
from batchvision.commands.load.loading import Loaded, LoadProgress, load
from batchvision.commands.load.opening import LoadPlace, open_destination
from batchvision.job import Job


def job_destination(job: Job, environ: Mapping[str, str] | None = None) -> Destination | None:
    """The destination of ``load.to``; ``None`` without one. Connects to nothing. Raises JobInvalid."""
    section = job.load_section
    if section.to is None:
        return None
    place = LoadPlace(section.to, job.base_dir, section.db_schema, key="load.to")
    return open_destination(place, os.environ if environ is None else environ)


def load_of_job(job: Job, destination: Destination, progress: LoadProgress = lambda table, rows: None) -> Loaded:
    """Load the output of a job. Raises LoadFailed, CheckpointDamaged, JobInvalid."""
    section = job.load_section
    return load(job.output_path, destination, section.include, section.table_prefix, progress)
