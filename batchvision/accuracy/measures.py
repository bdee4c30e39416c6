"""Measures of answers against known answers. Pure.

Precision, recall, F1 and Cohen's kappa have their usual definitions (J. Cohen, *A coefficient of agreement for nominal
scales*, 1960). The interval of a proportion is Wilson's score interval (E. B. Wilson, *Probable inference*, 1927).
It stays within 0 and 1 and holds for small samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any, NamedTuple

#: Standard errors on either side of the mean of a normal distribution for 95 %.
Z_95 = 1.959963984540054


class Proportion(NamedTuple):
    """A share between 0 and 1, with its 95 % interval."""

    value: float
    low: float
    high: float


class LabelMeasures(NamedTuple):
    """The answers of one label. ``precision`` is ``None`` if no answer has the label, ``recall`` if no row expects it.

    ``f1`` is 0 where either is ``None``.
    """

    label: str
    expected: int
    answered: int
    right: int
    precision: float | None
    recall: float | None
    f1: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """``rows`` have a known answer and an answer. ``unanswered`` rows have a known answer only, and count nowhere else.

    ``baseline`` is the accuracy of giving every row the most frequent expected label, ``majority``.
    ``kappa`` is ``None`` if chance alone explains full agreement: all rows expect one label, and all answers have it.
    ``matrix``: expected label and answered label -> rows.
    """

    rows: int
    right: int
    unanswered: int
    accuracy: Proportion
    majority: str
    baseline: float
    macro_f1: float
    kappa: float | None
    labels: tuple[LabelMeasures, ...]
    matrix: Mapping[tuple[str, str], int]

    def document(self) -> dict[str, Any]:
        """JSON content. The matrix is a list of rows in the order of ``labels``."""
        names = [each.label for each in self.labels]
        return {
            "rows": self.rows,
            "right": self.right,
            "unanswered": self.unanswered,
            "accuracy": self.accuracy._asdict(),
            "baseline": {"label": self.majority, "accuracy": self.baseline},
            "macro_f1": self.macro_f1,
            "kappa": self.kappa,
            "labels": [each._asdict() for each in self.labels],
            "matrix": [[self.matrix.get((expected, answered), 0) for answered in names] for expected in names],
        }


def wilson(right: int, rows: int) -> Proportion:
    """The share of right rows, with Wilson's interval. Raises ValueError without rows."""
    if rows <= 0:
        raise ValueError("a share needs at least one row")
    share, squared = right / rows, Z_95**2
    middle = (share + squared / (2 * rows)) / (1 + squared / rows)
    half = Z_95 / (1 + squared / rows) * sqrt(share * (1 - share) / rows + squared / (4 * rows**2))
    return Proportion(share, max(0.0, middle - half), min(1.0, middle + half))


def measure(pairs: Iterable[tuple[str, str | None]]) -> Accuracy | None:
    """Measure pairs of expected and answered label. ``None`` if no row has both."""
    matrix: Counter[tuple[str, str]] = Counter()
    unanswered = 0
    for expected, answered in pairs:
        if answered is None:
            unanswered += 1
        else:
            matrix[expected, answered] += 1
    rows = matrix.total()
    if not rows:
        return None
    wanted, given = _totals(matrix, 0), _totals(matrix, 1)
    labels = tuple(_label(name, wanted[name], given[name], matrix[name, name]) for name in sorted({*wanted, *given}))
    right = sum(each.right for each in labels)
    majority = min(wanted, key=lambda name: (-wanted[name], name))
    by_chance = sum(wanted[name] * given[name] for name in wanted) / rows**2
    return Accuracy(
        rows=rows,
        right=right,
        unanswered=unanswered,
        accuracy=wilson(right, rows),
        majority=majority,
        baseline=wanted[majority] / rows,
        macro_f1=sum(each.f1 for each in labels) / len(labels),
        kappa=None if by_chance == 1 else (right / rows - by_chance) / (1 - by_chance),
        labels=labels,
        matrix=dict(matrix),
    )


def _totals(matrix: Mapping[tuple[str, str], int], side: int) -> Counter[str]:
    totals: Counter[str] = Counter()
    for labels, rows in matrix.items():
        totals[labels[side]] += rows
    return totals


def _label(name: str, expected: int, answered: int, right: int) -> LabelMeasures:
    precision = right / answered if answered else None
    recall = right / expected if expected else None
    return LabelMeasures(name, expected, answered, right, precision, recall, 2 * right / (expected + answered))
