"""Lanes: ways to deliver requests. A lane takes rows and tickets of earlier runs, and books how each one ended."""

from batchvision.runner.lanes.base import Delivery, RequestLane
from batchvision.runner.lanes.deferred import POLLERS, DeferredLane, DeferredSettings
from batchvision.runner.lanes.online import OnlineLane, rows_at_once
from batchvision.runner.lanes.refused import RefusedRows

__all__ = [
    "POLLERS",
    "DeferredLane",
    "DeferredSettings",
    "Delivery",
    "OnlineLane",
    "RefusedRows",
    "RequestLane",
    "rows_at_once",
]
