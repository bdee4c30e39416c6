"""A run ends after too long without an answer, or at a request to wait for too long."""

from __future__ import annotations

import pytest

from batchvision.errors import (
    ConnectFailed,
    ConnectionCut,
    ProviderNeverAnswered,
    ProviderUnavailable,
    QuotaReached,
    RateLimited,
    RequestTimedOut,
    ServerError,
    StopRun,
    Transient,
)
from batchvision.limits.outage import OutageRule

START = 1_000.0


@pytest.mark.parametrize("failure", [ConnectFailed, ServerError, RequestTimedOut, ConnectionCut])
@pytest.mark.parametrize(
    ("was_answered", "expected", "code"), [(True, ProviderUnavailable, 4), (False, ProviderNeverAnswered, 5)]
)
def test_an_outage_ends_the_run_after_max_outage_seconds(
    failure: type[Transient], was_answered: bool, expected: type[StopRun], code: int
) -> None:
    rule = OutageRule(600, was_answered=was_answered)
    assert rule.failed(failure("refused"), START) is None
    assert rule.ends_at(START + 100) == START + 600
    assert rule.failed(failure("refused"), START + 599) is None
    reason = rule.failed(failure("refused"), START + 600)
    assert type(reason) is expected
    assert reason.exit_code == code
    assert "limits.max_outage_seconds" in str(reason)
    assert "refused" in str(reason)


@pytest.mark.parametrize(("is_success", "expected"), [(True, ProviderUnavailable), (False, ProviderNeverAnswered)])
def test_any_answer_begins_the_time_anew_and_only_a_success_counts_as_one(
    is_success: bool, expected: type[StopRun]
) -> None:
    rule = OutageRule(600)
    rule.failed(ServerError("down"), START)
    rule.answered(is_success=is_success)
    assert rule.failed(ServerError("down"), START + 599) is None
    assert rule.failed(ServerError("down"), START + 1_198) is None
    assert type(rule.failed(ServerError("down"), START + 1_199)) is expected


@pytest.mark.parametrize(
    ("waits", "stops"),
    [
        ([599], False),
        ([600], True),
        ([86_400], True),
        ([300, 299], False),  # at 300 s, until 599
        ([300, 300], True),
        ([None] * 10, False),
    ],
)
def test_a_requested_wait_that_ends_too_late_ends_the_run_at_once(waits: list[float | None], stops: bool) -> None:
    rule, now, reason = OutageRule(600), START, None
    for wait in waits:
        assert reason is None
        reason = rule.failed(RateLimited("per day", retry_after_seconds=wait), now)
        now += wait or 1.0
    assert isinstance(reason, QuotaReached) is stops
    if reason is not None:
        assert reason.exit_code == 4
        assert "limits.max_outage_seconds (600)" in str(reason)


def test_429s_alone_for_max_outage_seconds_mean_a_used_up_quota() -> None:
    rule = OutageRule(600)
    assert rule.failed(RateLimited("slow down"), START) is None
    assert isinstance(rule.failed(RateLimited("slow down"), START + 600), QuotaReached)
