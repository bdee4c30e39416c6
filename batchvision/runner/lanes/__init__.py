"""Ways to deliver: a lane takes rows (and the open tickets of earlier runs) and books how each one ended.

How many tasks a lane runs inside is its own affair; each send and each read is one exchange.
"""

from batchvision.runner.lanes.base import Delivery, Lane
from batchvision.runner.lanes.deduplicator import RequestDeduplicator
from batchvision.runner.lanes.deferred import POLLERS, DeferredLane
from batchvision.runner.lanes.online import OnlineLane, rows_at_once

__all__ = ["POLLERS", "DeferredLane", "Delivery", "Lane", "OnlineLane", "RequestDeduplicator", "rows_at_once"]
