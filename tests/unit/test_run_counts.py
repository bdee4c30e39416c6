"""The counters of a run: each record and event is counted once, and a row that is ambiguous twice is one row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anyio
from checkpoint_rows import (
    BookedEnd,
    a_completed,
    a_failed,
    an_answer,
    an_attempt,
    an_intent,
    ask,
    classify,
    open_store,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from batchvision.checkpoint import Received, RowFailed, RunState, Shared, Store
from batchvision.checkpoint.journal_records import Closed, closed
from batchvision.checkpoint.recovery import read_unsealed
from batchvision.records import Answer, AnswerSpec, AttemptState, Exchange, Intent, Outcome, Usage
from batchvision.runner.booking import RunCounts


def ended(intent: Intent, outcome: Outcome | None, state: AttemptState = AttemptState.OK, **changes: object) -> Closed:
    return closed(BookedEnd(an_attempt(intent, state, **changes), outcome))


def test_ambiguous_rows_of_a_crash_and_of_the_run_are_counted_together() -> None:
    counts = RunCounts("run1")
    counts.begin(10, [an_intent(1), an_intent(2, bound_ticks=None)])
    for number in (2, 3):
        intent = an_intent(number)
        counts.apply(ended(intent, None, AttemptState.AMBIGUOUS, bound_ticks=7), Exchange(intent))
    counters = counts.counters
    assert (counters.rows_total, counters.rows_ambiguous) == (10, 3)
    assert (counters.ambiguous_ticks, counters.unbounded) == (100 + 7 + 7, 1)


def test_a_request_that_found_no_way_is_not_counted_as_sent() -> None:
    counts = RunCounts("run1")
    tries = an_intent(1).tries
    counts.sent(tries)
    counts.landed()
    counts.sent(tries._replace(unspent=1))
    counts.not_sent()
    counts.landed()
    assert (counts.counters.requests_sent, counts.counters.retries, counts.counters.in_flight) == (1, 1, 0)


def test_outcomes_are_counted_by_kind() -> None:
    counts = RunCounts("run1")
    outcomes = [
        a_completed(an_intent(1)),
        a_failed(an_intent(2), "refused", quarantined=True, at_provider=True),
        a_failed(an_intent(3), "refused"),
    ]
    for number, outcome in enumerate(outcomes, start=1):
        counts.apply(ended(an_intent(number), outcome), Exchange(an_intent(number)))
    counts.apply(Shared(a_completed(an_intent(4))), None)
    counts.apply(RowFailed(a_failed(an_intent(5), "row_invalid")), None)
    counters = counts.counters
    assert (counters.rows_completed, counters.rows_failed, counters.rows_failed_at_provider) == (2, 3, 1)
    assert (counters.rows_quarantined, counters.failures_by_kind) == (1, {"refused": 2, "row_invalid": 1})


def test_a_corrected_failure_is_no_second_failure() -> None:
    counts = RunCounts("run1")
    failed = a_failed(an_intent(1), "image_unreadable")
    counts.apply(RowFailed(failed), None)
    counts.apply(RowFailed(replace(failed, runs_failed=0), is_correction=True), None)
    assert counts.counters.rows_failed == 1


def test_a_ticket_of_an_earlier_run_costs_this_run_and_its_row_waits_for_the_end() -> None:
    counts = RunCounts("run2")
    of_run_1 = an_intent(1)
    exchange = Exchange(of_run_1, ticket="t1")
    counts.ticket_adopted()
    assert counts.counters.tickets_open == 1
    counts.apply(Received(of_run_1.exchange_id, an_answer()), exchange)
    answer = Answer(usage=Usage(cost_ticks=15))
    counts.apply(ended(of_run_1, a_completed(of_run_1), answer=answer), exchange._replace(answer=an_answer()))
    counters = counts.counters
    assert (counters.tickets_open, counters.cost_ticks, counters.rows_completed) == (0, 15, 0)


# ---------------------------------------------------------------------------------- replay


ENDS = ["completed", "failed", "retried", "ambiguous", "held", "void", "ticket", "collected", "shared"]
ENDS += ["row_failed", "again"]  # without a request


async def _act(store: Store, number: int, end: str) -> None:
    """One row that ends as ``end`` names it."""
    intent = an_intent(number)
    failed = a_failed(intent, "row_invalid", quarantined=number % 2 == 0)
    match end:
        case "completed" | "failed" | "retried":
            await ask(store, intent, an_answer(status={"completed": 200, "failed": 400, "retried": 503}[end]))
        case "ambiguous" | "held":
            await store.intent(intent)
            store.book(intent.exchange_id, classify(Exchange(intent)), hold=end == "held")
        case "void":
            await store.intent(intent)
            store.void(intent.exchange_id)
        case "ticket" | "collected":
            await store.intent(intent)
            await store.ticket(intent.exchange_id, f"ticket {number}", intent.sent_at)
            if end == "collected":
                raw = await store.answer(intent.exchange_id, an_answer())
                store.book(intent.exchange_id, classify(Exchange(intent, answer=raw, ticket=f"ticket {number}")))
        case "row_failed":
            assert store.file(failed)
        case "again":  # the failure is stored already, so it has no second record
            assert store.file(failed)
            assert not store.file(failed)
        case "shared":
            store.share(a_completed(intent))


@settings(max_examples=30, deadline=None)
@given(ends=st.lists(st.sampled_from(ENDS), max_size=12))
def test_a_replay_of_the_journal_gives_the_counters_of_the_run(tmp_path_factory, ends: list[str]) -> None:  # type: ignore[no-untyped-def]  # a fixture
    output: Path = tmp_path_factory.mktemp("output")
    live, replayed = RunCounts("run1", AnswerSpec()), RunCounts("run1", AnswerSpec())

    async def run() -> None:
        with open_store(output) as store:  # left as by a crash: nothing is sealed
            store.recover(classify)
            store.project(live)
            for number, end in enumerate(ends):
                await _act(store, number, end)
            await store.flush()

    anyio.run(run)
    run_state = RunState()
    [(_, scan)] = read_unsealed(output / ".batchvision" / "0of1").segments
    for record in (scan.header, *scan.records):
        exchange = run_state.open.get(record.exchange_id) if isinstance(record, Received | Closed) else None
        run_state.apply(record)
        replayed.apply(record, exchange)
    assert replayed.counters == live.counters
    assert replayed.spending.document() == live.spending.document()
    assert live.counters.rows_completed == sum(end in ("completed", "collected", "shared") for end in ends)
    assert live.counters.rows_failed == sum(end in ("failed", "row_failed", "again") for end in ends)
    assert live.counters.rows_ambiguous == sum(end in ("ambiguous", "held") for end in ends)
    assert live.counters.tickets_open == ends.count("ticket")
    assert live.counters.cost_ticks == 15 * sum(end in ("completed", "collected") for end in ends)
