"""Measures of accuracy agree with scikit-learn, and a sweep is decided by them only where the known rows suffice."""

from __future__ import annotations

import random

import pytest
import sklearn.metrics as sk
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from batchvision.accuracy import RightRows, choose, measure, paired, wilson
from batchvision.accuracy.comparing import Paired, difference

LABELS = ("shoe", "bag", "hat", "other")
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from(LABELS)), min_size=1, max_size=60)


def planted(rows: int, share: float, seed: int) -> list[tuple[str, str]]:
    """Rows of which ``share`` have the right answer, each other one a wrong label."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(rows):
        expected = rng.choices(LABELS, weights=(60, 25, 10, 5))[0]
        wrong = rng.choice([label for label in LABELS if label != expected])
        pairs.append((expected, expected if rng.random() < share else wrong))
    return pairs


def assert_equals_sklearn(pairs: list[tuple[str, str]]) -> None:
    found = measure(pairs)
    assert found is not None
    expected, answered = zip(*pairs, strict=True)
    names = [each.label for each in found.labels]
    assert found.accuracy.value == pytest.approx(sk.accuracy_score(expected, answered))
    interval = binomtest(found.right, found.rows).proportion_ci(0.95, method="wilson")
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((interval.low, interval.high))
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        expected, answered, labels=names, zero_division=0
    )
    assert [each.precision or 0 for each in found.labels] == pytest.approx(list(precision))
    assert [each.recall or 0 for each in found.labels] == pytest.approx(list(recall))
    assert [each.f1 for each in found.labels] == pytest.approx(list(f1))
    assert [each.expected for each in found.labels] == list(support)
    assert found.macro_f1 == pytest.approx(sk.f1_score(expected, answered, average="macro", zero_division=0))
    if len(names) == 1:  # scikit-learn warns and has no kappa
        assert (found.kappa, found.document()["matrix"]) == (None, [[len(pairs)]])
    else:
        assert found.document()["matrix"] == sk.confusion_matrix(expected, answered, labels=names).tolist()
        assert found.kappa == pytest.approx(sk.cohen_kappa_score(expected, answered))


def test_500_rows_with_planted_errors_measure_as_in_sklearn() -> None:
    assert_equals_sklearn(planted(500, 0.87, seed=1))


@given(PAIRS)
def test_any_rows_measure_as_in_sklearn(pairs: list[tuple[str, str]]) -> None:
    assert_equals_sklearn(pairs)


def test_the_baseline_is_the_most_frequent_expected_label() -> None:
    found = measure([("shoe", "shoe"), ("shoe", "bag"), ("bag", "bag"), ("shoe", None)])
    assert found is not None
    assert (found.majority, found.baseline) == ("shoe", pytest.approx(2 / 3))
    assert (found.rows, found.right, found.unanswered) == (3, 2, 1)


def test_without_an_answer_to_a_known_row_there_is_no_accuracy() -> None:
    assert measure([]) is None
    assert measure([("shoe", None)]) is None


@pytest.mark.parametrize(
    ("right", "rows", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_has_the_values_of_newcombe_1998(right: int, rows: int, low: float, high: float) -> None:
    found = wilson(right, rows)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_the_difference_has_the_values_of_newcombe_1998() -> None:
    found = difference(Paired(36, 12, 2, 0))  # table III, method 10
    assert (found.low, found.high) == (pytest.approx(0.0569, abs=5e-5), pytest.approx(0.3404, abs=5e-5))


# ---------------------------------------------------------------------------------- sweeps


def sweep(rows: int, seed: int) -> list[RightRows]:
    """Three settings on the same rows: cheap 80 %, middle 95 %, dear 95.2 % right. Most faults are common."""
    rng = random.Random(seed)
    hard = [rng.random() for _ in range(rows)]
    noise = [rng.random() for _ in range(rows)]
    return [
        RightRows("cheap", 1.0, [place < 0.80 for place in hard]),
        RightRows(
            "middle", 2.0, [place < 0.95 - 0.002 * (extra < 0.5) for place, extra in zip(hard, noise, strict=True)]
        ),
        RightRows("dear", 5.0, [place < 0.952 for place in hard]),
    ]


def test_the_cheapest_setting_that_is_good_enough_is_named_in_at_least_19_of_20_seeds() -> None:
    named = [choose(sweep(1_500, seed), margin=0.01).chosen for seed in range(20)]
    assert named.count("middle") >= 19
    assert "cheap" not in named


def test_too_few_known_rows_decide_nothing_and_their_number_is_told() -> None:
    decisions = [choose(sweep(30, seed), margin=0.01) for seed in range(20)]
    undecided = [each for each in decisions if each.chosen is None]
    assert len(undecided) >= 15
    assert all(each.rows_needed is not None and each.rows_needed > 30 for each in undecided)


def test_the_number_of_rows_that_is_told_decides_where_the_shares_stay_as_they_are() -> None:
    def settings(rows: int) -> list[RightRows]:
        cheap = [number % 20 != 3 for number in range(rows)]
        return [RightRows("cheap", 1.0, cheap), RightRows("dear", 2.0, [True] * rows)]

    needed = choose(settings(200), margin=0.03).rows_needed
    assert needed is not None
    assert choose(settings(needed * 9 // 10), margin=0.03).chosen is None
    assert choose(settings(needed * 11 // 10), margin=0.03).chosen == "dear"


def test_a_difference_at_the_margin_is_never_decided() -> None:
    rows = [RightRows("cheap", 1.0, [True] * 98 + [False] * 2), RightRows("dear", 2.0, [True] * 100)]
    assert choose(rows, margin=0.02).rows_needed == 1_000_000


def test_a_single_setting_is_its_own_best() -> None:
    assert choose([RightRows("only", 1.0, [True, False])], margin=0.01).chosen == "only"


def test_of_two_equally_right_settings_the_cheaper_is_the_best() -> None:
    right = [True] * 1_000
    found = choose([RightRows("dear", 5.0, right), RightRows("cheap", 1.0, right)], margin=0.01)
    assert (found.chosen, found.best) == ("cheap", "cheap")


def test_settings_are_compared_on_the_same_rows_only() -> None:
    with pytest.raises(ValueError):
        paired([True], [True, False])
