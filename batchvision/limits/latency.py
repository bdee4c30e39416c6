"""Fewer requests in flight where answers take over half of the timeout: a server that works on one at a time.

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

SHARE_OF_TIMEOUT = 0.5  #: answers may take this share of the timeout before fewer requests are sent at once
GROWS_BELOW = 0.8  #: of that time: below it more requests are tried again
GROWTH = 1.25
HELD_BACK_SHARE = 0.7  #: of the bound: with fewer requests in flight it is not what holds them back
DEEPEST_STEP = 0.5  #: one step lowers to half at most; the next one needs a step that has helped
HELPED_BELOW = 0.85  #: with half of the requests answers must take less than this, or the server is slow by itself
LANDINGS_SEEN = 8  #: a decision is made of so many answers


class Landing(NamedTuple):
    """An answer, or a timeout: how long it took, and how many requests were in flight when it left."""

    seconds: float
    in_flight: float


class LatencyBound:
    """The most requests in flight, by how long answers take. ``timeout_seconds``: of one request."""

    def __init__(self, timeout_seconds: float | None) -> None:
        self._timeout_seconds = inf if timeout_seconds is None else timeout_seconds
        self._landings: deque[Landing] = deque(maxlen=LANDINGS_SEEN)
        self._before_step: Landing | None = None
        self._is_slow_by_itself = False
        self.most: float = inf

    def __repr__(self) -> str:
        return f"<LatencyBound {self.most:g}>"

    def landed(self, landing: Landing) -> None:
        """Count an answer or a timeout. Most of the last few decide: a single slow row changes nothing."""
        if self._is_slow_by_itself or landing.in_flight > self.most + 1:  # it left before the last step
            return
        self._landings.append(landing)
        if len(self._landings) < LANDINGS_SEEN:
            return
        seen = Landing(
            median(each.seconds for each in self._landings), median(each.in_flight for each in self._landings)
        )
        if seen.seconds > SHARE_OF_TIMEOUT * self._timeout_seconds:
            self._lower(seen)
        elif seen.seconds < GROWS_BELOW * SHARE_OF_TIMEOUT * self._timeout_seconds:
            self._before_step = None
            if seen.in_flight >= HELD_BACK_SHARE * self.most:
                self.most = self.most * GROWTH + 1
        else:
            return
        self._landings.clear()

    def _lower(self, seen: Landing) -> None:
        """To where answers take half of the timeout; if they still take longer, to half of the requests, as a trial."""
        before, self._before_step = self._before_step, None
        if (
            before is not None
            and before.seconds < self._timeout_seconds
            and seen.seconds > HELPED_BELOW * before.seconds
        ):
            self._is_slow_by_itself, self.most = True, inf
            return
        share = max(DEEPEST_STEP, SHARE_OF_TIMEOUT * self._timeout_seconds / seen.seconds)
        if self.most == inf:
            log.warning(
                "answers take over half of limits.request_timeout_seconds: about %d requests are in flight from now "
                "on; set limits.concurrency to what the server works on at once",
                max(1, int(seen.in_flight * share)),
            )
        elif before is None and seen.in_flight > 1:  # until the first step the requests in flight became ever more
            self._before_step, share = seen, DEEPEST_STEP
        self.most = max(1, int(seen.in_flight * share))
