"""Count requests and refusals of the last minute, in tenths of a second: the evidence of the rate controller.

Shares are of requests sent, not of answers: an answer takes seconds and a 429 milliseconds.
"""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import NamedTuple

MEMORY_SECONDS = 60.0  #: Older counts are dropped.


class Look(NamedTuple):
    """The counts of the last ``seconds``. ``refused`` is a part of ``turned_away``."""

    sent: int
    refused: int  #: 429s that speak of the rate of requests
    turned_away: int  #: these, and all other answers that ask to come again later
    seconds: float

    @property
    def sent_per_second(self) -> float:
        return self.sent / self.seconds

    @property
    def accepted_per_second(self) -> float:
        """While the provider refuses requests, this is its limit."""
        return max(0, self.sent - self.refused) / self.seconds

    @property
    def refused_share(self) -> float:
        return self.refused / max(1, self.sent, self.refused)

    @property
    def turned_away_share(self) -> float:
        return self.turned_away / max(1, self.sent, self.turned_away)

    @property
    def sure_share(self) -> float:
        """The share of refusals that is no accident: two standard deviations less."""
        return (self.refused - 2 * sqrt(self.refused)) / max(1, self.sent, self.refused)


class Meter:
    """Counts from ``since``, or from the first request if it is ``None``. A cut or a pause begins a new meter."""

    def __init__(self, since: float | None = None) -> None:
        self._since = since
        self._tenths: deque[list[float]] = deque()  #: of [begin, sent, refused, turned away]

    def sent(self, now: float) -> None:
        self._tenth(now)[1] += 1

    def turned_away(self, now: float, *, is_rate: bool) -> None:
        tenth = self._tenth(now)
        tenth[2] += is_rate
        tenth[3] += 1

    def _tenth(self, now: float) -> list[float]:
        self._since = now if self._since is None else self._since
        if not self._tenths or now - self._tenths[-1][0] >= 0.1:
            self._tenths.append([now, 0, 0, 0])
            while self._tenths[0][0] < now - MEMORY_SECONDS:
                self._tenths.popleft()
        return self._tenths[-1]

    def look(self, now: float, seconds: float, least_sent: int = 0) -> Look:
        """The last ``seconds``, or longer until ``least_sent`` requests are seen."""
        sent = refused = turned_away = 0
        oldest = now - seconds
        for begin, *counts in reversed(self._tenths):
            if begin < oldest:
                if sent >= least_sent:
                    break
                seconds = now - begin
            sent, refused, turned_away = sent + int(counts[0]), refused + int(counts[1]), turned_away + int(counts[2])
        return Look(sent, refused, turned_away, min(seconds, max(0.1, now - (self._since or now))))
