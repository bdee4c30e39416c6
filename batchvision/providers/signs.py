"""Read rate limits from responses: limit, remainder, reset and wait. Every field is optional.

Understands OpenAI, xAI, Groq, Azure, Anthropic, OpenRouter and Gemini. Times are relative to ``received_at``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from batchvision.providers import wire
from batchvision.records import RawAnswer

#: Longer waits are cut to this.
MOST_SECONDS = 86_400.0

#: A limit with a longer reset holds for more than a minute (Groq counts requests by the day).
_A_MINUTE_AT_MOST_SECONDS = 90.0


class RateSigns(NamedTuple):
    """Rate limits in one response; ``None`` where the response is silent.

    Where ``is_..._window_stated`` is False, a limit is assumed to hold for a minute.
    """

    limit_requests_per_minute: float | None = None
    limit_tokens_per_minute: float | None = None
    is_requests_window_stated: bool = False
    is_tokens_window_stated: bool = False
    reset_requests_seconds: float | None = None
    reset_tokens_seconds: float | None = None


_NONE = RateSigns()


class _Allowance(NamedTuple):
    limit: float | None
    remaining: float | None
    reset_seconds: float | None
    window_seconds: float | None = None  #: where stated

    @property
    def limit_per_minute(self) -> float | None:
        if self.window_seconds is not None and self.limit:
            return self.limit * 60 / self.window_seconds
        is_for_longer = self.reset_seconds is not None and self.reset_seconds > _A_MINUTE_AT_MOST_SECONDS
        return None if is_for_longer or not self.limit else self.limit


#: Windows in a header's name. Daily limits are ignored: they state no rate.
_UNITS_IN_NAMES = {"-second": 1.0, "-minute": 60.0}


def _with_unit(what: str) -> tuple[tuple[str, str, str], ...]:
    """Kong's and Cerebras's names: ``x-ratelimit-limit-requests-minute``."""
    kinds = ("limit", "remaining", "reset")
    named = (tuple(f"x-ratelimit-{kind}{what}{unit}" for kind in kinds) for unit in _UNITS_IN_NAMES)
    return tuple((limit, remaining, reset) for limit, remaining, reset in named)


#: Names of (limit, remaining, reset), the usual ones first.
_REQUESTS = (
    ("x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    *_with_unit("-requests"),
    *_with_unit(""),
    tuple(f"anthropic-ratelimit-requests-{sign}" for sign in ("limit", "remaining", "reset")),
    ("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"),
)
_TOKENS = (
    ("x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    *_with_unit("-tokens"),
    tuple(f"anthropic-ratelimit-tokens-{sign}" for sign in ("limit", "remaining", "reset")),
    tuple(f"anthropic-ratelimit-input-tokens-{sign}" for sign in ("limit", "remaining", "reset")),
)


def read(raw: RawAnswer) -> RateSigns:
    """The rate limits in ``raw``."""
    if "ratelimit" not in " ".join(raw.headers):
        return _NONE
    requests = _allowance(raw, _REQUESTS)
    tokens = _allowance(raw, _TOKENS)
    return RateSigns(
        limit_requests_per_minute=requests.limit_per_minute,
        limit_tokens_per_minute=tokens.limit_per_minute,
        is_requests_window_stated=requests.window_seconds is not None,
        is_tokens_window_stated=tokens.window_seconds is not None,
        reset_requests_seconds=requests.reset_seconds,
        reset_tokens_seconds=tokens.reset_seconds,
    )


def retry_after_seconds(raw: RawAnswer, error: Mapping[str, Any]) -> float | None:
    """The wait that the provider asks for, from headers or the body. For a 429, else the reset of a used-up allowance.

    ``error``: the error object of the body, read for a 429 or 503.
    """
    milliseconds = _number(raw.headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _believed(milliseconds / 1000)
    asked = wait_seconds(raw.headers.get("retry-after"), raw.received_at)
    if asked is None and raw.status in (429, 503):
        asked = body_retry_seconds(error, raw.received_at)
    if asked is None and raw.status == 429:
        used_up = [a.reset_seconds for a in (_allowance(raw, _REQUESTS), _allowance(raw, _TOKENS)) if a.remaining == 0]
        asked = max((seconds for seconds in used_up if seconds is not None), default=None)
    return asked


def body_retry_seconds(error: Mapping[str, Any], now: datetime) -> float | None:
    """The wait in an error object: Gemini's RetryInfo, OpenRouter's availability and quoted headers, or the message."""
    for detail in wire.sequence(error.get("details")):
        delay = wire.mapping(detail).get("retryDelay")
        if isinstance(delay, str):
            return duration_seconds(delay)
    metadata = wire.mapping(error.get("metadata"))
    for place in (wire.mapping(error.get("availability")), metadata, error):
        for name in ("retry_after", "retry_after_seconds"):
            seconds = _number(place.get(name))
            if seconds is not None:
                return _believed(seconds)
    if (reset := _reset_in_body(wire.mapping(metadata.get("headers")), now)) is not None:
        return reset
    message = error.get("message")
    words = _TRY_AGAIN_IN.search(message[:2000]) if isinstance(message, str) else None
    return duration_seconds(words[1]) if words else None


def _reset_in_body(headers: Mapping[str, Any], now: datetime) -> float | None:
    """The reset of a used-up allowance, by headers quoted in the body."""
    quoted = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    if quoted.get("x-ratelimit-remaining") != "0":
        return None
    return wait_seconds(quoted.get("x-ratelimit-reset"), now)


def names_zero_limit(raw: RawAnswer) -> bool:
    """Whether the headers forbid the account to send anything."""
    return any(_allowance(raw, names).limit == 0 for names in (_REQUESTS, _TOKENS))


def _allowance(raw: RawAnswer, names: tuple[tuple[str, ...], ...]) -> _Allowance:
    for limit, remaining, reset in names:
        amount, window_seconds = _limit(raw.headers.get(limit))
        by_name = next((seconds for unit, seconds in _UNITS_IN_NAMES.items() if limit.endswith(unit)), None)
        found = _Allowance(
            amount,
            _number(raw.headers.get(remaining)),
            wait_seconds(raw.headers.get(reset), raw.received_at),
            by_name or window_seconds,
        )
        if found != (None, None, None, by_name):
            return found
    return _Allowance(None, None, None)


#: ``100;w=60`` and ``100, 100;window=60`` of the IETF's drafts.
_WINDOW = re.compile(r"(\d{1,12})\s*;(?:[^,]*;)?\s*w(?:indow)?=(\d{1,7})\b")


def _limit(value: str | None) -> tuple[float | None, float | None]:
    """A limit, and the window beside it."""
    if value is None or len(value) > 200 or (stated := _WINDOW.search(value)) is None or not float(stated[2]):
        return _number(value), None
    return float(stated[1]), float(stated[2])


# ---------------------------------------------------------------------------------- durations and dates

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION_PART = r"\d{1,12}(?:\.\d{1,12})?\s?(?:ns|us|µs|ms|s|m|h|d)"
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s?(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_DURATION_PART}\s?){{1,6}}")
_TRY_AGAIN_IN = re.compile(rf"(?:try|retry) again in ((?:{_DURATION_PART}(?![a-z])\s?){{1,6}})", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,18}(?:\.\d{0,18})?")

#: Bare numbers from here on are times, not waits: seconds, then milliseconds since 1970.
_EPOCH_SECONDS_FROM = 1e9
_EPOCH_MILLISECONDS_FROM = 1e11


def duration_seconds(text: str) -> float | None:
    """Go's durations: ``17ms``, ``7.66s``, ``6m0s``, ``2m59.56s``."""
    text = text.strip()
    if len(text) > 80 or not _DURATION.fullmatch(text):
        return None
    return _believed(sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text)))


def _number(value: Any) -> float | None:
    """A number in a header or a body."""
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        return None
    text = str(value).strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def wait_seconds(value: str | None, now: datetime) -> float | None:
    """A wait in any form: seconds, a duration, seconds since 1970, an HTTP date, an RFC 3339 time."""
    if value is None or len(value) > 80:
        return None
    number = _number(value)
    if number is None:
        return duration_seconds(value) if _DURATION.fullmatch(value.strip()) else _until(value.strip(), now)
    if number < _EPOCH_SECONDS_FROM:
        return _believed(number)
    moment = number / 1000 if number >= _EPOCH_MILLISECONDS_FROM else number
    return _believed(moment - now.timestamp())


def _until(text: str, now: datetime) -> float | None:
    for parse in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            moment = parse(text)
            aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            return _believed((aware - now).total_seconds())
        except (ValueError, TypeError, IndexError, OverflowError):
            continue
    return None


def _believed(seconds: float) -> float:
    return min(max(seconds, 0.0), MOST_SECONDS)
