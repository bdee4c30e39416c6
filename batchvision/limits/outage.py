"""End a run that waits for too long, and report its waits: no answer, or pauses that the provider asks for.

No I/O and no clock: each method is given the time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from batchvision.errors import (
    ProviderNeverAnswered,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
    StopRun,
    Transient,
)

MAX_OUTAGE_SECONDS = 7_200.0


class WaitPeriod(NamedTuple):
    """A time in which at most a probe is sent. ``until``: its end; in an outage, the end of the run."""

    reason: str
    until: float
    is_outage: bool = False


class OutageRule:
    """Failures and 429s since the last answer. ``max_seconds``: ``limits.max_outage_seconds``."""

    def __init__(self, max_seconds: float = MAX_OUTAGE_SECONDS, *, was_answered: bool = False) -> None:
        self._max_seconds = max_seconds
        self._was_answered = was_answered
        self._since: float | None = None

    def __repr__(self) -> str:
        return f"<OutageRule since {self._since}>"

    def ends_at(self, now: float) -> float:
        """When the run ends if no answer comes before."""
        return (now if self._since is None else self._since) + self._max_seconds

    def answered(self, *, is_success: bool) -> None:
        self._since = None
        self._was_answered = self._was_answered or is_success

    def failed(self, error: Transient, now: float) -> StopRun | None:
        """Count a failure. Returns the reason to stop once the run has waited, or would have to wait, for too long."""
        if self._since is None:
            self._since = now
        wait = error.retry_after_seconds or 0.0
        if isinstance(error, RateLimited) and now + wait - self._since >= self._max_seconds:
            return QuotaReached(
                f"{error}; that is longer than limits.max_outage_seconds ({self._max_seconds:g}). Run again then to "
                "go on: open rows are still pending"
            )
        if now - self._since < self._max_seconds:
            return None
        gone = timedelta(seconds=round(now - self._since))
        words = f"no answer from the provider for {gone} (limits.max_outage_seconds); the last failure: {error}"
        if self._was_answered:
            return ProviderUnavailable(f"{words}. Run again when it is back: open rows are still pending")
        return ProviderNeverAnswered(f"{words}. Nothing was ever answered: check provider.base_url and the server")
