"""What a whole costs, by a few of its rows: the estimate, its 95 % interval, and which rows to ask. Pure.

The design is a stratified sample with the combined ratio estimator (W. G. Cochran, *Sampling Techniques*, 3rd ed.
1977). Every row has a *size*, what it is expected to cost; rows are sorted by it and cut into strata that weigh the
same, so that large rows are asked as much as they matter. The sample tells how much reality is off the expectation:

    T = X * sum(N_h * mean(y_h)) / sum(N_h * mean(x_h))                         combined ratio: section 6.11
    var(T) = sum(N_h^2 * (1 - n_h/N_h) / n_h * s_h^2), s_h^2 of y - R*x         the same, finite population included
    T +- t(df) * sqrt(var T), df by Satterthwaite's rule                        section 5.4

Two cautions for small samples. Four rows of a stratum may happen to be alike: where residuals taken over all strata,
relative to size, say more than those of each stratum, they count. And a kind of row that the sample did not meet is
not in its residuals: no interval is told narrower than +-2 % of what was not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, sqrt, tan
from statistics import fmean, variance
from typing import NamedTuple

CONFIDENCE = 0.95
ROWS_A_STRATUM = 4
#: Of what was not asked: what a small sample cannot see.
LEAST_SHARE = 0.02
#: An interval wider than this, either way, is told to be wide.
WIDE_SHARE = 0.15


class Pair(NamedTuple):
    """One row that was asked: what was expected of it, and what it came to."""

    size: float
    value: float


@dataclass(frozen=True, slots=True)
class Stratum:
    """``rows``: how many it has; ``size``: what all of them were expected to cost; ``asked``: those of them."""

    rows: int
    size: float
    asked: tuple[Pair, ...]

    @property
    def is_known(self) -> bool:
        """All of it was asked."""
        return len(self.asked) >= self.rows


@dataclass(frozen=True, slots=True)
class Interval:
    """The whole, estimated. ``asked``: rows behind it; ``asked_value``: what they came to, for certain."""

    rows: int
    asked: int
    asked_value: float
    value: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Half the width, over the value."""
        return (self.high - self.low) / 2 / self.value if self.value else 0.0

    @property
    def is_known(self) -> bool:
        return self.asked >= self.rows

    @property
    def is_wide(self) -> bool:
        return self.share > WIDE_SHARE

    def rows_for(self, share: float) -> int:
        """About how many rows would have to be asked for ``share``: the width goes with the root of their number."""
        if self.share <= share:
            return self.asked
        # t falls with more rows, and so does what is left to estimate: this is more than enough
        return min(self.rows, ceil(self.asked * (self.share / share) ** 2))


# ---------------------------------------------------------------------------------- which rows to ask


def strata(sizes: Sequence[float], order: Sequence[int], rows: int) -> list[list[int]]:
    """The places of ``order`` (all rows, smallest first) cut into strata of about the same sum of ``sizes``, as many
    as ``rows`` to be asked make with four each."""
    count = max(1, ceil(rows / ROWS_A_STRATUM))
    total, so_far = sum(sizes), 0.0
    cut: list[list[int]] = [[] for _ in range(count)]
    for place in order:
        middle = so_far + sizes[place] / 2
        cut[min(count - 1, int(middle / total * count) if total else 0)].append(place)
        so_far += sizes[place]
    return [stratum for stratum in cut if stratum]


def allotted(strata_rows: Sequence[int], rows: int) -> list[int]:
    """How many rows of each stratum are asked: the same of each, all of those that have fewer."""
    asked = [0] * len(strata_rows)
    left = min(rows, sum(strata_rows))
    while left:
        open_ = [place for place, has in enumerate(strata_rows) if asked[place] < has]
        for place in sorted(open_, key=lambda place: asked[place])[:left]:
            asked[place] += 1
            left -= 1
    return asked


# ---------------------------------------------------------------------------------- what they tell


def estimate(found: Sequence[Stratum]) -> Interval | None:
    """The sum over all rows. None where fewer than two rows were asked of those that are not all known."""
    known = [stratum for stratum in found if stratum.is_known]
    unknown = _merged([stratum for stratum in found if not stratum.is_known])
    rows, asked = sum(each.rows for each in found), sum(len(each.asked) for each in found)
    certain = sum(pair.value for each in known for pair in each.asked)
    asked_value = sum(pair.value for each in found for pair in each.asked)
    if not unknown:
        return Interval(rows, asked, asked_value, certain, certain, certain) if asked else None
    if sum(len(each.asked) for each in unknown) < 2:
        return None
    seen = sum(each.rows * fmean(pair.size for pair in each.asked) for each in unknown)
    ratio = sum(each.rows * fmean(pair.value for pair in each.asked) for each in unknown) / seen
    value = certain + ratio * sum(each.size for each in unknown)
    spread, freedom = max(_by_strata(unknown, ratio), _by_all(unknown))
    scale = sum(each.size for each in unknown) / seen
    least = LEAST_SHARE * max(0.0, value - asked_value)
    half = max(t_quantile(freedom) * sqrt(spread) * scale, least)
    return Interval(rows, asked, asked_value, value, max(asked_value, value - half), value + half)


def _merged(found: Sequence[Stratum]) -> list[Stratum]:
    """A stratum of which fewer than two rows were asked says nothing of itself: it goes with its neighbour."""
    merged: list[Stratum] = []
    for each in found:
        if merged and (len(each.asked) < 2 or len(merged[-1].asked) < 2):
            before = merged.pop()
            each = Stratum(before.rows + each.rows, before.size + each.size, before.asked + each.asked)
        merged.append(each)
    return merged


def _weight(stratum: Stratum) -> float:
    asked = len(stratum.asked)
    return stratum.rows**2 * (1 - asked / stratum.rows) / asked


def _by_strata(found: Sequence[Stratum], ratio: float) -> tuple[float, float]:
    """Variance of the sum by the residuals of each stratum, and its degrees of freedom."""
    parts = [
        (_weight(each) * variance([pair.value - ratio * pair.size for pair in each.asked]), len(each.asked) - 1)
        for each in found
    ]
    spread = sum(part for part, _ in parts)
    return spread, spread**2 / sum(part**2 / free for part, free in parts if part) if spread else 1.0


def _by_all(found: Sequence[Stratum]) -> tuple[float, float]:
    """The same by the relative residuals of all strata together: as if each row's error grew with its size."""
    squares = freedom = 0.0
    for each in found:
        factors = [pair.value / pair.size for pair in each.asked if pair.size]
        if len(factors) > 1:
            squares += variance(factors) * (len(factors) - 1)
            freedom += len(factors) - 1
    if not freedom:
        return 0.0, 1.0
    sized = sum(_weight(each) * fmean(pair.size**2 for pair in each.asked) for each in found)
    return squares / freedom * sized, freedom


# ---------------------------------------------------------------------------------- Student's t


def t_quantile(freedom: float, confidence: float = CONFIDENCE) -> float:
    """How many standard errors lie on either side, with ``freedom`` degrees (at least one; not only whole ones).

    With t = sqrt(df) * tan(a), the density of Student's t is that of cos(a)^(df - 1): summed by Simpson's rule, and
    the angle found by halving.
    """
    freedom = max(1.0, freedom)
    whole = _area(freedom, pi / 2)
    low, high = 0.0, pi / 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _area(freedom, middle) < confidence * whole else (low, middle)
    return sqrt(freedom) * tan(high)


def _area(freedom: float, angle: float, steps: int = 200) -> float:
    step = angle / steps
    heights = [max(0.0, cos(number * step)) ** (freedom - 1) for number in range(steps + 1)]
    return float(step / 3 * (heights[0] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]) + heights[-1]))
