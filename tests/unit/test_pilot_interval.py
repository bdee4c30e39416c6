"""The sample of a pilot, its estimate, and how often the interval holds the true sum."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.commands.pilot.interval import (
    LEAST_SHARE,
    Interval,
    Pair,
    Stratum,
    allotted,
    estimate,
    strata,
    t_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "tabled"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (19, 2.093), (120, 1.980), (0.3, 12.706)],
)
def test_students_t_is_as_tabled(freedom: float, tabled: float) -> None:
    assert t_quantile(freedom) == pytest.approx(tabled, abs=0.0006)


@given(st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200), st.integers(1, 60))
def test_strata_hold_each_row_once_in_order_of_size(sizes: list[float], rows: int) -> None:
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    cut = strata(sizes, order, rows)

    assert [place for stratum in cut for place in stratum] == order
    assert all(cut)
    assert len(cut) <= -(-rows // 4)


def test_strata_weigh_about_the_same_so_that_large_rows_are_asked_as_much_as_they_matter() -> None:
    sizes = [1.0] * 80 + [4.0] * 20
    assert [len(stratum) for stratum in strata(sizes, range(100), 8)] == [80, 20]


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(1, 100))
def test_no_stratum_is_asked_for_more_than_it_has_and_none_is_favoured(has: list[int], rows: int) -> None:
    asked = allotted(has, rows)

    assert sum(asked) == min(rows, sum(has))
    assert all(number <= most for number, most in zip(asked, has, strict=True))
    open_ = [number for number, most in zip(asked, has, strict=True) if number < most]
    assert not open_ or max(open_) - min(open_) <= 1
    assert all(number <= min(open_, default=number) + 1 for number in asked)


# ---------------------------------------------------------------------------------- what is told


def stratum(rows: int, *pairs: tuple[float, float], size: float | None = None) -> Stratum:
    asked = tuple(Pair(*pair) for pair in pairs)
    return Stratum(rows, rows * asked[0].size if size is None else size, asked)


def test_a_fully_asked_sum_is_certain() -> None:
    told = estimate([stratum(2, (1, 5), (1, 6)), stratum(1, (9, 20))])
    assert told == Interval(rows=3, asked=3, asked_value=31, value=31, low=31, high=31)


def test_the_estimate_is_the_expected_sum_times_the_measured_ratio() -> None:
    told = estimate([stratum(100, (10, 5), (10, 5)), stratum(10, (100, 50), (100, 50))])

    assert told is not None
    assert told.value == pytest.approx((100 * 10 + 10 * 100) / 2)
    assert told.share == pytest.approx(LEAST_SHARE * (1000 - 110) / 1000), "never narrower than what rows cannot show"


def test_the_formula_is_that_of_the_book() -> None:
    """By hand: two strata, sizes all 1, so that the ratio is a mean."""
    told = estimate([stratum(50, (1, 8), (1, 12)), stratum(50, (1, 18), (1, 22))])

    assert told is not None
    assert told.value == pytest.approx(50 * 10 + 50 * 20)
    variance = 2 * 50**2 * (1 - 2 / 50) / 2 * 8  # s^2 is 8 in both
    assert told.high - told.value == pytest.approx(t_quantile(2) * variance**0.5)


def test_few_rows_tell_nothing_and_a_lone_one_goes_with_its_neighbour() -> None:
    assert estimate([]) is None
    assert estimate([stratum(5, (1, 1))]) is None
    merged = estimate([stratum(5, (1, 1)), stratum(5, (1, 3), (1, 3))])
    assert merged == estimate([stratum(10, (1, 1), (1, 3), (1, 3))])
    assert estimate([Stratum(5, 5.0, ()), stratum(5, (1, 3), (1, 3))]) is not None


def test_a_wide_interval_names_the_rows_that_make_it_narrow() -> None:
    told = Interval(rows=1000, asked=20, asked_value=2, value=100, low=70, high=130)

    assert told.is_wide
    assert told.rows_for(0.15) == 80
    assert told.rows_for(0.30) == 20
    assert told.rows_for(0.001) == 1000


def wholes(kind: str, rng: random.Random) -> tuple[list[float], list[float]]:
    """What was expected of 600 rows, and what they cost."""
    sizes = [rng.choice([1.0, 2.0, 4.0, 7.0]) * rng.uniform(0.9, 1.1) for _ in range(600)]
    match kind:
        case "as expected":
            return sizes, [1.3 * size * rng.gammavariate(20, 0.05) for size in sizes]
        case "by another rule":
            return sizes, [2 + size**0.5 * rng.gammavariate(20, 0.05) for size in sizes]
        case _:
            return sizes, [3.0 + rng.gammavariate(4, 0.25) for _ in sizes]


@pytest.mark.parametrize("kind", ["as expected", "by another rule", "whatever the size"])
def test_of_a_hundred_intervals_about_ninety_five_hold(kind: str) -> None:
    rng, hits = random.Random(7), 0
    for _ in range(100):
        sizes, values = wholes(kind, rng)
        told = _sampled(sizes, values, rng)
        hits += told.low <= sum(values) <= told.high
    assert hits >= 90


def test_the_first_rows_of_a_sorted_table_are_a_bad_sample() -> None:
    """The sabotaged twin: without the choice across sizes, the same formula misses."""
    rng, hits = random.Random(7), 0
    for _ in range(50):
        sizes, values = wholes("by another rule", rng)
        first = sorted(range(600), key=sizes.__getitem__)[:20]
        told = estimate([Stratum(600, sum(sizes), tuple(Pair(sizes[place], values[place]) for place in first))])
        assert told is not None
        hits += told.low <= sum(values) <= told.high
    assert hits <= 5


def _sampled(sizes: list[float], values: list[float], rng: random.Random, rows: int = 20) -> Any:
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    cut = strata(sizes, order, rows)
    found = [
        Stratum(
            len(places),
            sum(sizes[place] for place in places),
            tuple(Pair(sizes[place], values[place]) for place in rng.sample(places, asked)),
        )
        for places, asked in zip(cut, allotted([len(places) for places in cut], rows), strict=True)
    ]
    assert all(sizes[left[-1]] <= sizes[right[0]] for left, right in pairwise(cut))
    return estimate(found)
