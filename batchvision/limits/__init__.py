"""Decide when a request may be sent: rate limiter and controller, circuit breaker, spend caps, permits."""

from batchvision.limits.byte_budget import ByteBudget
from batchvision.limits.circuit_breaker import OUTAGE_AFTER_FAILURES, LocalCircuitBreaker
from batchvision.limits.controller import RateController, RateState
from batchvision.limits.limiter import FIRST_WINDOW, LocalRateLimiter
from batchvision.limits.outage import WaitPeriod
from batchvision.limits.permits import Permit, Permits
from batchvision.limits.protocols import (
    CircuitBreaker,
    PauseSignal,
    RateFacts,
    RateLimiter,
    RateSettings,
    ReportWait,
    SendSlot,
    SpendCap,
)
from batchvision.limits.rate_history import RateHistory, RateSample
from batchvision.limits.spend_caps import LocalSpendCap, PeriodCap, SpendCaps, day_of, month_of, share_of

__all__ = [
    "FIRST_WINDOW",
    "OUTAGE_AFTER_FAILURES",
    "ByteBudget",
    "CircuitBreaker",
    "LocalCircuitBreaker",
    "LocalRateLimiter",
    "LocalSpendCap",
    "PauseSignal",
    "PeriodCap",
    "Permit",
    "Permits",
    "RateController",
    "RateFacts",
    "RateHistory",
    "RateLimiter",
    "RateSample",
    "RateSettings",
    "RateState",
    "ReportWait",
    "SendSlot",
    "SpendCap",
    "SpendCaps",
    "WaitPeriod",
    "day_of",
    "month_of",
    "share_of",
]
