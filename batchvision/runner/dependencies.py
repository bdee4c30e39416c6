"""The dependencies of a run that a test can replace."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

from batchvision.checkpoint import Disk
from batchvision.eventloop import Offload
from batchvision.http import httpx
from batchvision.limits import RateLimiter, SpendCap
from batchvision.secrets import Secrets

utc_now: Callable[[], datetime] = partial(datetime.now, UTC)


@dataclass(frozen=True, slots=True)
class RunDependencies:
    """Clock, randomness, disk, threads, HTTP transport, rate and money of a run. The defaults are the real ones.

    ``offload`` runs blocking work off the loop; ``None``: in threads. Virtual time runs it inline.
    ``transport`` stands in for connections to the job's provider; the caller closes it. The run adds its secrets to
    ``secrets``, so that the caller can mask them too. ``rate_limiter`` and ``spend_cap`` stand in for those of this
    process; several runs may share them.
    """

    now: Callable[[], datetime] = utc_now
    rng: random.Random = field(default_factory=random.Random)
    disk: Disk | None = None
    offload: Offload | None = None
    transport: httpx.AsyncBaseTransport | None = None
    secrets: Secrets = field(default_factory=Secrets)
    rate_limiter: RateLimiter | None = None
    spend_cap: SpendCap | None = None
