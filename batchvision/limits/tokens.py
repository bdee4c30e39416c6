"""Tokens a minute: a bucket of our own, first come first served, with give-back (aiolimiter starves large amounts)."""

from __future__ import annotations

import logging

from batchvision.eventloop import loop_time
from batchvision.wakeup import Wakeup

log = logging.getLogger(__name__)

TOKEN_BURST_SECONDS = 5.0  #: how many seconds' worth of tokens may leave at once
RAISE_FACTOR = 1.25  #: a step upwards from a limit without its window,
RAISE_SECONDS = 1.0  #: and how long it is looked at
DEBT_SHARE = (
    0.5  #: of new tokens pay what earlier rows used beyond their estimate: nobody waits for more than his own twice
)


class TokenBucket:
    """Tokens a minute, taken before and corrected after. No row is too large to be sent, and what rows needed beyond
    their estimates is paid off beside those that follow; where it grows beyond a bucket, before them."""

    def __init__(self, per_minute: float, *, is_floor: bool = False) -> None:
        """``is_floor``: the limit came without the time that it is for. More is tried while nothing is refused."""
        self._per_second = per_minute / 60
        self._capacity = self._per_second * TOKEN_BURST_SECONDS
        self._level = self._capacity
        self._debt = 0.0
        self._at: float | None = None
        self._more = Wakeup()
        self._has_warned = False
        self._floor_per_minute = per_minute if is_floor else None
        self._has_held_back, self._raised_at = False, float("-inf")

    def __repr__(self) -> str:
        return f"<TokenBucket {self._level:.0f} of {self._capacity:.0f}, {self._per_second:.1f}/s>"

    def refused(self) -> None:
        """A 429: the limit is as it was named, for a minute."""
        if self._floor_per_minute is not None:
            self._set(self._floor_per_minute)
            self._floor_per_minute = None

    def accepted(self) -> None:
        """An answer. Where a floor has held requests back, feel upwards."""
        now = loop_time()
        if self._floor_per_minute is not None and self._has_held_back and now - self._raised_at >= RAISE_SECONDS:
            self._has_held_back, self._raised_at = False, now
            self._set(self._per_second * 60 * RAISE_FACTOR)

    def _set(self, per_minute: float) -> None:
        self._refill()
        self._per_second = per_minute / 60
        self._capacity = self._per_second * TOKEN_BURST_SECONDS
        self._level = min(self._level, self._capacity)
        self._more.tell()

    def _refill(self) -> None:
        now = loop_time()
        if self._at is not None:
            gained = (now - self._at) * self._per_second
            paid = min(self._debt, gained * (DEBT_SHARE if self._debt <= self._capacity else 1.0))
            self._debt -= paid
            self._level = min(self._capacity, self._level + gained - paid)
        self._at = now

    def _seconds_until(self, level: float) -> float:
        missing = level - self._level
        if self._debt > self._capacity:
            return max(self._debt - self._capacity, 1.0) / self._per_second
        return min(missing / (1 - DEBT_SHARE) if self._debt else missing, missing + self._debt) / self._per_second

    async def take(self, tokens: float) -> None:
        """Wait until ``tokens`` are there (or the bucket is full, for a row larger than it), then take them all."""
        needed = min(tokens, self._capacity)
        if tokens > self._per_second * 60 and not self._has_warned:
            self._has_warned = True
            log.warning("a row needs about %d tokens, more than a whole minute allows: it is sent alone", tokens)
        self._refill()
        while self._level < needed or self._debt > self._capacity:
            self._has_held_back = True
            await self._more.wait(until=loop_time() + self._seconds_until(needed))
            self._refill()
        self._level -= tokens

    def has(self, tokens: float) -> bool:
        """Whether ``take`` would not wait."""
        self._refill()
        return self._level >= min(tokens, self._capacity) and self._debt <= self._capacity

    def take_nowait(self, tokens: float) -> None:
        self._level -= tokens

    def give_back(self, tokens: float) -> None:
        """Return what was not used (negative: owe what was used beyond the estimate)."""
        self._refill()
        paid = min(self._debt, tokens)
        self._debt -= paid
        self._level = min(self._capacity, self._level + tokens - paid)
        self._more.tell()
