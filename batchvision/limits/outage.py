"""An outage of the provider: the circuit breaker sends probes, the outage rule ends the run.

No I/O and no clock: each method is given the time.
"""

from __future__ import annotations

from datetime import timedelta
from enum import Enum
from math import inf
from typing import NamedTuple

from batchvision.errors import (
    ProviderNeverAnswered,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
    StopRun,
    Transient,
)

FIRST_ALONE_SECONDS = 10.0  #: The first request of a run is in flight alone for at most so long.
OUTAGE_AFTER_FAILURES = 20  #: So many failures in a row on the provider's side mean that it is down.
LONGEST_PROBE_WAIT_SECONDS = 60.0  #: The wait between two probes doubles up to this time.
MAX_OUTAGE_SECONDS = 7_200.0  #: The default of ``limits.max_outage_seconds``.


class WaitPeriod(NamedTuple):
    """A time in which at most a probe is sent. ``until``: its end; in an outage, the end of the run."""

    reason: str
    until: float
    is_outage: bool = False


class OutageRule:
    """Ends a run that waits for too long: failures and 429s since the last answer.

    ``max_seconds``: ``limits.max_outage_seconds``.
    """

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


class BreakerState(Enum):
    """Which requests may be sent."""

    STARTING = "no answer has come yet: the first request is sent alone"
    CLOSED = "the provider answers: all requests may be sent"
    OPEN = "the provider is down: one probe at a time"


class LocalCircuitBreaker:
    """The circuit breaker of one process."""

    def __init__(self) -> None:
        self.state = BreakerState.STARTING
        self.failures_in_a_row = 0
        self._is_probing = False
        self._probe_wait_seconds = 0.0
        self._next_probe_at = -inf
        self._alone_until = inf  #: the end of the first request's time alone

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.state.name.lower()}, {self.failures_in_a_row} failures in a row>"

    @property
    def is_open(self) -> bool:
        return self.state is BreakerState.OPEN

    def seconds_to_wait(self, now: float) -> float:
        if self.state is BreakerState.CLOSED:
            return 0.0
        next_probe_at = inf if self._is_probing else self._next_probe_at
        return max(0.0, min(self._alone_until, next_probe_at) - now)

    def admit(self, now: float) -> bool:
        if self.state is not BreakerState.CLOSED and now >= self._alone_until:
            self._close()
        if self.state is BreakerState.CLOSED:
            return False
        self._is_probing = True
        if self.state is BreakerState.STARTING:
            self._alone_until = min(self._alone_until, now + FIRST_ALONE_SECONDS)
        return True

    def answered(self) -> None:
        self.failures_in_a_row = 0
        if self.state is not BreakerState.CLOSED:
            self._close()

    def failed(self, now: float) -> None:
        self.failures_in_a_row += 1
        if self.state is BreakerState.CLOSED and self.failures_in_a_row >= OUTAGE_AFTER_FAILURES:
            self.state = BreakerState.OPEN
            self._schedule_probe(now)

    def undecided(self, now: float) -> None:
        if self.state is BreakerState.STARTING:
            self._next_probe_at, self._alone_until = now, inf
        else:
            self.answered()

    def probe_ended(self, now: float) -> None:
        if self.state is not BreakerState.CLOSED:
            self._is_probing = False
            self._schedule_probe(now)

    def _schedule_probe(self, now: float) -> None:
        self._probe_wait_seconds = min(LONGEST_PROBE_WAIT_SECONDS, max(1.0, self._probe_wait_seconds * 2))
        self._next_probe_at = now + self._probe_wait_seconds

    def _close(self) -> None:
        self.state = BreakerState.CLOSED
        self._is_probing = False
        self._probe_wait_seconds, self._next_probe_at, self._alone_until = 0.0, -inf, inf
