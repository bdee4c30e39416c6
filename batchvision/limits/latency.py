"""Bound the requests in flight where answers take over half of the timeout: a server that works on one at a time.

Each request waits for the requests before it. By Little's law the latency grows with the requests in flight. Fewer of
them cost no throughput, and many of them end in timeouts that are billed. A trial finds a server that is slow by
itself: with fewer requests its answers are no quicker.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from statistics import median
from typing import NamedTuple

log = logging.getLogger(__name__)

SHARE_OF_TIMEOUT = 0.5  #: Slower answers than this share of the timeout lower the bound.
RAISE_BELOW = 0.8  #: Quicker answers than this part of that share raise it.
RAISE_FACTOR = 1.25  #: One raise multiplies the bound by this factor.
SATURATED_SHARE = 0.7  #: The bound is raised only if so large a part of it was in flight.
DEEPEST_STEP = 0.5  #: One step lowers the bound to this part at most; the next one needs a step that has helped.
HELPED_BELOW = 0.85  #: With half of the requests in flight, answers of a busy server take less than this part.
ANSWERS_SEEN = 8  #: Each decision uses the medians of so many answers.


class Timing(NamedTuple):
    """An answer or a timeout: how long it took, and the requests in flight when its request was sent."""

    seconds: float
    in_flight: float


class LatencyBound:
    """The most requests in flight. ``timeout_seconds``: of one request."""

    def __init__(self, timeout_seconds: float | None) -> None:
        self._slow_seconds = inf if timeout_seconds is None else SHARE_OF_TIMEOUT * timeout_seconds
        self._timings: deque[Timing] = deque(maxlen=ANSWERS_SEEN)
        self._before_step: Timing | None = None
        self._is_slow_by_itself = False
        self.most: float = inf

    def __repr__(self) -> str:
        return f"<LatencyBound {self.most:g}>"

    def observe(self, timing: Timing) -> None:
        """Count an answer or a timeout. The medians of the last few decide: a single slow row changes nothing."""
        if self._is_slow_by_itself or timing.in_flight > self.most + 1:  # it was sent before the last step
            return
        self._timings.append(timing)
        if len(self._timings) < ANSWERS_SEEN:
            return
        seen = Timing(median(each.seconds for each in self._timings), median(each.in_flight for each in self._timings))
        if seen.seconds > self._slow_seconds:
            self._lower(seen)
        elif seen.seconds < RAISE_BELOW * self._slow_seconds:
            self._before_step = None
            if seen.in_flight >= SATURATED_SHARE * self.most:
                self.most = self.most * RAISE_FACTOR + 1
        else:
            return
        self._timings.clear()

    def _lower(self, seen: Timing) -> None:
        """Lower the bound to where answers take half of the timeout. If they still take longer, try half of it."""
        before, self._before_step = self._before_step, None
        is_timeout = before is not None and before.seconds * SHARE_OF_TIMEOUT >= self._slow_seconds
        if before is not None and not is_timeout and seen.seconds > HELPED_BELOW * before.seconds:
            self._is_slow_by_itself, self.most = True, inf
            return
        share = max(DEEPEST_STEP, self._slow_seconds / seen.seconds)
        if self.most == inf:
            log.warning(
                "answers take over half of limits.request_timeout_seconds: about %d requests are in flight from now "
                "on; set limits.concurrency to what the server works on at once",
                max(1, int(seen.in_flight * share)),
            )
        elif before is None and seen.in_flight > 1:  # until the first step the requests in flight became ever more
            self._before_step, share = seen, DEEPEST_STEP
        self.most = max(1, int(seen.in_flight * share))
