"""Measure how long the provider has not answered, and decide when the run stops waiting.

Times are the event loop's.
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

MOST_OUTAGE_SECONDS = 7_200.0
TOLD_FROM_SECONDS = 10.0  #: shorter pauses are over before they are read


class Wait(NamedTuple):
    """A time in which at most a probe leaves. ``until``: its end; in an outage, the moment when the run gives up."""

    reason: str
    until: float
    is_outage: bool = False


class Trouble:
    """Failures and 429s since the last answer. ``most_seconds``: ``limits.max_outage_seconds``."""

    def __init__(self, most_seconds: float = MOST_OUTAGE_SECONDS, *, was_answered: bool = False) -> None:
        self._most_seconds = most_seconds
        self._was_answered = was_answered
        self._since: float | None = None

    def __repr__(self) -> str:
        return f"<Trouble since {self._since}>"

    def ends_at(self, now: float) -> float:
        """The moment when the run gives up, if no answer comes before."""
        return (now if self._since is None else self._since) + self._most_seconds

    def answered(self, *, is_success: bool) -> None:
        self._since = None
        self._was_answered = self._was_answered or is_success

    def met(self, error: Transient, now: float) -> StopRun | None:
        """Count a failure. Returns the reason to stop once the run has waited, or would have to wait, for too long."""
        if self._since is None:
            self._since = now
        wait = error.retry_after_seconds or 0.0
        if isinstance(error, RateLimited) and now + wait - self._since >= self._most_seconds:
            return QuotaReached(
                f"{error}; that is longer than limits.max_outage_seconds ({self._most_seconds:g}). Run again then to "
                "go on: open rows are still pending"
            )
        if now - self._since < self._most_seconds:
            return None
        gone = timedelta(seconds=round(now - self._since))
        words = f"no answer from the provider for {gone} (limits.max_outage_seconds); the last failure: {error}"
        if self._was_answered:
            return ProviderUnavailable(f"{words}. Run again when it is back: open rows are still pending")
        return ProviderNeverAnswered(f"{words}. Nothing was ever answered: check provider.base_url and the server")
