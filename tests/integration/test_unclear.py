"""What may have been billed without its answer reaching us: listed, bounded, sent again or kept as the job says."""

from __future__ import annotations

from collections import Counter

import pytest
from fake_provider import Asked, FakeProvider, error

from batchvision.errors import ConnectFailed, ConnectionCut, RequestTimedOut
from batchvision.runner.refusals import ROWS_IN_A_ROW

START = 1_000.0  #: the virtual clock's beginning
HOLD = {"limits__ambiguous": "hold"}
DEFERRED = {"delivery__lane": "deferred"}


def first_try_of(row: str, fault: Exception):
    return lambda asked: fault if asked.row == row and asked.try_ == 1 else None


def states(job_runs) -> Counter[str]:
    return Counter(row["state"] for row in job_runs.table("attempts"))


def test_every_request_that_timed_out_in_an_outage_is_listed_also_those_that_were_asked_again_later(job_runs):
    job_runs.rows(40)
    timed_out = []

    def script(asked: Asked):
        if START + 5 <= asked.at < START + 1_800:
            timed_out.append(asked.row)
            return RequestTimedOut("slow")
        return None

    summary = job_runs.run(
        FakeProvider(script), limits__concurrency=8, limits__max_attempts=2, provider__parameters={"max_tokens": 50}
    )
    assert (summary.rows_completed, summary.exit_code) == (40, 0)
    assert states(job_runs)["ambiguous"] == len(timed_out) > 8
    bounds = [row["bound_ticks"] for row in job_runs.table("attempts") if row["state"] == "ambiguous"]
    assert summary.ambiguous_ticks == sum(bounds) > 0


# ---------------------------------------------------------------------------------- ambiguous = "hold"


@pytest.mark.parametrize("fault", [RequestTimedOut("slow"), ConnectionCut("cut")])
@pytest.mark.parametrize("max_attempts", [1, 5])
def test_a_job_that_holds_sends_nothing_twice_that_may_have_been_billed(job_runs, fault, max_attempts):
    job_runs.rows(10)
    provider = FakeProvider(first_try_of("r4", fault))
    for _ in range(3):
        summary = job_runs.run(provider, limits__max_attempts=max_attempts, **HOLD)
        assert (summary.exit_code, summary.rows_completed, summary.rows_pending) == (3, 9, 1)
        assert summary.rows_failed == 0
    assert provider.tries_of("r4") == 1
    assert len(provider.asked) == 10
    assert states(job_runs) == {"ok": 9, "ambiguous": 1}

    released = job_runs.run(provider)
    assert (released.exit_code, released.rows_completed) == (0, 10)
    assert provider.tries_of("r4") == 2
    (row,) = [row for row in job_runs.table("results") if row["row_id"] == "r4"]
    assert row["attempt_count"] == 2


def test_a_job_that_holds_tries_again_what_cannot_have_been_billed(job_runs):
    job_runs.rows(10)
    provider = FakeProvider(
        lambda asked: (
            {"r1": error(503, "down"), "r2": ConnectFailed("refused")}.get(asked.row) if asked.try_ == 1 else None
        )
    )
    assert job_runs.run(provider, **HOLD).exit_code == 0
    assert states(job_runs)["ambiguous"] == 0


def test_a_row_on_hold_whose_prompt_has_changed_is_another_question(job_runs):
    job_runs.rows(10)
    provider = FakeProvider(first_try_of("r4", RequestTimedOut("slow")))
    job_runs.run(provider, **HOLD)
    path = job_runs.folder / "photos.csv"
    path.write_text(path.read_text().replace("thing 4\n", "thing four\n"))
    assert job_runs.run(provider, **HOLD).exit_code == 0
    assert provider.tries_of("r4") == 2


# ---------------------------------------------------------------------------------- tickets, when the run has to stop


def tickets_and_a_refusal(job_runs, refusal):
    """Forty tickets that are ready a minute later; then a submission is refused."""
    job_runs.rows(60)
    provider = FakeProvider(lambda asked: refusal if asked.number > 40 else None, latency_seconds=2, ticket_seconds=6)
    return provider, job_runs.run(provider, limits__concurrency=4, **DEFERRED)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        (error(403, "used all available credits", "permission-denied"), "out_of_credit"),
        (error(429, "used all available credits or reached its limit", "exhausted"), "out_of_credit"),
        (error(402, "payment required"), "out_of_credit"),
        (error(400, "Model not found: grok-99"), "model_not_found"),
    ],
)
def test_without_credit_tickets_that_are_ready_are_still_collected(job_runs, refusal, reason):
    provider, summary = tickets_and_a_refusal(job_runs, refusal)
    assert (summary.exit_code, summary.stop_reason) == (5, reason)
    undecided = 0 if reason == "out_of_credit" else ROWS_IN_A_ROW - 1
    assert len(provider.asked) <= 40 + undecided + 4, "what was in flight, and no more"
    assert summary.rows_completed + summary.tickets_open == 40
    refused_at = provider.asked[40].at + 2
    assert not [ready_at for ready_at, _ in provider.tickets.values() if ready_at <= refused_at]
    assert (summary.rows_completed > 20, summary.rows_failed) == (True, 0)

    provider.tickets = {ticket: (0.0, answer) for ticket, (_, answer) in provider.tickets.items()}
    mended = FakeProvider()
    mended.tickets = provider.tickets
    done = job_runs.run(mended, **DEFERRED)
    assert (done.exit_code, done.rows_completed, len(mended.asked)) == (0, 60, 20)


@pytest.mark.parametrize("refusal", [error(401, "no key"), error(400, "Incorrect API key provided: xai-...")])
def test_a_refused_key_asks_for_no_ticket_any_more(job_runs, refusal):
    provider, summary = tickets_and_a_refusal(job_runs, refusal)
    assert (summary.exit_code, summary.stop_reason) == (5, "authentication_failed")
    assert len(provider.asked) <= 40 + ROWS_IN_A_ROW - 1 + 4
    assert summary.tickets_open > 0
    after = [at for at in provider.polls if at > provider.asked[40 + ROWS_IN_A_ROW - 1].at + 2.5]
    assert after == []
