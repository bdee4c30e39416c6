"""Lanes: ways to deliver requests. A lane takes rows and tickets of earlier runs, and books their ends."""

from batchvision.runner.lanes.batch import BatchLane
from batchvision.runner.lanes.deferred import POLLERS, DeferredLane, DeferredSettings
from batchvision.runner.lanes.delivery import (
    Delivery,
    OnlineLane,
    RequestLane,
    SubmissionControl,
    TicketLane,
    rows_at_once,
)
from batchvision.runner.lanes.submissions import BatchSettings

__all__ = [
    "POLLERS",
    "BatchLane",
    "BatchSettings",
    "DeferredLane",
    "DeferredSettings",
    "Delivery",
    "OnlineLane",
    "RequestLane",
    "SubmissionControl",
    "TicketLane",
    "rows_at_once",
]
