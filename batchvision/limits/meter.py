"""Count requests and refusals over time: the last minute for the rate controller, the whole run for the report."""

from __future__ import annotations

from collections import deque
from math import sqrt
from typing import NamedTuple

from batchvision.records import RateSample

MEMORY_SECONDS = 60.0  #: The meter drops older counts.
MOST_SAMPLES = 200  #: With one more, neighbours are merged and samples become twice as long.


class Look(NamedTuple):
    """The counts of the last ``seconds``. ``refused`` is a part of ``turned_away``.

    Shares are of requests sent, not of answers: an answer takes seconds and a 429 milliseconds.
    """

    sent: int
    refused: int  #: 429s that speak of the rate of requests
    turned_away: int  #: these, and all other answers that ask to come again later
    seconds: float

    @property
    def sent_per_second(self) -> float:
        return self.sent / self.seconds

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
    """Counts in tenths of a second from ``since``, or from the first request if it is ``None``.

    A cut or a pause begins a new meter.
    """

    def __init__(self, since: float | None = None) -> None:
        self._since = since
        self._tenths: deque[list[float]] = deque()  #: of [begin, sent, refused, turned away]

    def add(self, now: float, *, sent: int = 0, refused: int = 0, turned_away: int = 0) -> None:
        """Count events at ``now``."""
        self._since = now if self._since is None else self._since
        if not self._tenths or now - self._tenths[-1][0] >= 0.1:
            self._tenths.append([now, 0, 0, 0])
            while self._tenths[0][0] < now - MEMORY_SECONDS:
                self._tenths.popleft()
        tenth = self._tenths[-1]
        tenth[1], tenth[2], tenth[3] = tenth[1] + sent, tenth[2] + refused, tenth[3] + turned_away

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


class RateHistory:
    """At most :data:`MOST_SAMPLES` samples, a minute each at first."""

    def __init__(self, length_seconds: float = 60.0) -> None:
        self._length_seconds = length_seconds
        self._began_at: float | None = None
        self._samples: list[RateSample] = []

    def samples(self) -> tuple[RateSample, ...]:
        """All samples in order. A minute without a request has no sample."""
        return tuple(
            each._replace(
                paused_seconds=round(each.paused_seconds, 3),
                rate_per_second=None if each.rate_per_second is None else round(each.rate_per_second, 3),
            )
            for each in self._samples
        )

    def add(
        self, now: float, per_second: float | None, *, sent: int = 0, rate_limited: int = 0, paused_seconds: float = 0.0
    ) -> None:
        """Count what happened at ``now``."""
        if self._began_at is None:
            self._began_at = now
        since = now - self._began_at
        if not self._samples or since >= self._samples[-1].begins_seconds + self._length_seconds:
            if len(self._samples) == MOST_SAMPLES:
                self._merge()
            begins = since // self._length_seconds * self._length_seconds
            if not self._samples or begins > self._samples[-1].begins_seconds:
                self._samples.append(RateSample(begins, self._length_seconds))
        last = self._samples[-1]
        self._samples[-1] = last._replace(
            sent=last.sent + sent,
            rate_limited=last.rate_limited + rate_limited,
            paused_seconds=last.paused_seconds + paused_seconds,
            rate_per_second=per_second,
        )

    def _merge(self) -> None:
        self._length_seconds *= 2
        merged: dict[float, RateSample] = {}
        for each in self._samples:
            begins = each.begins_seconds // self._length_seconds * self._length_seconds
            before = merged.get(begins, RateSample(begins, self._length_seconds))
            merged[begins] = before._replace(
                sent=before.sent + each.sent,
                rate_limited=before.rate_limited + each.rate_limited,
                paused_seconds=before.paused_seconds + each.paused_seconds,
                rate_per_second=each.rate_per_second,
            )
        self._samples = list(merged.values())
