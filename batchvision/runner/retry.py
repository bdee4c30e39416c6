"""What follows an error: wait and ask again, give the row up, or stop the run. Pure; the only retry rule there is.

429s and failed connects spend no attempt, and neither does a probe of a provider that is away; everything else that is
tried again spends one of ``max_attempts``, which nothing exceeds.
"""

from __future__ import annotations

from dataclasses import dataclass

from batchvision.errors import (
    AttemptsExhausted,
    BatchvisionError,
    EmptyAnswer,
    ImageDownloadFailed,
    ImageUnreachable,
    RowFault,
    StopRun,
    Transient,
    Truncated,
)
from batchvision.records import Tries

BASE_SECONDS = 1.0
LONGEST_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The job's settings for failed attempts."""

    max_attempts: int = 5
    raise_once: bool = False  #: a truncated answer is asked for once more, with a larger max_tokens
    holds: bool = False  #: ``ambiguous = "hold"``: a row that may have been billed stays pending
    quarantine_after_runs: int = 5


@dataclass(frozen=True, slots=True)
class Again:
    """Ask again after a delay, with these tries to its name; ``inline_images``: with image URLs downloaded here."""

    delay_seconds: float
    tries: Tries
    inline_images: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The row is failed with this fault."""

    error: RowFault


@dataclass(frozen=True, slots=True)
class Stop:
    """No further request can succeed or is allowed."""

    error: StopRun


def decide(
    error: BatchvisionError, tries: Tries, policy: RetryPolicy, jitter: float, has_urls: bool = False
) -> Again | GiveUp | Stop:
    """What follows ``error``, which the attempt counted last in ``tries`` ended with.

    ``jitter`` in [0, 1) spreads the waits (full jitter). ``has_urls``: an image travels as a URL and can be inlined.
    """
    match error:
        case StopRun():
            return Stop(error)
        case EmptyAnswer() if tries.empties == 0 and _has_attempts(tries, policy):
            return _again(error, _spent(tries)._replace(empties=1), tries, jitter)
        case Truncated() if policy.raise_once and not tries.raised and _has_attempts(tries, policy):
            return _again(error, _spent(tries)._replace(raised=True), tries, jitter)
        case RowFault():
            return GiveUp(error)
        case ImageDownloadFailed():
            return _after_failed_download(error, tries, policy, jitter, has_urls)
        case Transient():
            return _after_transient(error, tries, policy, jitter)
    raise TypeError(f"{type(error).__name__} is neither transient nor a row's fault nor the run's end")


def _after_transient(error: Transient, tries: Tries, policy: RetryPolicy, jitter: float) -> Again | GiveUp:
    if not error.spends_attempt or tries.probe:
        return _again(error, tries._replace(unspent=tries.unspent + 1, probe=False), tries, jitter)
    if _has_attempts(tries, policy):
        return _again(error, _spent(tries), tries, jitter)
    return GiveUp(AttemptsExhausted(f"all {tries.spent} attempts failed; the last one: {error}", error.kind))


def _after_failed_download(
    error: ImageDownloadFailed, tries: Tries, policy: RetryPolicy, jitter: float, has_urls: bool
) -> Again | GiveUp:
    """Once more as it was; then, or with the last attempt, with the image inlined."""
    next_tries = _spent(tries)._replace(downloads=tries.downloads + 1)
    if not _has_attempts(tries, policy) or (tries.downloads > 0 and not has_urls):
        return GiveUp(ImageUnreachable(f"the provider could not download the image: {error}"))
    is_last = tries.spent + 1 >= policy.max_attempts
    return _again(error, next_tries, tries, jitter, inline_images=has_urls and (tries.downloads > 0 or is_last))


def _again(
    error: BatchvisionError, next_tries: Tries, tries: Tries, jitter: float, inline_images: bool = False
) -> Again:
    asked = error.retry_after_seconds if isinstance(error, Transient) else None
    return Again(asked or backoff_seconds(tries, jitter), next_tries, inline_images)


def backoff_seconds(tries: Tries, jitter: float) -> float:
    """Full jitter: anything up to 1 s after the first try, doubling up to 60 s.

    See https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    doublings = min(tries.spent + tries.unspent - 1, 16)
    return jitter * min(LONGEST_SECONDS, BASE_SECONDS * 2.0**doublings)


def _has_attempts(tries: Tries, policy: RetryPolicy) -> bool:
    return tries.spent < policy.max_attempts


def _spent(tries: Tries) -> Tries:
    return tries._replace(spent=tries.spent + 1, probe=False)
