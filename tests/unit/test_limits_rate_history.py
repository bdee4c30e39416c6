"""The time series of the rate: bounded, and nothing is lost when samples are merged."""

from __future__ import annotations

from itertools import pairwise

from batchvision.limits import RateHistory
from batchvision.limits.limiter import MOST_SAMPLES


def test_a_long_run_keeps_a_bounded_number_of_samples_and_every_count():
    history, minutes = RateHistory(), 5 * MOST_SAMPLES
    for minute in range(minutes):
        history.add(1_000 + 60 * minute, float(minute), sent=3, rate_limited=1, paused_seconds=2.0)
    samples = history.samples()
    assert len(samples) <= MOST_SAMPLES
    assert sum(sample.sent for sample in samples) == 3 * minutes
    assert sum(sample.rate_limited for sample in samples) == minutes
    assert sum(sample.paused_seconds for sample in samples) == 2.0 * minutes
    assert samples[-1].rate_per_second == minutes - 1
    begins = [sample.begins_seconds for sample in samples]
    assert begins == sorted(set(begins))
    assert {later - earlier for earlier, later in pairwise(begins)} == {samples[0].length_seconds}


def test_a_minute_without_a_request_has_no_sample():
    history = RateHistory()
    history.add(0.0, None, sent=1)
    history.add(600.0, 5.0, sent=1)
    assert [(sample.begins_seconds, sample.rate_per_second) for sample in history.samples()] == [
        (0.0, None),
        (600.0, 5.0),
    ]
