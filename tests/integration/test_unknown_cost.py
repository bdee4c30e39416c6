"""A cost that nobody knows is told as unknown, by every command; a sum that is partly known says so."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from fake_provider import Asked, FakeProvider, Reply, error

from batchvision.cli.closing import Typed, closing_lines
from batchvision.cli.progress import bar_words, plain_line, progress_document, progress_of
from batchvision.cli.status import status_lines
from batchvision.commands.status import look
from batchvision.commands.verify import verify
from batchvision.errors import RequestTimedOut
from batchvision.records import TICKS_PER_USD, Counters
from batchvision.ticks import bound_words, cost_words, known_or_none

UNPRICED = {"provider__model": "a-model-of-no-price"}
PRICED = {"provider__prices": {"input": 1.0, "output": 1.0}, **UNPRICED}
#: 110 tokens at one USD for a million.
TICKS = 110 * 10_000


def by_tokens(asked: Asked) -> Reply:
    """An own server: it counts tokens, and knows nothing of money."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    choices = [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}]
    return Reply(200, {"id": f"chat-{asked.number}", "model": "m", "choices": choices, "usage": usage})


def told(job_runs: Any, summary: Any) -> str:
    """All that people are told of this run and its output."""
    lines = closing_lines(summary, job_runs.folder / "out", Typed("again", "retry", "check"))
    return "\n".join([*lines, *status_lines(look(job_runs.folder / "out"))])


def test_a_run_without_prices_costs_something_unknown_and_not_nothing(job_runs):
    job_runs.rows(6)
    lines: list[str] = []
    summary = job_runs.run(FakeProvider(by_tokens), **UNPRICED)
    assert (summary.rows_completed, summary.cost_ticks, summary.cost_usd, summary.unknown_cost) == (6, None, None, 6)
    document = json.loads(json.dumps(look(job_runs.folder / "out").document()))
    assert (document["cost_ticks"], document["cost_usd"], document["unknown_cost"]) == (None, None, 6)
    assert document["projected_usd"] is None
    assert document["attempts"]["ok"]["cost_ticks"] is None
    assert document["spent"]["by_model"]["m"]["cost_ticks"] is None
    assert document["last_run"]["cost_usd"] is None
    words = told(job_runs, summary)
    assert "$0.00" not in words
    assert "cost      unknown cost for 6 requests" in words
    assert "spent     unknown cost" in words
    report = anyio.run(verify, job_runs.folder / "out")
    assert report.is_right
    assert (report.document()["cost_ticks"], report.document()["unknown_cost"]) == (None, 6)
    lines = [finding.text for finding in report.findings if finding.topic == "ledger"]
    assert "6 attempts of unknown cost" in lines[0]


def test_a_partly_known_sum_counts_the_answers_left_out(job_runs):
    job_runs.rows(3)
    job_runs.run(FakeProvider(by_tokens), **PRICED)
    job_runs.rows(5)
    summary = job_runs.run(FakeProvider(by_tokens), **UNPRICED)
    document = look(job_runs.folder / "out").document()
    assert (summary.cost_ticks, document["cost_ticks"], document["unknown_cost"]) == (None, 3 * TICKS, 2)
    assert "spent     $0.000330 and the unknown cost of 2 answers" in told(job_runs, summary)
    assert document["projected_ticks"] is None
    assert document["spent"]["by_state"]["ok"] == {
        "attempts": 5,
        "cost_ticks": 3 * TICKS,
        "bound_ticks": None,
        "unknown_cost": 2,
        "unbounded": 2,
    }


def test_refused_and_failed_requests_are_free_and_not_unknown(job_runs):
    job_runs.rows(4)
    busy = FakeProvider(lambda asked: error(503, "busy") if asked.try_ == 1 else error(400, "no image here"))
    summary = job_runs.run(busy, **UNPRICED)
    assert summary.rows_completed == 0
    assert (summary.cost_ticks, summary.unknown_cost) == (0, 0)
    assert look(job_runs.folder / "out").document()["cost_ticks"] == 0


@pytest.mark.parametrize(("settings", "ticks"), [(UNPRICED, None), (PRICED, 0)])
def test_ambiguous_attempts_without_a_bound_are_listed_as_unknown(job_runs, settings, ticks):
    """Neither ``max_tokens`` nor a price bounds a request that was cut off: the list must not say that it is $0.00."""
    job_runs.rows(4)
    script = FakeProvider(lambda asked: RequestTimedOut("slow") if asked.row == "r2" else by_tokens(asked))
    bounded = {"provider__parameters": {"max_tokens": 10}, "limits__max_attempts": 1}
    summary = job_runs.run(script, **settings, **bounded)
    seen = look(job_runs.folder / "out")
    words = told(job_runs, summary)
    (unclear,) = seen.document()["ambiguous"]
    if ticks is None:
        assert (summary.ambiguous_ticks, summary.unbounded, unclear["bound_ticks"]) == (None, 1, None)
        assert "1 rows may have been billed without an answer, at an unknown cost" in words
        assert "row r2: ambiguous, at an unknown cost" in words
        assert "$0.00" not in words
    else:
        assert summary.ambiguous_ticks == unclear["bound_ticks"] > 0
        assert "row r2: ambiguous, at most $" in words


def test_progress_shows_unknown_cost() -> None:
    from fake_provider import NIGHTFALL

    counters = Counters(rows_total=100, rows_completed=50, unknown_cost=50)
    now = progress_of(counters, Counters(), 10.0, NIGHTFALL)
    assert now.projected_ticks is None
    assert "spent unknown cost" in plain_line(now)
    assert "$0.00" not in bar_words(now, 200)
    document = progress_document(now)
    assert (document["cost_usd"], document["projected_cost_usd"], document["unknown_cost"]) == (None, None, 50)


def test_words_for_sums() -> None:
    assert (cost_words(0, 0), cost_words(None, 3)) == ("$0.00", "unknown cost")
    assert cost_words(TICKS_PER_USD, 1) == "$1.00 and the unknown cost of 1 answer"
    assert (bound_words(0, 2), bound_words(TICKS_PER_USD, 0)) == ("at an unknown cost", "at most $1.00")
    assert bound_words(TICKS_PER_USD, 2) == "at most $1.00 and the unknown cost of 2"
    assert (known_or_none(0, 0), known_or_none(0, 1), known_or_none(5, 1)) == (0, None, 5)
