"""Decide when a request may be sent: rate limiter and controller, circuit breaker, spend caps, permits."""

from batchvision.limits.budget import Member, MemberUse, Offer, Spendings
from batchvision.limits.budget_file import BudgetFile, FileMember
from batchvision.limits.controller import RateController, RateState
from batchvision.limits.limiter import LocalRateLimiter, RateHistory
from batchvision.limits.member import Membership
from batchvision.limits.outage import OUTAGE_AFTER_FAILURES, LocalCircuitBreaker, WaitPeriod
from batchvision.limits.pacing import FIRST_WINDOW
from batchvision.limits.permits import LocalSpendCap, Permit, Permits, SpendCaps, day_of, month_of, share_of
from batchvision.limits.protocols import (
    CircuitBreaker,
    Pacing,
    PauseSignal,
    RateLimiter,
    RateSettings,
    ReportWait,
    SendSlot,
    SpendCap,
)

__all__ = [
    "FIRST_WINDOW",
    "OUTAGE_AFTER_FAILURES",
    "BudgetFile",
    "CircuitBreaker",
    "FileMember",
    "LocalCircuitBreaker",
    "LocalRateLimiter",
    "LocalSpendCap",
    "Member",
    "MemberUse",
    "Membership",
    "Offer",
    "Pacing",
    "PauseSignal",
    "Permit",
    "Permits",
    "RateController",
    "RateHistory",
    "RateLimiter",
    "RateSettings",
    "RateState",
    "ReportWait",
    "SendSlot",
    "SpendCap",
    "SpendCaps",
    "Spendings",
    "WaitPeriod",
    "day_of",
    "month_of",
    "share_of",
]
