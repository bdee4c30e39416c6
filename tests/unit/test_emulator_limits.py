"""Rate limits as token buckets, with a clock that the test turns."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import pytest

from batchvision.emulator.faults import FaultKind
from batchvision.emulator.limits import Limits
from batchvision.emulator.options import EmulatorOptions, Face
from batchvision.emulator.refusals import RequestRefused


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limits(clock: Clock, face: Face = Face.XAI, **options: object) -> Limits:
    return Limits(EmulatorOptions().changed(options), face, clock)


def admitted(of: Limits, times: int) -> int:
    count = 0
    for _ in range(times):
        try:
            of.admit()
        except RequestRefused:
            continue
        count += 1
    return count


def test_without_limits_every_request_is_admitted_and_no_header_is_sent() -> None:
    free = limits(Clock())
    assert admitted(free, 1000) == 1000
    free.spend("grok-4.3", 10**9)
    assert free.headers() == {}


def test_a_burst_is_one_second_of_the_rate_and_fills_again_with_time() -> None:
    clock = Clock()
    tight = limits(clock, requests_per_minute=600)
    assert admitted(tight, 50) == 10
    clock.now += 0.5
    assert admitted(tight, 50) == 5
    clock.now += 3600
    assert admitted(tight, 50) == 10


def test_a_burst_can_be_chosen() -> None:
    assert admitted(limits(Clock(), requests_per_minute=600, burst=1), 50) == 1


def test_xai_names_actual_and_limit_for_each_second_or_minute() -> None:
    each_second = limits(Clock(), requests_per_minute=120, burst=1)
    each_minute = limits(Clock(), requests_per_minute=90, burst=1)
    each_second.admit()
    each_minute.admit()
    with pytest.raises(RequestRefused, match=r"Requests per Second \(actual/limit\): 3/2$"):
        each_second.admit("grok-4.3")
    with pytest.raises(RequestRefused, match=r"model grok-4.3\. .*Requests per Minute \(actual/limit\): 91/90$"):
        each_minute.admit("grok-4.3")


def test_tokens_of_a_minute_may_be_overdrawn_once_and_are_paid_back_by_waiting() -> None:
    clock = Clock()
    tight = limits(clock, tokens_per_minute=6000)
    tight.spend("grok-4.3", 9000)
    with pytest.raises(RequestRefused, match=r"Tokens per Minute \(actual/limit\): 6100/6000$"):
        tight.spend("grok-4.3", 100)
    clock.now += 31
    tight.spend("grok-4.3", 100)


def test_headers_tell_limits_where_the_provider_does() -> None:
    told = limits(Clock(), requests_per_minute=600, tokens_per_minute=1000).headers()
    assert told == {
        "x-ratelimit-limit-requests": "600",
        "x-ratelimit-remaining-requests": "10",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "1000",
    }
    assert limits(Clock(), Face.OPENROUTER, requests_per_minute=600).headers() == {}
    assert limits(Clock(), requests_per_minute=600, rate_headers=False).headers() == {}
    assert limits(Clock(), Face.OPENAI, requests_per_minute=600).headers()["x-ratelimit-reset-requests"] == "0.000s"


def test_openrouter_sends_its_limits_with_a_429_only() -> None:
    tight = limits(Clock(), Face.OPENROUTER, requests_per_minute=60)
    tight.admit()
    with pytest.raises(RequestRefused) as caught:
        tight.admit()
    headers = caught.value.refusal.headers
    assert headers["X-RateLimit-Limit"] == "60"
    assert headers["X-RateLimit-Remaining"] == "0"
    assert len(headers["X-RateLimit-Reset"]) == 13


def test_retry_after_is_sent_if_configured() -> None:
    tight = limits(Clock(), requests_per_minute=6, burst=1, retry_after=True)
    tight.admit()
    with pytest.raises(RequestRefused) as caught:
        tight.admit()
    assert caught.value.refusal.headers["Retry-After"] == "10"


def test_a_fault_asks_for_each_way_to_say_when_to_come_back() -> None:
    free = limits(Clock(), retry_after_seconds=2.5)
    asked = {kind: free.refuse(kind, "grok-4.3").refusal.headers for kind in FaultKind if "limited" in kind}
    assert asked[FaultKind.RATE_LIMITED] == {}
    assert asked[FaultKind.RATE_LIMITED_SECONDS] == {"Retry-After": "2.5"}
    assert asked[FaultKind.RATE_LIMITED_MS] == {"retry-after-ms": "2500"}
    assert parsedate_to_datetime(asked[FaultKind.RATE_LIMITED_DATE]["Retry-After"]).tzinfo is not None
    assert "Tokens per Minute" in free.refuse(FaultKind.TOKENS_LIMITED, "grok-4.3").refusal.message
