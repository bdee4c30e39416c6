"""The requests from which a pilot chooses its rows, and the choice.

A row is chosen by a hash of its id and the seed. So a second pilot chooses the same rows, and a larger pilot chooses
mostly the same rows and more.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from batchvision.commands.pilot.interval import Interval, Pair, Stratum, allotted, estimate, strata
from batchvision.runner import CountedRequest


@dataclass(frozen=True, slots=True)
class Chosen:
    """A chosen row and its estimate. ``ticks`` are tokens if no price is known."""

    row_id: str
    ticks: float
    tokens: float


@dataclass(frozen=True, slots=True)
class ChosenStratum:
    """``ticks`` and ``tokens`` are the estimates for all ``rows`` of the stratum."""

    rows: int
    ticks: float
    tokens: float
    chosen: tuple[Chosen, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen rows by stratum. ``rows`` is the number of requests they were chosen from."""

    rows: int
    strata: tuple[ChosenStratum, ...]

    @property
    def row_ids(self) -> tuple[str, ...]:
        return tuple(chosen.row_id for stratum in self.strata for chosen in stratum.chosen)

    def ticks(self, found: Mapping[str, float]) -> Interval | None:
        """Estimate the cost of all rows from the cost of the rows in ``found``."""
        return self._estimate(found, lambda each: each.ticks)

    def tokens(self, found: Mapping[str, float]) -> Interval | None:
        return self._estimate(found, lambda each: each.tokens)

    def _estimate(
        self, found: Mapping[str, float], size_of: Callable[[Chosen | ChosenStratum], float]
    ) -> Interval | None:
        return estimate(
            [
                Stratum(
                    stratum.rows,
                    size_of(stratum),
                    tuple(Pair(size_of(each), found[each.row_id]) for each in stratum.chosen if each.row_id in found),
                )
                for stratum in self.strata
            ]
        )


class SamplingFrame:
    """Grows request by request. A request takes about 40 bytes and its row_id."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._keys: set[int] = set()
        self._ticks, self._tokens, self._pixels = array("d"), array("d"), array("d")

    def __len__(self) -> int:
        return len(self._names)

    def add(self, request: CountedRequest) -> None:
        """Add a request. A repeated request counts once."""
        key = hash(request.request_key)
        if key in self._keys:
            return
        self._keys.add(key)
        needed = request.estimate
        self._names.append(request.row.row_id)
        self._ticks.append(needed.tokens if needed.likely_ticks is None else needed.likely_ticks)
        self._tokens.append(needed.tokens)
        self._pixels.append(sum((width or 0) * (height or 0) for width, height in request.sizes))

    def choose(self, rows: int, seed: int = 0) -> Choice:
        """Choose ``rows`` rows across sizes. Rows of equal estimated cost are ordered by pixels."""
        lots = [blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in self._names]
        order = sorted(
            range(len(self)), key=lambda place: (self._ticks[place], self._pixels[place], self._names[place])
        )
        cut = strata(self._ticks, order, min(rows, len(self)))
        return Choice(
            len(self),
            tuple(
                self._stratum(places, sorted(places, key=lots.__getitem__)[:asked])
                for places, asked in zip(cut, allotted([len(places) for places in cut], rows), strict=True)
            ),
        )

    def _stratum(self, places: list[int], chosen: list[int]) -> ChosenStratum:
        return ChosenStratum(
            len(places),
            sum(self._ticks[place] for place in places),
            sum(self._tokens[place] for place in places),
            tuple(Chosen(self._names[place], self._ticks[place], self._tokens[place]) for place in chosen),
        )
