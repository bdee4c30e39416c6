"""Bounds of the accuracy hold at every look: a run that is as good as wanted is hardly ever stopped."""

from __future__ import annotations

import random
from itertools import accumulate

import pytest
from scipy.stats import beta

from batchvision.accuracy import chunk_sizes, upper_bound


@pytest.mark.parametrize(
    ("rows", "ends"),
    [(0, []), (1, [1]), (50, [50]), (60, [50, 60]), (450, [50, 100, 200, 400, 450]), (400, [50, 100, 200, 400])],
)
def test_the_rows_of_all_looks_double(rows: int, ends: list[int]) -> None:
    assert list(accumulate(chunk_sizes(rows))) == ends


@pytest.mark.parametrize(("right", "rows"), [(0, 50), (37, 50), (49, 50), (170, 200), (11_000, 12_800)])
@pytest.mark.parametrize("look", [1, 2, 8])
def test_the_bound_is_that_of_clopper_and_pearson(right: int, rows: int, look: int) -> None:
    error = 0.05 / (look * (look + 1))
    assert upper_bound(right, rows, look) == pytest.approx(beta.ppf(1 - error, right + 1, rows - right))


def test_where_all_answers_are_right_any_accuracy_is_possible() -> None:
    assert upper_bound(50, 50, 1) == 1.0
    with pytest.raises(ValueError, match="at least one row"):
        upper_bound(0, 0, 1)


def stops_after(share: float, wanted: float, seed: int, rows: int = 12_800) -> int | None:
    """The rows after which a run is stopped whose answers are right with the probability ``share``."""
    rng = random.Random(seed)
    right = asked = 0
    for look, size in enumerate(chunk_sizes(rows), start=1):
        right += sum(rng.random() < share for _ in range(size))
        asked += size
        if upper_bound(right, asked, look) < wanted:
            return asked
    return None


@pytest.mark.parametrize("wanted", [0.5, 0.9, 0.98])
def test_a_run_with_exactly_the_wanted_accuracy_is_stopped_in_at_most_one_of_twenty_cases(wanted: float) -> None:
    stopped = sum(stops_after(wanted, wanted, seed, rows=3_200) is not None for seed in range(400))
    assert stopped <= 0.05 * 400


def test_a_run_far_below_the_wanted_accuracy_is_stopped_at_the_first_look() -> None:
    assert {stops_after(0.6, 0.9, seed) for seed in range(20)} == {50}


def test_a_run_a_little_below_the_wanted_accuracy_is_stopped_in_the_end() -> None:
    assert None not in {stops_after(0.87, 0.9, seed) for seed in range(20)}
