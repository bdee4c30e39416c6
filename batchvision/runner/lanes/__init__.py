"""Lanes: ways to deliver requests. A lane takes rows and tickets of earlier runs, and books their ends."""

from batchvision.runner.lanes.deferred import POLLERS, DeferredLane, DeferredSettings
from batchvision.runner.lanes.delivery import (
    Delivery,
    OnlineLane,
    RequestLane,
    SubmissionControl,
    TicketLane,
    rows_at_once,
)

__all__ = [
    "POLLERS",
    "DeferredLane",
    "DeferredSettings",
    "Delivery",
    "OnlineLane",
    "RequestLane",
    "SubmissionControl",
    "TicketLane",
    "rows_at_once",
]
