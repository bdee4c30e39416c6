"""Rate signs in every provider's form; times are relative to when the answer came."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.errors import RateLimited
from batchvision.providers import RateSigns, dialect, signs
from batchvision.records import RawAnswer

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)


def raw(headers: dict[str, str], status: int = 200, body: bytes = b"") -> RawAnswer:
    return RawAnswer(status, headers, body, NOW)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, RateSigns()),
        (  # xAI
            {
                "x-ratelimit-limit-requests": "8300",
                "x-ratelimit-remaining-requests": "8299",
                "x-ratelimit-limit-tokens": "53000000",
                "x-ratelimit-remaining-tokens": "52999000",
            },
            RateSigns(8300, 53_000_000),
        ),
        (  # OpenAI
            {
                "x-ratelimit-limit-requests": "60",
                "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-limit-tokens": "150000",
                "x-ratelimit-remaining-tokens": "0",
                "x-ratelimit-reset-tokens": "1m30s",
            },
            RateSigns(60, 150_000, reset_requests_seconds=1, reset_tokens_seconds=90),
        ),
        (  # Groq: requests are for a day
            {
                "x-ratelimit-limit-requests": "14400",
                "x-ratelimit-remaining-requests": "14370",
                "x-ratelimit-reset-requests": "2m59.56s",
                "x-ratelimit-limit-tokens": "18000",
                "x-ratelimit-remaining-tokens": "17997",
                "x-ratelimit-reset-tokens": "7.66s",
            },
            RateSigns(None, 18000, reset_requests_seconds=179.56, reset_tokens_seconds=7.66),
        ),
        (  # Anthropic
            {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2026-11-20T12:00:30Z",
                "anthropic-ratelimit-input-tokens-limit": "40000",
                "anthropic-ratelimit-input-tokens-remaining": "39000",
            },
            RateSigns(50, 40000, reset_requests_seconds=30),
        ),
        (  # OpenRouter: milliseconds since 1970
            {
                "x-ratelimit-limit": "20",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": str(int(NOW.timestamp() * 1000) + 45_000),
            },
            RateSigns(20, None, reset_requests_seconds=45),
        ),
        (
            {"x-ratelimit-limit": "20", "x-ratelimit-reset": str(int(NOW.timestamp()) + 30)},
            RateSigns(20, None, reset_requests_seconds=30),
        ),
        (
            {"ratelimit-limit": "100", "ratelimit-remaining": "9", "ratelimit-reset": "12"},
            RateSigns(100, None, reset_requests_seconds=12),
        ),
        ({"x-ratelimit-limit-requests": "many", "x-ratelimit-reset-requests": "soon"}, RateSigns()),
        ({"x-ratelimit-limit-requests": "0"}, RateSigns()),
    ],
)
def test_headers_are_read(headers: dict[str, str], expected: RateSigns) -> None:
    assert dialect("openai").limits(raw(headers)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 7.5 "}, 7.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "Fri, 20 Nov 2026 12:01:30 GMT"}, 90),
        ({"retry-after": "Fri, 20 Nov 2026 11:00:00 GMT"}, 0),
        ({"retry-after": "2026-11-20T12:00:05+00:00"}, 5),
        ({"retry-after": "2026-11-20T12:00:05"}, 5),
        ({"retry-after": "1m10s"}, 70),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "31536000"}, signs.MOST_SECONDS),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "9" * 500}, None),
        ({"retry-after": "Fri, 99 Nov 2026 12:01:30 GMT"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6s"}, None),
    ],
)
def test_retry_after_is_read_in_every_form(headers: dict[str, str], seconds: float | None) -> None:
    assert signs.retry_after_seconds(raw(headers), {}) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6s"}, 6),
        ({"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "17ms"}, 0.017),
        ({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "6s"}, None),
        ({"x-ratelimit-remaining-requests": "0"}, None),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6s", "retry-after": "2"}, 2),
    ],
)
def test_a_429_without_retry_after_waits_for_what_is_used_up(headers: dict[str, str], seconds: float | None) -> None:
    assert signs.retry_after_seconds(raw(headers, status=429), {}) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ([{"error": {"details": [{"@type": "...QuotaFailure"}, {"@type": "...RetryInfo", "retryDelay": "34s"}]}}], 34),
        ({"error": {"details": [{"retryDelay": "34.074824224s"}]}}, 34.074824224),
        ({"error": {"details": [{"retryDelay": "later"}]}}, None),
        ({"error": {"message": "Rate limit reached ... Please try again in 7.66s. Visit ..."}}, 7.66),
        ({"error": {"message": "Please try again in 6m0s."}}, 360),
        ({"error": {"message": "Please try again in 20 s"}}, 20),
        ({"error": {"message": "Please try again in a while"}}, None),
        ({"error": {"metadata": {"retry_after": 3}}}, 3),
        ({"error": {"availability": {"retry_after": 8}}}, 8),
        ({"error": {"retry_after": True}}, None),
        ({"error": "text"}, None),
        ("text", None),
    ],
)
def test_the_body_of_a_429_may_say_how_long_to_wait(body: object, seconds: float | None) -> None:
    answer = raw({}, status=429, body=json.dumps(body).encode())

    error = dialect("openai").read(answer).error
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("17ms", 0.017),
        ("1s", 1),
        ("6m0s", 360),
        ("2m59.56s", 179.56),
        ("1h2m3s", 3723),
        ("1d", 86_400),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("9d", signs.MOST_SECONDS),
        ("s", None),
        ("12", None),
        ("1 parsec", None),
        ("", None),
    ],
)
def test_durations_are_those_of_go(text: str, seconds: float | None) -> None:
    assert signs.duration_seconds(text) == pytest.approx(seconds)


@given(st.integers(0, 23), st.integers(0, 59), st.floats(0, 59.99))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: float) -> None:
    text = f"{hours}h{minutes}m{seconds:.2f}s"

    assert signs.duration_seconds(text) == pytest.approx(hours * 3600 + minutes * 60 + seconds, abs=0.01)


@pytest.mark.parametrize(
    ("headers", "limit", "is_stated", "reset"),
    [
        ({"x-ratelimit-limit-requests": "600"}, 600, False, None),
        ({"x-ratelimit-limit-requests": "600", "x-ratelimit-reset-requests": "6s"}, 600, False, 6),
        ({"x-ratelimit-limit-requests": "14400", "x-ratelimit-reset-requests": "2m59s"}, None, False, 179),
        ({"x-ratelimit-limit-requests-minute": "30"}, 30, True, None),
        ({"x-ratelimit-limit-second": "5", "x-ratelimit-remaining-second": "4"}, 300, True, None),
        ({"x-ratelimit-limit-requests-day": "900"}, None, False, None),
        ({"ratelimit-limit": "100;w=60"}, 100, True, None),
        ({"ratelimit-limit": "100, 100;w=30", "ratelimit-reset": "12"}, 200, True, 12),
        ({"ratelimit-limit": "100;w=0"}, None, False, None),
        ({"ratelimit-limit": "9;policy=x;window=1"}, 540, True, None),
    ],
)
def test_a_limit_records_whether_its_window_is_stated(headers, limit, is_stated, reset) -> None:
    found = signs.read(raw(headers))

    assert found.limit_requests_per_minute == limit
    assert found.is_requests_window_stated is is_stated
    assert found.reset_requests_seconds == reset


def test_tokens_say_whether_their_window_is_stated() -> None:
    assert signs.read(raw({"x-ratelimit-limit-tokens-minute": "6000"})).is_tokens_window_stated
    assert not signs.read(raw({"x-ratelimit-limit-tokens": "6000"})).is_tokens_window_stated
