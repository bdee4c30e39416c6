"""Ways to deliver: a lane takes rows (and the open tickets of earlier runs) and books how each one ended.

How many tasks a lane runs inside is its own affair; each send and each read is one exchange.
"""

from batchvision.lanes.base import Delivery, Lane
from batchvision.lanes.deferred import POLLERS, DeferredLane
from batchvision.lanes.online import OnlineLane, rows_at_once
from batchvision.lanes.sharing import Sharing

__all__ = ["POLLERS", "DeferredLane", "Delivery", "Lane", "OnlineLane", "Sharing", "rows_at_once"]
