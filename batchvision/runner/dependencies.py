"""The dependencies of a run that a test can replace."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from batchvision.checkpoint import Disk
from batchvision.http import httpx
from batchvision.offload import Offload


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RunDependencies:
    """Where a run touches the world, so that a test can put another in its place. The defaults are the real one.

    ``offload`` runs blocking work off the loop (None: threads; inline in virtual time). ``transport`` is used instead
    of connections to the job's provider; the caller closes it.
    """

    now: Callable[[], datetime] = utc_now
    rng: random.Random = field(default_factory=random.Random)
    disk: Disk | None = None
    offload: Offload | None = None
    transport: httpx.AsyncBaseTransport | None = None
