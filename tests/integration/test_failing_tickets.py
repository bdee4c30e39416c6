"""Deferred tickets whose polls are answered by an error, and what the age of a ticket teaches."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable

import anyio
import pytest
from fake_provider import Asked, FakeProvider, Reply, error

from batchvision.providers import Dialect
from batchvision.runner.lanes.ticket_queue import FAILED_SECONDS

DEFERRED = {"delivery__lane": "deferred", "provider__parameters": {"max_tokens": 100}}
PAGE = Reply(500, b"<html>Internal Server Error</html>", {"content-type": "text/html"})


class FailingTickets(FakeProvider):
    """``poll_script``: what a poll for this row is answered with, by its number from 1; None: properly."""

    def __init__(self, poll_script: Callable[[str, int], Reply | None], **options: float) -> None:
        super().__init__(**options)
        self.polled: defaultdict[str, list[float]] = defaultdict(list)
        self._poll_script = poll_script
        self._row_of: dict[str, str] = {}

    async def _post(self, body: bytes) -> Reply:
        reply = await super()._post(body)
        if reply.status == 200 and "request_id" in reply.document:
            self._row_of[reply.document["request_id"]] = json.loads(body)["messages"][-1]["content"][0]["text"]
        return reply

    async def _poll(self, path: str) -> Reply:
        ticket = path.rsplit("/", 1)[1]
        row = self._row_of.get(ticket, "[[]]").partition("[[")[2].partition("]]")[0]
        self.polled[row].append(anyio.current_time())
        reply = self._poll_script(row, len(self.polled[row]))
        return reply or await super()._poll(path)


def attempts_of(job_runs, row: str) -> list[dict]:
    return [attempt for attempt in job_runs.table("attempts") if attempt["row_id"] == row]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (error(400, "Invalid request content"), "request_rejected"),
        (error(422, "Unprocessable"), "request_rejected"),
        (error(403, "SAFETY_CHECK_TYPE_CSAM", "permission-denied"), "refused"),
        (Reply(400, {"error": {"message": "maximum prompt length is 100", "code": "x"}}), "context_too_long"),
    ],
)
def test_a_poll_answered_by_the_providers_own_error_ends_the_ticket(job_runs, reply, kind):
    job_runs.rows(10)
    provider = FailingTickets(lambda row, poll: reply if row == "r3" else None)
    summary = job_runs.run(provider, **DEFERRED)
    assert (summary.exit_code, summary.rows_completed, summary.tickets_open) == (3, 9, 0)
    assert len(provider.polled["r3"]) == 1
    (failed,) = job_runs.table("failures")
    assert (failed["row_id"], failed["error_kind"]) == ("r3", kind)
    (attempt,) = attempts_of(job_runs, "r3")
    assert (attempt["state"], attempt["http_status"]) == ("ambiguous", reply.status)
    assert attempt["ticket"]
    assert attempt["bound_ticks"] > 0
    assert summary.ambiguous_ticks == attempt["bound_ticks"]


@pytest.mark.parametrize("status", [500, 520, 529])
def test_a_failure_of_the_providers_own_ends_the_ticket_once_it_has_stayed(job_runs, status):
    job_runs.rows(10)
    provider = FailingTickets(lambda row, poll: error(status, "the work failed", "internal") if row == "r3" else None)
    summary = job_runs.run(provider, limits__max_attempts=1, **DEFERRED)
    assert (summary.exit_code, summary.rows_completed, summary.tickets_open) == (3, 9, 0)
    polls = provider.polled["r3"]
    assert len(polls) >= 3
    assert polls[-1] - polls[0] >= FAILED_SECONDS
    assert polls[-2] - polls[0] < FAILED_SECONDS, "the first poll after ten minutes was the last"
    (attempt,) = attempts_of(job_runs, "r3")
    assert (attempt["state"], attempt["error_kind"]) == ("ambiguous", "server_error")
    assert attempt["ticket"]


def test_it_is_asked_again_where_attempts_are_left(job_runs):
    job_runs.rows(4)
    provider = FailingTickets(
        lambda row, poll: (
            error(500, "the work failed", "internal") if row == "r3" and provider.tries_of("r3") == 1 else None
        )
    )
    summary = job_runs.run(provider, **DEFERRED)
    assert (summary.exit_code, summary.rows_completed) == (0, 4)
    assert provider.tries_of("r3") == 2
    assert [attempt["state"] for attempt in attempts_of(job_runs, "r3")] == ["ambiguous", "ok"]


def test_on_hold_it_is_not_asked_again(job_runs):
    job_runs.rows(4)
    provider = FailingTickets(lambda row, poll: error(500, "the work failed", "internal") if row == "r3" else None)
    summary = job_runs.run(provider, limits__ambiguous="hold", **DEFERRED)
    assert (summary.exit_code, summary.rows_completed, summary.rows_pending) == (3, 3, 1)
    assert provider.tries_of("r3") == 1


@pytest.mark.parametrize("reply", [error(503, "down", "unavailable"), error(502, "bad"), error(504, "late"), PAGE])
def test_what_a_gateway_says_never_ends_a_ticket(job_runs, reply):
    job_runs.rows(4)
    provider = FailingTickets(lambda row, poll: reply if row == "r3" and poll <= 60 else None)
    summary = job_runs.run(provider, **DEFERRED)
    assert (summary.exit_code, summary.rows_completed) == (0, 4)
    assert provider.polled["r3"][59] - provider.polled["r3"][0] > 2 * FAILED_SECONDS
    assert provider.tries_of("r3") == 1


def test_a_failure_that_goes_away_in_time_costs_nothing(job_runs):
    job_runs.rows(4)
    provider = FailingTickets(lambda row, poll: error(500, "hiccup", "internal") if row == "r3" and poll % 4 else None)
    provider._ticket_seconds = 3_000
    summary = job_runs.run(provider, **DEFERRED)
    assert (summary.exit_code, provider.tries_of("r3")) == (0, 1)


def test_a_page_of_a_firewall_for_one_ticket_neither_ends_it_nor_the_run(job_runs):
    job_runs.rows(10)
    page = Reply(403, b"<html>blocked</html>", {"content-type": "text/html"})
    provider = FailingTickets(lambda row, poll: page if row == "r3" and poll <= 5 else None)
    summary = job_runs.run(provider, **DEFERRED)
    assert (summary.exit_code, summary.rows_completed) == (0, 10)


def test_a_refused_key_ends_the_run_and_keeps_the_tickets(job_runs):
    job_runs.rows(10)
    summary = job_runs.run(FailingTickets(lambda row, poll: error(401, "no key")), **DEFERRED)
    assert (summary.exit_code, summary.stop_reason, summary.tickets_open) == (5, "authentication_failed", 10)


def test_tickets_that_fail_do_not_slow_the_good_ones(job_runs):
    job_runs.rows(80)
    bad = {f"r{number}" for number in range(40)}

    def play(script) -> float:
        provider = FailingTickets(script, ticket_seconds=30)
        job_runs.run(provider, limits__max_attempts=1, limits__max_failed=1000, **DEFERRED)
        return max(provider.polled[f"r{number}"][-1] for number in range(40, 80))

    calm = play(lambda row, poll: None)
    job_runs.settings["output"] = {"path": "out2"}
    assert play(lambda row, poll: error(500, "failed", "internal") if row in bad else None) <= calm + 15


# ---------------------------------------------------------------------------------- latency


def first_polls(provider: FailingTickets, asked: list[Asked]) -> list[float]:
    return [provider.polled[each.row][0] - each.at for each in asked]


@pytest.mark.parametrize("is_gone", [False, True])
def test_tickets_of_an_earlier_run_teach_no_latency(job_runs, is_gone):
    job_runs.rows(70)
    provider = FailingTickets(lambda row, poll: None, ticket_seconds=1_500, latency_seconds=0.2)
    assert job_runs.run(provider, delivery__max_ticket_wait_seconds=600, **DEFERRED).tickets_open == 70
    provider.tickets = {} if is_gone else {name: (0.0, answer) for name, (_, answer) in provider.tickets.items()}
    provider._ticket_seconds = 2
    job_runs.rows(80)
    before = len(provider.asked)
    job_runs.run(provider, **DEFERRED)
    new = provider.asked[before:]
    assert len(new) == 10
    assert max(first_polls(provider, new)) <= Dialect.first_poll_seconds + 3
