"""Steady state, read from when requests arrived at the server. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

#: What does not count, in places in flight: a slow start, which doubles from few to all of them, sends twice as many.
BEGINNING_WAVES = 2.25


def share_of_ideal(arrivals: Sequence[float], in_flight: int, latency_seconds: float) -> float | None:
    """How close a client came to ``in_flight / latency_seconds`` requests a second, its ramp and its end left out.

    Of every request after the beginning, how long until the one ``in_flight`` places later arrived: ideally the
    latency. Their mean does not depend on where a wave is cut.
    """
    beginning = round(BEGINNING_WAVES * in_flight)
    cycles = [arrivals[place + in_flight] - arrivals[place] for place in range(beginning, len(arrivals) - in_flight)]
    return latency_seconds * len(cycles) / sum(cycles) if cycles else None


def share_of_allowed(told: Mapping[str, Any], skip_seconds: float) -> tuple[float, float]:
    """The accepted share of the allowed requests, and the share of refusals, from ``skip_seconds`` after the first
    request to the last one. With a limit of tokens, tokens are counted."""
    settings, arrivals = told["settings"], told["arrivals"]
    first = bisect_left(arrivals, arrivals[0] + skip_seconds)
    accepted = told["accepted"][first:]
    if len(accepted) < 2:
        return 0.0, 0.0
    span = arrivals[-1] - arrivals[first]
    refused = 1 - sum(accepted) / len(accepted)
    if settings["tokens_per_minute"]:
        spent = sum(tokens for tokens, good in zip(told["tokens"][first:], accepted, strict=True) if good)
        return spent / (span * settings["tokens_per_minute"] / 60), refused
    return sum(accepted[1:]) / (span * settings["per_minute"] / 60), refused


def longest_wait_of_the_largest(told: Mapping[str, Any]) -> float:
    """The longest wait for a largest row after the request before it, as a multiple of its fair share.

    The fair share is the time that its tokens take at the allowed rate.
    """
    arrivals, tokens, accepted = told["arrivals"], told["tokens"], told["accepted"]
    largest = max(tokens, default=0)
    fair_seconds = largest / (told["settings"]["tokens_per_minute"] / 60)
    ramp = max(1, len(arrivals) // 10)
    waits = [arrivals[n] - arrivals[n - 1] for n in range(ramp, len(arrivals)) if tokens[n] == largest and accepted[n]]
    return float(max(waits, default=0.0) / fair_seconds)


def early(told: Mapping[str, Any], grace_seconds: float) -> int:
    """Requests that arrived during a Retry-After, except those that were already on their way."""
    until = told["storm_until"]
    began = until - told["settings"]["storm_seconds"] + grace_seconds
    return sum(began < at < until for at in told["arrivals"])


def seconds_to_recover(told: Mapping[str, Any], share: float = 0.9, window_seconds: float = 5.0) -> float | None:
    """From the end of the storm until a window's requests came at ``share`` of the allowed rate."""
    until = told["storm_until"]
    good = [at for at, accepted in zip(told["arrivals"], told["accepted"], strict=True) if accepted and at >= until]
    wanted = max(1, round(share * window_seconds * told["settings"]["per_minute"] / 60))
    for place in range(len(good) - wanted):
        if good[place + wanted] - good[place] <= window_seconds:
            return float(good[place] - until)
    return None
