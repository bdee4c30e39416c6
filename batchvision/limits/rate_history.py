"""A short time series of a run's rate: plain values for the report."""

from __future__ import annotations

from typing import NamedTuple

MOST_SAMPLES = 240  #: With one more, neighbours are merged and samples become twice as long.


class RateSample(NamedTuple):
    """A part of a run. ``per_second``: the last rate in it, ``None`` in slow start. Polls count as sent."""

    begins_seconds: float  #: since the first request
    length_seconds: float
    sent: int = 0
    refused: int = 0  #: 429s
    paused_seconds: float = 0.0  #: of pauses that began in it
    per_second: float | None = None


class RateHistory:
    """At most :data:`MOST_SAMPLES` samples, a minute each at first."""

    def __init__(self, length_seconds: float = 60.0) -> None:
        self._length_seconds = length_seconds
        self._began_at: float | None = None
        self._samples: list[RateSample] = []

    def samples(self) -> tuple[RateSample, ...]:
        """All samples in order. A minute without a request has no sample."""
        return tuple(self._samples)

    def add(
        self, now: float, per_second: float | None, *, sent: int = 0, refused: int = 0, paused_seconds: float = 0.0
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
            refused=last.refused + refused,
            paused_seconds=last.paused_seconds + paused_seconds,
            per_second=per_second,
        )

    def _merge(self) -> None:
        self._length_seconds *= 2
        merged: dict[float, RateSample] = {}
        for each in self._samples:
            begins = each.begins_seconds // self._length_seconds * self._length_seconds
            before = merged.get(begins, RateSample(begins, self._length_seconds))
            merged[begins] = before._replace(
                sent=before.sent + each.sent,
                refused=before.refused + each.refused,
                paused_seconds=before.paused_seconds + each.paused_seconds,
                per_second=each.per_second,
            )
        self._samples = list(merged.values())
