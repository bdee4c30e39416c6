"""When a request may be sent: rate, concurrency, outages and money."""

from batchvision.limits.budget import Budget, Lease, LocalBudget
from batchvision.limits.caps import Caps, PeriodCap, day_of, month_of, share_of
from batchvision.limits.gate import OUTAGE_AFTER_FAILURES, Gate
from batchvision.limits.pace import Pace
from batchvision.limits.pacing import Pacing, PacingLimits
from batchvision.limits.room import Room
from batchvision.limits.tokens import TokenBucket
from batchvision.limits.trouble import Wait

__all__ = [
    "OUTAGE_AFTER_FAILURES",
    "Budget",
    "Caps",
    "Gate",
    "Lease",
    "LocalBudget",
    "Pace",
    "Pacing",
    "PacingLimits",
    "PeriodCap",
    "Room",
    "TokenBucket",
    "Wait",
    "day_of",
    "month_of",
    "share_of",
]
