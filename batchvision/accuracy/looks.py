"""Look several times at growing numbers of answers: is the accuracy below a wanted share? Pure.

The bound is the one-sided limit of C. J. Clopper and E. S. Pearson (*The use of confidence or fiducial limits
illustrated in the case of the binomial*, Biometrika 26, 1934). The bound of look k is wrong with a probability of at
most 0.05 / (k * (k + 1)). These add up to 0.05 over all looks (the union bound), so all bounds hold together with 95 %.
"""

from __future__ import annotations

from itertools import pairwise
from math import exp, lgamma, log

FIRST_LOOK_ROWS = 50
ERROR_OF_ALL_LOOKS = 0.05
#: Halvings of the interval of a bound: more than a double can show.
_HALVINGS = 60


def chunk_sizes(rows: int) -> list[int]:
    """The numbers of rows between looks: 50, 50, 100, 200 ..., so that their sums double. The last chunk is smaller."""
    ends = [0]
    while ends[-1] < rows:
        ends.append(min(rows, max(FIRST_LOOK_ROWS, 2 * ends[-1])))
    return [end - start for start, end in pairwise(ends)]


def upper_bound(right: int, rows: int, look: int) -> float:
    """The upper bound of the accuracy at the look with this number, from 1. Raises ValueError without rows."""
    if rows <= 0 or look <= 0:
        raise ValueError("a bound needs at least one row, and looks count from 1")
    if right >= rows:
        return 1.0
    error = ERROR_OF_ALL_LOOKS / (look * (look + 1))
    low, high = right / rows, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(right, rows, middle) > error else (low, middle)
    return high


def _at_most(right: int, rows: int, share: float) -> float:
    """The probability of at most so many right rows. ``share`` is at least ``right / rows`` and below 1."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    choices = lgamma(rows + 1) - lgamma(right + 1) - lgamma(rows - right + 1)
    term = exp(choices + right * log(share) + (rows - right) * log(1 - share))
    total = term
    for number in range(right, 0, -1):
        term *= number * (1 - share) / ((rows - number + 1) * share)
        total += term
        if term < total * 1e-17:
            break
    return total
