"""What follows each error, as a table; and that no row is asked for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision import errors
from batchvision.errors import (
    AnswerCutShort,
    AttemptsExhausted,
    AuthenticationFailed,
    BatchvisionError,
    ConnectFailed,
    ConnectionCut,
    EmptyAnswer,
    ImageDownloadFailed,
    ImageUnreachable,
    OutOfCredit,
    RateLimited,
    Refused,
    RequestRejected,
    RequestTimedOut,
    ServerError,
    Truncated,
)
from batchvision.records import Tries
from batchvision.runner.retry import Again, GiveUp, RetryPolicy, Stop, backoff_seconds, decide

POLICY = RetryPolicy(max_attempts=5)
RAISING = RetryPolicy(max_attempts=5, raise_once=True)


def again(tries: Tries, inline: bool = False, delay: float = 0.5) -> Again:
    return Again(delay, tries, inline)


@pytest.mark.parametrize(
    ("error", "tries", "policy", "has_urls", "expected"),
    [
        # spends an attempt
        (ServerError("x"), Tries(1), POLICY, False, again(Tries(2))),
        (RequestTimedOut("x"), Tries(1), POLICY, False, again(Tries(2))),
        (ConnectionCut("x"), Tries(1), POLICY, False, again(Tries(2))),
        (AnswerCutShort("x"), Tries(4, empties=1), POLICY, False, again(Tries(5, empties=1), delay=4.0)),
        # spends none
        (RateLimited("x"), Tries(5), POLICY, False, again(Tries(5, unspent=1), delay=8.0)),
        (RateLimited("x"), Tries(1, unspent=400), POLICY, False, again(Tries(1, unspent=401), delay=30.0)),
        (ConnectFailed("x"), Tries(5, unspent=1), POLICY, False, again(Tries(5, unspent=2), delay=16.0)),
        (ServerError("x"), Tries(5, probe=True), POLICY, False, again(Tries(5, unspent=1), delay=8.0)),
        # the provider's wish goes before the back-off
        (RateLimited("x", retry_after_seconds=7.0), Tries(1), POLICY, False, again(Tries(1, unspent=1), delay=7.0)),
        (ServerError("x", retry_after_seconds=90.0), Tries(1), POLICY, False, again(Tries(2), delay=90.0)),
        (ServerError("x", retry_after_seconds=0.0), Tries(1), POLICY, False, again(Tries(2))),
        # an empty answer is asked for once more
        (EmptyAnswer("x"), Tries(1), POLICY, False, again(Tries(2, empties=1))),
        (EmptyAnswer("x"), Tries(2, empties=1), POLICY, False, EmptyAnswer),
        (EmptyAnswer("x"), Tries(1), RetryPolicy(1), False, EmptyAnswer),
        # a truncated one only if the job says so
        (Truncated("x"), Tries(1), POLICY, False, Truncated),
        (Truncated("x"), Tries(1), RAISING, False, again(Tries(2, raised=True))),
        (Truncated("x"), Tries(2, raised=True), RAISING, False, Truncated),
        # an image the provider could not download: once more, then inlined
        (ImageDownloadFailed("x"), Tries(1), POLICY, True, again(Tries(2, downloads=1))),
        (ImageDownloadFailed("x"), Tries(2, downloads=1), POLICY, True, again(Tries(3, downloads=2), True, 1.0)),
        (ImageDownloadFailed("x"), Tries(1), POLICY, False, again(Tries(2, downloads=1))),
        (ImageDownloadFailed("x"), Tries(2, downloads=1), POLICY, False, ImageUnreachable),
        (ImageDownloadFailed("x"), Tries(1), RetryPolicy(2), True, again(Tries(2, downloads=1), True)),
        (ImageDownloadFailed("x"), Tries(2), RetryPolicy(2), True, ImageUnreachable),
        # never again
        (Refused("x"), Tries(1), RAISING, True, Refused),
        (RequestRejected("x"), Tries(1), RAISING, True, RequestRejected),
        # out of attempts
        (ServerError("x"), Tries(5), POLICY, False, AttemptsExhausted),
        (RequestTimedOut("x"), Tries(1), RetryPolicy(1), False, AttemptsExhausted),
    ],
)
def test_what_follows_an_error(
    error: BatchvisionError, tries: Tries, policy: RetryPolicy, has_urls: bool, expected: Again | type[BatchvisionError]
) -> None:
    step = decide(error, tries, policy, 0.5, has_urls)

    if isinstance(expected, Again):
        assert step == expected
    else:
        assert isinstance(step, GiveUp)
        assert type(step.error) is expected


@pytest.mark.parametrize("error", [AuthenticationFailed("x"), OutOfCredit("x"), errors.ModelNotFound("x")])
def test_a_hopeless_error_stops_the_run_at_once(error: errors.StopRun) -> None:
    assert decide(error, Tries(1), POLICY, 0.5) == Stop(error)


def test_an_exhausted_row_says_how_often_and_how_the_last_attempt_failed() -> None:
    step = decide(ServerError("xai answered 503: busy"), Tries(5), POLICY, 0.5)

    assert isinstance(step, GiveUp)
    assert isinstance(step.error, AttemptsExhausted)
    assert step.error.last_kind == "server_error"
    assert str(step.error) == "all 5 attempts failed; the last one: xai answered 503: busy"


@pytest.mark.parametrize(
    ("tries", "most"), [(Tries(1), 1.0), (Tries(2), 2.0), (Tries(3), 4.0), (Tries(2, 2), 8.0), (Tries(9, 900), 60.0)]
)
def test_back_off_has_full_jitter_up_to_a_doubling_ceiling(tries: Tries, most: float) -> None:
    assert backoff_seconds(tries, 0.0) == 0.0
    assert backoff_seconds(tries, 0.25) == most / 4


def test_an_error_of_no_kind_is_a_bug() -> None:
    with pytest.raises(TypeError):
        decide(BatchvisionError("x"), Tries(1), POLICY, 0.5)


SPENDING = [ServerError, RequestTimedOut, ConnectionCut, AnswerCutShort, ImageDownloadFailed, EmptyAnswer, Truncated]


@given(st.lists(st.sampled_from(SPENDING), min_size=20, max_size=20), st.integers(1, 8), st.booleans(), st.booleans())
def test_no_row_spends_more_than_its_attempts(
    met: list[type[BatchvisionError]], most: int, raise_once: bool, has_urls: bool
) -> None:
    tries, asked = Tries(), 0
    for kind in met:
        asked += 1
        step = decide(kind("x"), tries, RetryPolicy(most, raise_once), 0.5, has_urls)
        if not isinstance(step, Again):
            break
        tries, has_urls = step.tries, has_urls and not step.inline_images
    assert asked == tries.spent <= most
