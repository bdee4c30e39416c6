"""The requests from which a pilot chooses its rows, and the choice.

A row is chosen by a hash of its id and the seed. So a second pilot chooses the same rows, and a larger pilot chooses
mostly the same rows and more.

Rows with a known answer come first. They are ordered by it and cut into strata of equally many rows. So each known row
has the same chance, a label has its share of the sample, and the share of right answers needs no weights. One row in
five is chosen from the rows without a known answer, because their cost may differ. The estimate weights each stratum by
its rows.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
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
    """The chosen rows by stratum. ``rows`` is the number of requests they were chosen from.

    ``known``: all rows with a known answer, chosen or not.
    """

    rows: int
    strata: tuple[ChosenStratum, ...]
    known: frozenset[str] = frozenset()

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


#: Of this many chosen rows, one has no known answer.
UNKNOWN_ONE_IN = 5
#: At least so many chosen rows have no known answer: fewer give no variance.
LEAST_UNKNOWN = 2


class SamplingFrame:
    """Grows request by request. A request takes about 40 bytes and its row_id.

    ``known``: row_id -> known answer. Rows that show one of ``examples`` (sha256) do not count as known.
    """

    def __init__(self, known: Mapping[str, str] | None = None, examples: Sequence[str] = ()) -> None:
        self._known = known or {}
        self._examples = frozenset(examples)
        self._answers: dict[int, str] = {}  # place -> known answer
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
        answer = self._known.get(request.row.row_id)
        if answer is not None and not self._examples.intersection(request.image_sha256):
            self._answers[len(self._names)] = answer
        self._names.append(request.row.row_id)
        self._ticks.append(needed.tokens if needed.likely_ticks is None else needed.likely_ticks)
        self._tokens.append(needed.tokens)
        self._pixels.append(sum((width or 0) * (height or 0) for width, height in request.sizes))

    def choose(self, rows: int, seed: int = 0) -> Choice:
        """Choose ``rows`` rows: those with known answers by answer, the other ones across sizes."""
        lots = [blake2b(f"{seed}:{name}".encode(), digest_size=8).digest() for name in self._names]
        known = sorted(self._answers, key=lambda place: (self._answers[place], self._size(place)))
        unknown = sorted((place for place in range(len(self)) if place not in self._answers), key=self._size)
        least = max(LEAST_UNKNOWN, rows // UNKNOWN_ONE_IN) if known else rows
        of_known = min(len(known), rows - min(len(unknown), least))
        cut = [*_cut([1.0] * len(self), known, of_known), *_cut(self._ticks, unknown, rows - of_known)]
        return Choice(
            len(self),
            tuple(self._stratum(places, sorted(places, key=lots.__getitem__)[:asked]) for places, asked in cut),
            frozenset(self._names[place] for place in self._answers),
        )

    def _size(self, place: int) -> tuple[float, float, str]:
        """Rows of equal estimated cost are ordered by pixels."""
        return self._ticks[place], self._pixels[place], self._names[place]

    def _stratum(self, places: list[int], chosen: list[int]) -> ChosenStratum:
        return ChosenStratum(
            len(places),
            sum(self._ticks[place] for place in places),
            sum(self._tokens[place] for place in places),
            tuple(Chosen(self._names[place], self._ticks[place], self._tokens[place]) for place in chosen),
        )


def _cut(sizes: Sequence[float], order: Sequence[int], rows: int) -> list[tuple[list[int], int]]:
    """Strata, and how many rows of each to ask."""
    found = strata(sizes, order, min(rows, len(order)))
    return list(zip(found, allotted([len(places) for places in found], rows), strict=True))
