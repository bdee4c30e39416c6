"""Estimate a sum over all rows from a sample of them, with its 95 % interval, and choose the sample. Pure.

The design is a stratified sample with the combined ratio estimator (W. G. Cochran, *Sampling Techniques*, 3rd ed.
1977). The size of a row is its estimated cost. Rows are sorted by size and cut into strata of about the same total
size. The sample measures the ratio of actual to estimated cost:

    T = X * sum(N_h * mean(y_h)) / sum(N_h * mean(x_h))                         combined ratio: section 6.11
    var(T) = sum(N_h^2 * (1 - n_h/N_h) / n_h * s_h^2), s_h^2 of y - R*x         with finite population correction
    T +- t(df) * sqrt(var T), df by Satterthwaite's rule                        section 5.4

Small samples get two corrections. The four rows of a stratum may be alike by chance, so the larger variance counts:
that by strata, or that of relative residuals over all strata. A kind of row may be missing from the sample, so the
interval is at least +-2 % of the cost of the rows that were not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, sqrt, tan
from statistics import fmean, variance
from typing import NamedTuple

CONFIDENCE = 0.95
ROWS_A_STRATUM = 4
#: Least half width of an interval, as a share of the cost of rows that were not asked.
LEAST_SHARE = 0.02
#: An interval with a larger share is reported as wide.
WIDE_SHARE = 0.15


class Pair(NamedTuple):
    """An asked row: its size (estimated cost) and its actual cost."""

    size: float
    value: float


@dataclass(frozen=True, slots=True)
class Stratum:
    """``rows`` and ``size`` are those of the whole stratum. ``asked`` are its asked rows."""

    rows: int
    size: float
    asked: tuple[Pair, ...]

    @property
    def is_known(self) -> bool:
        """Whether all its rows were asked."""
        return len(self.asked) >= self.rows


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate for all rows. ``asked`` rows cost ``asked_value``, which is certain."""

    rows: int
    asked: int
    asked_value: float
    value: float
    low: float
    high: float

    @property
    def share(self) -> float:
        """Half the width of the interval divided by the value."""
        return (self.high - self.low) / 2 / self.value if self.value else 0.0

    @property
    def is_known(self) -> bool:
        return self.asked >= self.rows

    @property
    def is_wide(self) -> bool:
        return self.share > WIDE_SHARE

    def rows_for(self, share: float) -> int:
        """About how many rows must be asked for this share. The width shrinks with the square root of the number."""
        if self.share <= share:
            return self.asked
        # an upper bound: more rows also lower t and the number of rows to estimate
        return min(self.rows, ceil(self.asked * (self.share / share) ** 2))


# ---------------------------------------------------------------------------------- choice of rows


def strata(sizes: Sequence[float], order: Sequence[int], rows: int) -> list[list[int]]:
    """Cut ``order`` (places in ``sizes``) into strata of about the same sum of sizes.

    There is one stratum for each four of ``rows`` rows to ask.
    """
    count = max(1, ceil(rows / ROWS_A_STRATUM))
    total, so_far = sum(sizes[place] for place in order), 0.0
    cut: list[list[int]] = [[] for _ in range(count)]
    for place in order:
        middle = so_far + sizes[place] / 2
        cut[min(count - 1, int(middle / total * count) if total else 0)].append(place)
        so_far += sizes[place]
    return [stratum for stratum in cut if stratum]


def allotted(strata_rows: Sequence[int], rows: int) -> list[int]:
    """How many rows of each stratum to ask: the same number of each, or all rows of a small one."""
    asked = [0] * len(strata_rows)
    left = min(rows, sum(strata_rows))
    while left:
        open_ = [place for place, has in enumerate(strata_rows) if asked[place] < has]
        for place in sorted(open_, key=lambda place: asked[place])[:left]:
            asked[place] += 1
            left -= 1
    return asked


# ---------------------------------------------------------------------------------- estimate


def estimate(found: Sequence[Stratum]) -> Interval | None:
    """The sum over all rows; ``None`` if fewer than two rows of the strata not fully asked were asked."""
    known = [stratum for stratum in found if stratum.is_known]
    unknown = _merged([stratum for stratum in found if not stratum.is_known])
    rows, asked = sum(each.rows for each in found), sum(len(each.asked) for each in found)
    certain = sum(pair.value for each in known for pair in each.asked)
    asked_value = sum(pair.value for each in found for pair in each.asked)
    if not unknown:
        return Interval(rows, asked, asked_value, certain, certain, certain) if asked else None
    if sum(len(each.asked) for each in unknown) < 2:
        return None
    asked_size = sum(each.rows * fmean(pair.size for pair in each.asked) for each in unknown)
    ratio = sum(each.rows * fmean(pair.value for pair in each.asked) for each in unknown) / asked_size
    value = certain + ratio * sum(each.size for each in unknown)
    spread, freedom = max(_by_strata(unknown, ratio), _by_all(unknown))
    scale = sum(each.size for each in unknown) / asked_size
    least = LEAST_SHARE * max(0.0, value - asked_value)
    half = max(t_quantile(freedom) * sqrt(spread) * scale, least)
    return Interval(rows, asked, asked_value, value, max(asked_value, value - half), value + half)


def _merged(found: Sequence[Stratum]) -> list[Stratum]:
    """Merge a stratum with fewer than two asked rows into its neighbour."""
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
    """Variance of the sum by the relative residuals of all strata together, and its degrees of freedom."""
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
    """Standard errors on either side of the mean for this confidence. ``freedom`` is at least 1 and need not be whole.

    With t = sqrt(df) * tan(a), the density of Student's t becomes cos(a)^(df - 1). Its integral is computed by
    Simpson's rule, and the angle is found by bisection.
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
