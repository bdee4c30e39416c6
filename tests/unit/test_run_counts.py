"""The counters of a run: each event is counted once, and a row that is ambiguous twice is one row."""

from __future__ import annotations

from checkpoint_rows import a_completed, a_failed, an_attempt, an_intent

from batchvision.records import AttemptState
from batchvision.runner.booking import RunCounts


def test_ambiguous_rows_of_a_crash_and_of_the_run_are_counted_together() -> None:
    counts = RunCounts()
    counts.begin(10, [an_intent(1), an_intent(2, bound_ticks=None)])
    for number in (2, 3):
        counts.attempt(an_attempt(an_intent(number), AttemptState.AMBIGUOUS, bound_ticks=7))
    counters = counts.counters
    assert (counters.rows_total, counters.rows_ambiguous) == (10, 3)
    assert (counters.ambiguous_ticks, counters.unbounded) == (100 + 7 + 7, 1)


def test_a_request_that_found_no_way_is_not_counted_as_sent() -> None:
    counts = RunCounts()
    tries = an_intent(1).tries
    counts.sent(tries)
    counts.landed()
    counts.sent(tries._replace(unspent=1))
    counts.not_sent()
    counts.landed()
    assert (counts.counters.requests_sent, counts.counters.retries, counts.counters.in_flight) == (1, 1, 0)


def test_outcomes_are_counted_by_kind() -> None:
    counts = RunCounts()
    counts.outcome(a_completed(an_intent(1)))
    counts.outcome(a_failed(an_intent(2), "refused", quarantined=True, at_provider=True))
    counts.outcome(a_failed(an_intent(3), "refused"))
    counters = counts.counters
    assert (counters.rows_completed, counters.rows_failed, counters.rows_failed_at_provider) == (1, 2, 1)
    assert (counters.rows_quarantined, counters.failures_by_kind) == (1, {"refused": 2})
