"""Compare the accuracy of several settings on the same rows, and choose the cheapest that is good enough. Pure.

The interval of the difference of two shares on the same rows is R. G. Newcombe's method 10 (*Improved confidence
intervals for the difference between binomial proportions based on paired data*, 1998): Wilson's intervals of both
shares, joined with their correlation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

from batchvision.accuracy.measures import Proportion, wilson

#: More known rows are never asked for.
MOST_ROWS_NEEDED = 1_000_000


class Paired(NamedTuple):
    """Rows by whether the first and the second setting are right."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @property
    def rows(self) -> int:
        return sum(self)


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Count two settings on the same rows, in the same order. Raises ValueError for different lengths."""
    pairs = list(zip(first, second, strict=True))
    return Paired(*(pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))))


def difference(counts: Paired) -> Proportion:
    """The first share minus the second, from -1 to 1, with its 95 % interval. Raises ValueError without rows."""
    first, second = (
        wilson(counts.both + counts.first_only, counts.rows),
        wilson(counts.both + counts.second_only, counts.rows),
    )
    joined = _correlation(counts)
    below = _joined(first.value - first.low, second.high - second.value, joined)
    above = _joined(second.value - second.low, first.high - first.value, joined)
    value = first.value - second.value
    return Proportion(value, value - below, value + above)


def _joined(one: float, other: float, correlation: float) -> float:
    return sqrt(max(0.0, one**2 - 2 * correlation * one * other + other**2))


def _correlation(counts: Paired) -> float:
    """Phi of the two settings, with Newcombe's continuity correction for positive correlation."""
    both, first, second, neither = counts
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if not margins:
        return 0.0
    product = float(both * neither - first * second)
    if product > 0:
        product = max(0.0, product - counts.rows / 2)
    return product / sqrt(margins)


class RightRows(NamedTuple):
    """A setting. ``right``: of each known row in the same order; a row without an answer is not right."""

    name: str
    cost: float
    right: Sequence[bool]


class Decision(NamedTuple):
    """``chosen``: the cheapest setting that is not worse than any other by more than the margin.

    ``None``: the known rows do not decide it; about ``rows_needed`` would. ``best``: the setting with most right rows.
    ``behind``: each other setting's share minus that of the best.
    """

    chosen: str | None
    best: str
    behind: Mapping[str, Proportion]
    rows_needed: int | None = None


def choose(settings: Sequence[RightRows], margin: float) -> Decision:
    """Choose the cheapest setting that is surely at most ``margin`` worse than every other, also than a dearer one.

    A setting that may be within the margin, and may be outside it, leaves the choice undecided. ``margin`` is a share,
    0.01 for one percent. Raises ValueError without settings or rows.
    """
    best = max(settings, key=lambda each: (sum(each.right), -each.cost))
    behind = {each.name: difference(paired(each.right, best.right)) for each in settings if each is not best}
    for each in sorted(settings, key=lambda each: each.cost):
        others = [paired(each.right, other.right) for other in settings if other is not each]
        found = [difference(counts) for counts in others]
        if all(one.low >= -margin for one in found):
            return Decision(each.name, best.name, behind)
        if not any(one.high < -margin for one in found):
            open_ = (counts for counts, one in zip(others, found, strict=True) if one.low < -margin)
            return Decision(None, best.name, behind, max(_rows_needed(counts, margin) for counts in open_))
    return Decision(best.name, best.name, behind)


def _rows_needed(counts: Paired, margin: float) -> int:
    """About how many rows decide, if the shares stay as they are. A difference at the margin itself needs the most."""
    rows = float(counts.rows)
    while rows < MOST_ROWS_NEEDED:
        rows = max(rows + 1, rows * 1.05)
        found = difference(Paired(*(round(number * rows / counts.rows) for number in counts)))
        if found.low >= -margin or found.high < -margin:
            return round(rows)
    return MOST_ROWS_NEEDED
