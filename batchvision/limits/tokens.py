"""Tokens a minute: a token bucket with give-back. aiolimiter would starve large rows and takes nothing back.

No I/O and no clock: each method is given the time.
"""

from __future__ import annotations

import logging

log = logging.getLogger(__name__)

TOKEN_BURST_SECONDS = 5.0  #: The bucket holds the tokens of so many seconds.
RAISE_FACTOR = 1.25  #: A limit without its window is raised by this factor, at most once a second.
DEBT_SHARE = 0.5  #: This share of new tokens pays what earlier rows used beyond their estimates.


class TokenBucket:
    """Tokens are taken by estimate before a request, and corrected by its usage.

    A row larger than the bucket overdraws it. Usage beyond an estimate is a debt; a
    debt of more than a bucket is paid before the next row. ``is_floor``: the limit came without its window.
    """

    def __init__(self, per_minute: float, now: float, *, is_floor: bool = False) -> None:
        self.per_minute = per_minute
        self._level = self._capacity
        self._debt = 0.0
        self._at = now
        self._floor_per_minute = per_minute if is_floor else None
        self._raised_at = float("-inf")
        self._has_held_back = self._has_warned = False

    def __repr__(self) -> str:
        return f"<TokenBucket {self._level:.0f} of {self._capacity:.0f}, {self._per_second:.1f}/s>"

    @property
    def _per_second(self) -> float:
        return self.per_minute / 60

    @property
    def _capacity(self) -> float:
        return self._per_second * TOKEN_BURST_SECONDS

    def refused(self, now: float, per_minute: float | None = None) -> None:
        """A 429. ``per_minute``: the limit in its words. A floor proves to be the limit."""
        known = self._floor_per_minute or self.per_minute
        self._floor_per_minute = None
        self._set(min(known, per_minute or known), now)

    def accepted(self, now: float) -> None:
        """An answer: a floor that has held requests back is raised."""
        if self._floor_per_minute is not None and self._has_held_back and now - self._raised_at >= 1.0:
            self._has_held_back, self._raised_at = False, now
            self._set(self.per_minute * RAISE_FACTOR, now)

    def hold_to(self, per_minute: float, now: float) -> None:
        """Take another limit of the jobs."""
        self._floor_per_minute = None
        self._set(per_minute, now)

    def _set(self, per_minute: float, now: float) -> None:
        self._refill(now)
        self.per_minute = per_minute
        self._level = min(self._level, self._capacity)

    def _refill(self, now: float) -> None:
        gained = (now - self._at) * self._per_second
        self._at = now
        paid = min(self._debt, gained * (DEBT_SHARE if self._debt <= self._capacity else 1.0))
        self._debt -= paid
        self._level = min(self._capacity, self._level + gained - paid)

    def seconds_to_wait(self, tokens: float, now: float) -> float:
        """How long until a row may take ``tokens``; 0: now."""
        self._refill(now)
        missing = min(tokens, self._capacity) - self._level
        if missing <= 0 and self._debt <= self._capacity:
            return 0.0
        self._has_held_back = True
        if self._debt > self._capacity:
            return max(self._debt - self._capacity, 1.0) / self._per_second
        return min(missing / (1 - DEBT_SHARE) if self._debt else missing, missing + self._debt) / self._per_second

    def take(self, tokens: float, now: float) -> None:
        if tokens > self.per_minute and not self._has_warned:
            self._has_warned = True
            log.warning("a row needs about %d tokens, more than a whole minute allows: it is sent alone", tokens)
        self._refill(now)
        self._level -= tokens

    def give_back(self, tokens: float, now: float) -> None:
        """Return tokens that were not used. Negative: usage beyond the estimate."""
        self._refill(now)
        paid = min(self._debt, tokens)
        self._debt -= paid
        self._level = min(self._capacity, self._level + tokens - paid)
