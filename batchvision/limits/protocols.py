"""The seams of the limits: Protocols that one process, a shared file or an actor may implement.

Times are seconds on the event loop's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from batchvision.errors import BatchvisionError, RateLimited, StopRun, Transient
from batchvision.eventloop import Wakeup
from batchvision.limits.outage import MAX_OUTAGE_SECONDS, WaitPeriod
from batchvision.providers import RateSigns
from batchvision.records import RateSample

#: Called with each wait that is worth a report, and with ``None`` when the provider answers again.
ReportWait = Callable[[WaitPeriod | None], None]


@dataclass(frozen=True, slots=True)
class RateSettings:
    """Limits of the job. ``None``: the job does not give it."""

    requests_per_second: float | None = None
    tokens_per_minute: float | None = None
    in_flight: int | None = None
    max_outage_seconds: float = MAX_OUTAGE_SECONDS
    timeout_seconds: float | None = None  #: of one request
    was_answered: bool = False  #: the provider has answered in the run before this one


class RateRefusal(NamedTuple):
    """An answer that asks to come again later. ``sent_at``: of its request; ``None``: a poll."""

    sent_at: float | None
    retry_after_seconds: float | None
    is_429: bool  #: a 429 about rates
    limit_per_second: float | None = None
    limit_tokens_per_minute: float | None = None

    @classmethod
    def of(cls, error: Transient, sent_at: float | None) -> RateRefusal:
        if not isinstance(error, RateLimited):
            return cls(sent_at, error.retry_after_seconds, is_429=False)
        limits = (error.limit_per_second, error.limit_tokens_per_minute)
        return cls(sent_at, error.retry_after_seconds, not error.is_capacity, *limits)


class SendSlot(Protocol):
    """One request's place in flight, from its admission to its release."""

    sent_at: float | None
    tokens: float  #: that it was admitted with

    async def wait(self) -> None:
        """Wait for the request's time. A pause that began after the admission holds too."""

    def release(self) -> None:
        """Free the place: the answer has come, or the request is not sent."""


class RateLimiter(Protocol):
    """Enforces the current rate, pauses and outages."""

    @property
    def polls_per_second(self) -> float | None:
        """Polls that may be sent; ``None``: no rate is known."""

    @property
    def failures_in_a_row(self) -> int: ...
    @property
    def is_provider_down(self) -> bool:
        """Whether each request is a probe, which spends no attempt."""

    async def acquire(self, tokens: float) -> SendSlot:
        """Wait in the queue for a place in flight."""

    async def acquire_poll(self) -> None:
        """Wait until a poll may be sent. Polls take at most half of the rate."""

    def return_tokens(self, estimated: float, used: int) -> None:
        """Replace the estimated tokens of a request by the used ones; 0: the request cost nothing."""

    def learn(self, signs: RateSigns) -> None:
        """Take the limits that an answer names where the job gives none."""

    def observe(self, error: BatchvisionError | None, sent_at: float | None = None) -> StopRun | None:
        """Take the end of a request, or of a poll (``sent_at`` is ``None``).

        Returns the reason to stop the run if the provider was down, or asks to wait, for too long.
        """

    def rate_samples(self) -> tuple[RateSample, ...]:
        """Rate, 429s and pauses over the time of the run."""


class RequestQueue(Protocol):
    """The queue of a rate limiter, as its pacing sees it."""

    unsent: int  #: requests that are admitted and not yet sent

    @property
    def length(self) -> int:
        """Requests that are not admitted yet."""

    def waiting(self, most: int) -> list[float]:
        """The tokens of the first requests that only the pacing holds back."""

    def admit_waiting(self) -> None:
        """Admit the requests that may be sent by now."""

    def paused(self, until: float, now: float, reason: str | None) -> None:
        """A pause has come from the provider. ``reason``: for people, if no request of this process has caused it."""


class Pacing(Protocol):
    """Gives the times of requests: rate, tokens a minute, pauses."""

    def serve(self, queue: RequestQueue) -> None:
        """Give times to the requests of ``queue``. The limiter calls this once."""

    @property
    def per_second(self) -> float | None:
        """The rate; ``None``: none is known."""

    @property
    def window(self) -> float:
        """The most requests in flight while no rate is known."""

    @property
    def paused_until(self) -> float: ...
    def seconds_to_wait(self, tokens: float, unsent: int, now: float) -> float:
        """How long until one more request may be admitted, beside ``unsent`` ones; infinite: an event admits it."""

    def take_tokens(self, tokens: float, now: float) -> float:
        """Take the tokens of an admitted request. Returns those that were taken: 0 without a limit."""

    def give_back(self, tokens: float, now: float) -> None:
        """Return tokens that were not used. Negative: usage beyond the estimate."""

    async def slot(self) -> float:
        """Reserve the next time and wait for it. Returns the time."""

    async def poll_slot(self) -> float:
        """The same for a poll. Polls take at most half of the rate."""

    def sent(self, now: float) -> None:
        """A request or a poll leaves."""

    def answered_first(self, now: float) -> None:
        """The first answer of this process has come: the time before it is no credit."""

    def accepted(self, now: float) -> None:
        """An answer that was no refusal."""

    def refused(self, refusal: RateRefusal, now: float) -> float:
        """Take a refusal. Returns for how long all requests must pause."""

    def learn(self, signs: RateSigns, now: float) -> None:
        """Take the limits that an answer names where the job gives none."""

    def pause(self, until: float, now: float) -> None:
        """Send nothing before ``until``."""


class PauseSignal(Protocol):
    """Until when no request may be sent."""

    @property
    def until(self) -> float: ...
    def extend(self, until: float) -> None: ...


class CircuitBreaker(Protocol):
    """Decides whether a request may be sent, by the ends of the requests before it."""

    @property
    def is_open(self) -> bool: ...
    @property
    def failures_in_a_row(self) -> int: ...
    def seconds_to_wait(self, now: float) -> float:
        """How long until a request may be sent; 0: now. An answer may end the wait earlier."""

    def admit(self, now: float) -> bool:
        """Let a request pass. Returns whether it is a probe, which ends with :meth:`probe_ended`."""

    def answered(self) -> None:
        """The provider has answered."""

    def failed(self, now: float) -> None:
        """A failure on the provider's side, or on the way to it."""

    def undecided(self, now: float) -> None:
        """The first request was refused, perhaps because of its row: one other request may be sent at once."""

    def probe_ended(self, now: float) -> None:
        """A probe is not in flight any longer. Until its answer is read, the next one waits."""


class SpendCap(Protocol):
    """A limit in ticks on money spent and reserved.

    A request must ``reserve`` its bound before it is sent, then ``settle`` or ``release`` it.
    """

    returned: Wakeup  #: wakes tasks that wait for money

    @property
    def is_held_elsewhere(self) -> bool:
        """Whether another process holds money that may return."""

    @property
    def left_ticks(self) -> int | None:
        """The most that may still be reserved; ``None`` without a cap."""

    @property
    def tightest_key(self) -> str | None:
        """The job key of the cap with the least left; ``None`` without a cap."""

    def reserve(self, bound_ticks: int | None) -> bool:
        """Set the bound of one request aside. ``False``, and nothing changed, if the cap does not allow it."""

    def commit(self, bound_ticks: int | None) -> None:
        """Set a bound aside without a check: a ticket of an earlier run is committed already."""

    def settle(self, bound_ticks: int | None, real_ticks: int | None) -> None:
        """Replace a reservation by its bill, or by its bound if the bill is unknown (``None``)."""

    def release(self, bound_ticks: int | None) -> None:
        """Give a reservation back: the request cost nothing."""
