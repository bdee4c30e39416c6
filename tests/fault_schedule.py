"""The faults of a provider, drawn from a seed: storms of 429s, an outage, and a fate for each request.

Everything is a function of (seed, row, try) or of the time, so a replay is the same.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from enum import Enum
from hashlib import blake2b
from itertools import accumulate
from typing import NamedTuple

OUTAGE_SECONDS = 300.0


class Fate(Enum):
    """The end of one request."""

    WELL = "it is answered"
    CUT_BEFORE = "the connection is reset before anything was done"
    CUT_AFTER = "it is reset when the work is done and billed"
    SILENT = "no status line within the request's timeout; billed"
    SLOW_BODY = "the body trickles until the request's timeout cuts it; billed"
    TORN = "the body ends in the middle of its JSON; billed"
    TORN_QUIETLY = "the same, and the transport cannot tell"
    ERROR_IN_200 = "a 200 with an error inside"
    SERVER_ERROR = "a 500"
    CONNECT_FAILED = "no connection"
    EMPTY = "billed, and without content"


class Nature(Enum):
    """The effect of a row on each of its requests."""

    PLAIN = "it is answered"
    REJECTED = "a 400"
    REFUSED = "billed, withheld by a filter"
    ENDLESS = "billed, truncated at max_tokens"


#: Of all requests.
FATES = {
    Fate.CUT_BEFORE: 0.001,
    Fate.CUT_AFTER: 0.002,
    Fate.SILENT: 0.001,
    Fate.SLOW_BODY: 0.001,
    Fate.TORN: 0.003,
    Fate.TORN_QUIETLY: 0.002,
    Fate.ERROR_IN_200: 0.003,
    Fate.SERVER_ERROR: 0.004,
    Fate.CONNECT_FAILED: 0.002,
    Fate.EMPTY: 0.001,
}
#: Of all rows.
NATURES = {Nature.REJECTED: 0.001, Nature.REFUSED: 0.0005, Nature.ENDLESS: 0.0005}


class Phase(NamedTuple):
    """The state of the whole service for a time. ``per_second`` requests pass; the rest are answered 429."""

    begins: float
    ends: float
    per_second: float
    retry_after_seconds: float | None
    is_away: bool = False

    def is_on(self, at: float) -> bool:
        return self.begins <= at < self.ends


_FATES, _NATURES = (*FATES, Fate.WELL), (*NATURES, Nature.PLAIN)
_FATE_BOUNDS, _NATURE_BOUNDS = list(accumulate(FATES.values())), list(accumulate(NATURES.values()))


class FaultSchedule:
    """The phases of a run of ``seconds``, and the draws for each request."""

    def __init__(self, seed: int, seconds: float) -> None:
        self._seed = seed
        self.phases = tuple(self._storms(seconds))

    def _storms(self, seconds: float) -> Iterator[Phase]:
        """Four storms and, in the middle of the run, an outage of five minutes."""
        for number, (share, retry_after) in enumerate(((0.1, 20.0), (0.3, None), (0.65, 45.0), (0.85, None))):
            begins = seconds * (share + 0.05 * self.draw("storm", number))
            yield Phase(begins, begins + 0.025 * seconds, self.draw("trickle", number), retry_after)
        yield Phase(0.5 * seconds, 0.5 * seconds + OUTAGE_SECONDS, 0.0, None, is_away=True)

    def draw(self, what: str, of: object, number: int = 0) -> float:
        """A number in [0, 1), the same for the same arguments."""
        asked = f"{self._seed}/{what}/{of}/{number}".encode()
        return int.from_bytes(blake2b(asked, digest_size=6).digest()) / 2**48

    def phase_at(self, at: float) -> Phase | None:
        return next((phase for phase in self.phases if phase.is_on(at)), None)

    def fate_of(self, row: str, try_: int) -> Fate:
        return _FATES[bisect(_FATE_BOUNDS, self.draw("fate", row, try_))]

    def nature_of(self, row: str) -> Nature:
        return _NATURES[bisect(_NATURE_BOUNDS, self.draw("nature", row))]

    def latency_seconds(self, row: str, try_: int) -> float:
        """2 to 14 s, mostly short."""
        return 2 + 12 * self.draw("latency", row, try_) ** 3

    def ticks(self, row: str, try_: int) -> int:
        return 2_000_000 + int(3_000_000 * self.draw("ticks", row, try_))
