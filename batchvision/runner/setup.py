"""The parts of a run that exist before its output is opened."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

from batchvision.job import Job
from batchvision.money import quote
from batchvision.offload import threads
from batchvision.records import Purpose
from batchvision.runner import wiring
from batchvision.runner.access import access_of, key_of
from batchvision.runner.booking import RunCounts
from batchvision.runner.dependencies import RunDependencies
from batchvision.runner.feed import Selection
from batchvision.runner.job_warnings import warnings_of
from batchvision.runner.shares import share_of_job, within_open_files
from batchvision.stopping import LocalStopSignal

log = logging.getLogger(__name__)


def new_run_id(at: datetime, rng: random.Random) -> str:
    """Sorts by time. The random end distinguishes two runs of one second."""
    return f"{at:%Y%m%dT%H%M%SZ}-{rng.getrandbits(24):06x}"


class RunSetup:
    """``given`` is the job as it was given, ``job`` the share of it that this run works on."""

    def __init__(
        self,
        job: Job,
        selection: Selection,
        environ: Mapping[str, str] | None,
        dependencies: RunDependencies,
        purpose: Purpose,
    ) -> None:
        """Check the job, log its warnings and ask for its key. Raises JobInvalid."""
        key = job.api_key(environ)
        self.given = job
        self.job = within_open_files(share_of_job(job, selection.own_shard))
        self.selection = selection
        if selection.retry_failed is None:
            self.selection = replace(selection, retry_failed=job.limits.retry_kinds)
        self.dependencies = dependencies
        self.offload = dependencies.offload or threads()
        #: of the manifest: a thread of its own, because a disk with images may hang
        self.read = dependencies.offload or threads(1, may_abandon=True)
        self.started_at = dependencies.now()
        self.purpose = purpose
        self.run_id = purpose.mark(new_run_id(self.started_at, dependencies.rng))
        self.dialect = wiring.dialect_of(job, job.provider.name)
        self.access = access_of(job, key, environ, dependencies.transport)
        self.secrets = dependencies.secrets
        self.secrets.add(*self.access.secrets)
        self.key = key_of(job, key, environ, self.secrets, self.offload)
        if self.access.network is not None:
            log.info("%s", self.access.network)
        if self.access.images.proxy is not None:
            log.info("%s", self.access.images)
        quoted = quote(job)
        for warning in warnings_of(job, quoted, self.started_at):
            log.warning("%s", warning)
        self.prices = quoted.prices
        self.estimator = wiring.estimator_of(job, self.prices)
        self.stop = LocalStopSignal()
        self.counts = RunCounts(job.recipe.answer, ZoneInfo(job.timezone))

    @property
    def holds(self) -> bool:
        """A row that may have been billed stays pending."""
        return self.job.limits.ambiguous == "hold"

    @property
    def is_trial(self) -> bool:
        """Nothing of this run is published."""
        return self.purpose is Purpose.SWEEP
