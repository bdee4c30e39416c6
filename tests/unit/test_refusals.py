"""One row, or the run: the rule as a table, and the facts that it is asked with."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from batchvision.errors import AuthenticationFailed, ModelNotFound, OutOfCredit, RequestRejected
from batchvision.runner.refusals import (
    MOST_WAITING,
    ROWS_IN_A_ROW,
    SAME_REFUSALS,
    Meaning,
    Refusals,
    Situation,
    meaning,
)

CERTAIN = AuthenticationFailed("Incorrect API key", is_certain=True)
UNSURE = ModelNotFound("answered 404: an HTML page", is_certain=False)
REJECTED = RequestRejected("answered 400: No connected db.")
OF_AN_IMAGE = RequestRejected("answered 400: invalid image")

NOW = datetime(2026, 11, 20, 3, tzinfo=UTC)

START = Situation(has_succeeded=False, is_proven=False, rows=1, same=1, is_known=False)
RUNNING = START._replace(has_succeeded=True, is_proven=True)
RERUN = START._replace(is_proven=True)


@pytest.mark.parametrize(
    ("error", "now", "expected"),
    [
        # the first answer
        (CERTAIN, START, Meaning.THE_RUN),
        (CERTAIN, RERUN, Meaning.THE_RUN),
        (UNSURE, START, Meaning.UNDECIDED),
        (UNSURE, RERUN, Meaning.UNDECIDED),
        (REJECTED, START, Meaning.UNDECIDED),
        (REJECTED, RERUN, Meaning.THE_ROW),
        (OF_AN_IMAGE, START, Meaning.THE_ROW),
        # one other row decides
        (UNSURE, START._replace(rows=2), Meaning.THE_RUN),
        (UNSURE, RERUN._replace(rows=2), Meaning.UNDECIDED),
        # after successes
        (CERTAIN, RUNNING, Meaning.UNDECIDED),
        (UNSURE, RUNNING._replace(rows=4), Meaning.UNDECIDED),
        (UNSURE, RUNNING._replace(rows=5), Meaning.THE_RUN),
        (CERTAIN, RUNNING._replace(rows=5), Meaning.THE_RUN),
        (REJECTED, RUNNING._replace(same=50), Meaning.THE_ROW),
        # rows that an earlier run knows
        (UNSURE, RUNNING._replace(rows=5, is_known=True), Meaning.THE_ROW),
        (UNSURE, RERUN._replace(rows=5, is_known=True), Meaning.THE_ROW),
        (UNSURE, START._replace(is_known=True), Meaning.UNDECIDED),
        (CERTAIN, RERUN._replace(is_known=True), Meaning.THE_RUN),
        # ten alike
        (REJECTED, START._replace(same=9), Meaning.UNDECIDED),
        (REJECTED, START._replace(same=10), Meaning.THE_RUN),
        (OF_AN_IMAGE, START._replace(same=10), Meaning.THE_ROW),
        # credit is the account's, whatever was answered before
        (OutOfCredit("no credit"), RUNNING, Meaning.THE_RUN),
    ],
)
def test_what_a_refusal_means(error, now, expected) -> None:
    assert meaning(error, now) is expected


def test_a_success_between_refusals_begins_the_count_anew() -> None:
    refusals = Refusals()
    refusals.succeeded(NOW)
    for number in range(4 * ROWS_IN_A_ROW):
        assert refusals.refused(f"r{number}", UNSURE, NOW) is Meaning.UNDECIDED
        if number % (ROWS_IN_A_ROW - 1) == ROWS_IN_A_ROW - 2:
            refusals.succeeded(NOW)


def test_an_answer_to_a_request_that_left_before_the_refused_ones_says_nothing_of_them() -> None:
    refusals = Refusals()
    for number in range(ROWS_IN_A_ROW - 1):
        refusals.succeeded(NOW - timedelta(seconds=1))
        assert refusals.refused(f"r{number}", UNSURE, NOW + timedelta(seconds=number)) is Meaning.UNDECIDED
    assert not refusals.succeeded(NOW - timedelta(seconds=1))
    assert refusals.refused("last", UNSURE, NOW) is Meaning.THE_RUN
    assert refusals.succeeded(NOW), "one that left with them does"
    assert refusals.refused("next", UNSURE, NOW) is Meaning.UNDECIDED


def test_one_row_that_is_refused_again_and_again_is_one_row() -> None:
    refusals = Refusals()
    assert {refusals.refused("r1", UNSURE, NOW) for _ in range(20)} == {Meaning.UNDECIDED}
    assert {refusals.refused("r1", REJECTED, NOW) for _ in range(20)} == {Meaning.UNDECIDED}


def test_messages_that_differ_in_numbers_and_request_ids_are_the_same() -> None:
    refusals = Refusals()
    found = [
        refusals.refused(
            f"r{n}", RequestRejected(f"No connected db. (request {n}f3ab0{n:03d}c-4d5e, 2026-11-30 0{n}:1)"), NOW
        )
        for n in range(SAME_REFUSALS)
    ]
    assert found == [Meaning.UNDECIDED] * (SAME_REFUSALS - 1) + [Meaning.THE_RUN]


def test_rejections_that_all_differ_wait_only_so_long() -> None:
    refusals = Refusals()
    words = ["".join("xyzuvw"[int(digit)] for digit in f"{n:04d}" if int(digit) < 6) + "q" * n for n in range(300)]
    found = [refusals.refused(f"r{n}", RequestRejected(text), NOW) for n, text in enumerate(words)]
    assert found == [Meaning.UNDECIDED] * MOST_WAITING + [Meaning.THE_ROW] * (300 - MOST_WAITING)


@pytest.mark.parametrize("was_proven", [True, False])
def test_what_the_next_run_may_rely_on(was_proven: bool) -> None:
    untouched = Refusals(is_proven=was_proven)
    untouched.refused("r1", UNSURE, NOW)
    assert untouched.is_proven is was_proven

    stopped = Refusals(is_proven=was_proven)
    stopped.refused("r1", CERTAIN, NOW)
    assert not stopped.is_proven

    answered = Refusals(is_proven=was_proven)
    answered.succeeded(NOW)
    for number in range(ROWS_IN_A_ROW):
        answered.refused(f"r{number}", UNSURE, NOW)
    assert answered.is_proven
