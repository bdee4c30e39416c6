"""Departures and 429s of the last minute, counted: what the pace judges a rate by."""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import NamedTuple

LONGEST_METER_SECONDS = 60.0


class Seen(NamedTuple):
    """What happened over a while: departures, and 429s for them."""

    departed: float
    refused: float
    span_seconds: float

    @property
    def accepted_per_second(self) -> float:
        """While a limit is felt, this *is* the limit."""
        return max(0.0, self.departed - self.refused) / self.span_seconds

    @property
    def refused_share(self) -> float:
        return self.refused / max(1.0, self.departed, self.refused)

    def is_surely_above(self, share: float) -> bool:
        """Whether so many 429s are no accident at ``share`` (two standard deviations)."""
        return self.refused - 2 * sqrt(self.refused) > share * self.departed


class Meter:
    """Counts departures and 429s since the last cut, by tenths of a second: what was before a cut is settled.

    Departures and not answers: an answer takes much longer than a 429, and what is on its way has not been refused.
    """

    def __init__(self, since: float | None = None) -> None:
        self._since = since
        self._tenths: deque[list[float]] = deque()

    def departed(self, now: float) -> None:
        self._tenth(now)[1] += 1

    def refused(self, now: float) -> None:
        self._tenth(now)[2] += 1

    def _tenth(self, now: float) -> list[float]:
        self._since = now if self._since is None else self._since
        if not self._tenths or now - self._tenths[-1][0] >= 0.1:
            self._tenths.append([now, 0, 0])
            while self._tenths[0][0] < now - LONGEST_METER_SECONDS:
                self._tenths.popleft()
        return self._tenths[-1]

    def seen(self, now: float, span_seconds: float) -> Seen:
        departed = refused = 0.0
        for at, left, bad in reversed(self._tenths):
            if at < now - span_seconds:
                break
            departed, refused = departed + left, refused + bad
        return Seen(departed, refused, min(span_seconds, max(1.0, now - (self._since or now))))
