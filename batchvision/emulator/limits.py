"""The provider's rate limits: token buckets for requests and tokens a minute. No I/O; the clock is a parameter.

A refused request takes nothing from a bucket.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from batchvision.emulator.faults import FaultKind
from batchvision.emulator.options import EmulatorOptions, Face
from batchvision.emulator.refusals import Reason, RequestRefused


class LimitBucket:
    """Fills at ``per_minute`` up to ``capacity``. A large request may overdraw it."""

    def __init__(self, per_minute: float, capacity: float, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self.capacity = capacity
        self._clock = clock
        self._level = capacity
        self._at = clock()

    @property
    def level(self) -> float:
        now = self._clock()
        self._level = min(self.capacity, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now
        return self._level

    def take(self, amount: float) -> None:
        self._level = self.level - amount

    def seconds_until(self, level: float) -> float:
        return max(0.0, (level - self.level) * 60 / self.per_minute)


class Limits:
    """The two buckets of one face. ``admit`` takes a request, ``spend`` takes its tokens when they are known."""

    def __init__(self, options: EmulatorOptions, face: Face, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._face = face
        self._requests = _requests_bucket(options, clock)
        per_minute = options.tokens_per_minute
        self._tokens = LimitBucket(per_minute, per_minute, clock) if per_minute else None

    def admit(self, model: str = "grok") -> None:
        """Take one request. Raises RequestRefused with 429."""
        bucket = self._requests
        if bucket is None:
            return
        if bucket.level < 1:
            wait = bucket.seconds_until(1)
            raise RequestRefused(Reason.REQUESTS, self._requests_text(model), self._refused_headers(bucket, wait))
        bucket.take(1)

    def spend(self, model: str, tokens: int) -> None:
        """Take the tokens of one request, which may overdraw the bucket. Raises RequestRefused with 429."""
        bucket = self._tokens
        if bucket is None:
            return
        if bucket.level <= 0:
            limit = round(bucket.per_minute)
            text = tokens_text(model, limit + tokens, limit)
            raise RequestRefused(Reason.TOKENS, text, self._refused_headers(bucket, bucket.seconds_until(1)))
        bucket.take(tokens)

    def refuse(self, kind: FaultKind, model: str) -> RequestRefused:
        """The 429 of a fault."""
        if kind is FaultKind.TOKENS_LIMITED:
            limit = round(self._options.tokens_per_minute or 10_000_000)
            return RequestRefused(Reason.TOKENS, tokens_text(model, limit + 65, limit))
        return RequestRefused(Reason.REQUESTS, self._requests_text(model), _asked_headers(kind, self._options))

    def headers(self) -> dict[str, str]:
        """The rate limit headers of a good answer. OpenRouter sends none."""
        headers: dict[str, str] = {}
        if not self._options.rate_headers or self._face is Face.OPENROUTER:
            return headers
        for name, bucket in (("requests", self._requests), ("tokens", self._tokens)):
            if bucket is not None:
                headers[f"x-ratelimit-limit-{name}"] = str(round(bucket.per_minute))
                headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.level)))
                if self._face is Face.OPENAI:
                    headers[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_until(bucket.capacity):.3f}s"
        return headers

    def _refused_headers(self, bucket: LimitBucket, wait_seconds: float) -> dict[str, str]:
        headers = self.headers()
        if self._options.retry_after:
            headers["Retry-After"] = str(max(1, math.ceil(wait_seconds)))
        if self._face is Face.OPENROUTER and self._options.rate_headers:
            reset = datetime.now(UTC) + timedelta(seconds=wait_seconds)
            headers["X-RateLimit-Limit"] = str(round(bucket.per_minute))
            headers["X-RateLimit-Remaining"] = "0"
            headers["X-RateLimit-Reset"] = str(round(reset.timestamp() * 1000))
        return headers

    def _requests_text(self, model: str) -> str:
        per_minute = self._options.requests_per_minute or 30_000
        if per_minute % 60 == 0:
            limit, unit = round(per_minute / 60), "Requests per Second"
        else:
            limit, unit = round(per_minute), "Requests per Minute"
        if self._face is not Face.XAI:
            return f"Rate limit exceeded: {limit} {unit.lower()}"
        return (
            f"Too many requests for team emulator and model {model}. "
            f"Your team's rate limit is - {unit} (actual/limit): {limit + 1}/{limit}"
        )


def tokens_text(model: str, actual: int, limit: int) -> str:
    return (
        f"Too many tokens for team emulator and model {model}. "
        f"Your team's rate limit is - Tokens per Minute (actual/limit): {actual}/{limit}"
    )


def _requests_bucket(options: EmulatorOptions, clock: Callable[[], float]) -> LimitBucket | None:
    per_minute = options.requests_per_minute
    if per_minute is None:
        return None
    return LimitBucket(per_minute, options.burst or max(1, math.ceil(per_minute / 60)), clock)


def _asked_headers(kind: FaultKind, options: EmulatorOptions) -> Mapping[str, str]:
    seconds = options.retry_after_seconds
    match kind:
        case FaultKind.RATE_LIMITED_SECONDS:
            return {"Retry-After": f"{seconds:g}"}
        case FaultKind.RATE_LIMITED_MS:
            return {"retry-after-ms": str(round(seconds * 1000))}
        case FaultKind.RATE_LIMITED_DATE:
            # whole seconds, rounded up so that a short wait is not 0
            at = datetime.now(UTC) + timedelta(seconds=math.ceil(seconds) + 1)
            return {"Retry-After": format_datetime(at.replace(microsecond=0), usegmt=True)}
        case _:
            return {}
