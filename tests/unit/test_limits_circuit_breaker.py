"""The circuit breaker: the first request alone, and one probe at a time in an outage. Times are parameters."""

from __future__ import annotations

import itertools

from batchvision.limits import OUTAGE_AFTER_FAILURES, LocalCircuitBreaker
from batchvision.limits.outage import BreakerState


def closed() -> LocalCircuitBreaker:
    breaker = LocalCircuitBreaker()
    assert breaker.admit(0.0)
    breaker.answered()
    return breaker


def opened() -> LocalCircuitBreaker:
    breaker = closed()
    for _ in range(OUTAGE_AFTER_FAILURES):
        breaker.failed(0.0)
    assert breaker.is_open
    return breaker


def test_the_first_request_is_alone_until_it_is_answered():
    breaker = LocalCircuitBreaker()
    assert breaker.seconds_to_wait(0.0) == 0
    assert breaker.admit(0.0) is True
    assert breaker.seconds_to_wait(3.0) > 0
    breaker.answered()
    assert breaker.seconds_to_wait(3.0) == 0
    assert breaker.admit(3.0) is False


def test_a_first_request_that_takes_long_holds_the_others_ten_seconds_at_most():
    breaker = LocalCircuitBreaker()
    breaker.admit(0.0)
    assert breaker.seconds_to_wait(1.0) == 9.0
    assert breaker.seconds_to_wait(10.0) == 0
    assert breaker.admit(10.0) is False


def test_a_first_request_refused_for_its_row_lets_one_other_pass_at_once():
    breaker = LocalCircuitBreaker()
    breaker.admit(0.0)
    breaker.probe_ended(1.0)
    breaker.undecided(1.0)
    assert breaker.seconds_to_wait(1.0) == 0
    assert breaker.admit(1.0) is True
    assert breaker.seconds_to_wait(1.0) == 10.0


def test_an_outage_sends_one_probe_at_growing_intervals_up_to_a_minute():
    breaker, now, times = opened(), 0.0, []
    for _ in range(12):
        now += breaker.seconds_to_wait(now)
        assert breaker.admit(now) is True
        assert breaker.seconds_to_wait(now) == float("inf"), "one probe at a time"
        times.append(now)
        breaker.failed(now)
        breaker.probe_ended(now)
    gaps = [round(later - earlier) for earlier, later in itertools.pairwise([0.0, *times])]
    assert gaps == [1, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60, 60]


def test_one_failure_less_than_an_outage_keeps_the_breaker_closed():
    breaker = closed()
    for _ in range(OUTAGE_AFTER_FAILURES - 1):
        breaker.failed(0.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.answered()
    assert breaker.failures_in_a_row == 0


def test_one_answer_ends_an_outage_for_all_requests():
    breaker = opened()
    breaker.admit(1.0)
    breaker.answered()
    breaker.probe_ended(1.0)
    assert breaker.seconds_to_wait(1.0) == 0
    assert breaker.admit(1.0) is False
