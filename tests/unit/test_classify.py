"""Classified exchanges: lines in the ledger, outcomes of rows, and next steps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from batchvision import errors
from batchvision.errors import ROW_FAULTS, TRANSIENTS
from batchvision.prompt import build_answer_spec
from batchvision.records import (
    Attempt,
    AttemptState,
    Completed,
    EndedWithout,
    Exchange,
    Failed,
    Intent,
    Label,
    Lane,
    RawAnswer,
    Recipe,
    Tries,
)
from batchvision.runner.classify import INTERRUPTED, MOST_MESSAGE_CHARS, Classification, Classifier
from batchvision.runner.retry import Again, RetryPolicy, Stop
from batchvision.ticks import Prices

SENT = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
CAME = SENT + timedelta(seconds=2.5)

RECIPES = {
    "plain": Recipe("xai", "grok-4.3", None, "Describe.", None, recipe_id="plain"),
    "labels": Recipe(
        "xai",
        "grok-4.3",
        None,
        "Which?",
        None,
        answer=build_answer_spec(None, [Label("shoe"), Label("bag")]),
        recipe_id="labels",
    ),
}

OK, RETRIED, FAILED = AttemptState.OK, AttemptState.RETRIED, AttemptState.FAILED
AMBIGUOUS, LOST = AttemptState.AMBIGUOUS, AttemptState.LOST_AFTER_READ


def intent(**changes: Any) -> Intent:
    plain = Intent(
        exchange_id="x-1",
        row_id="sku-7",
        request_key="key",
        recipe_id="plain",
        skip_key="skip",
        run_id="run-1",
        lane=Lane.ONLINE,
        provider="xai",
        model_requested="grok-4.3",
        attempt=3,
        tries=Tries(1),
        bound_ticks=500,
        cost_before_ticks=1000,
        runs_failed=2,
        sent_at=SENT,
        image_ref=("a.jpg",),
        image_sha256=("5e",),
        keep={"title": "Shoe"},
    )
    return plain._replace(**changes)


def chat(content: str | None, finish: str = "stop", cost: int | None = 40) -> bytes:
    usage: Mapping[str, Any] = {} if cost is None else {"cost_in_usd_ticks": cost}
    body = {"choices": [{"message": {"content": content}, "finish_reason": finish}], "usage": usage}
    return json.dumps(body).encode()


def answered(body: bytes, status: int = 200, **changes: Any) -> Exchange:
    return Exchange(intent(**changes), answer=RawAnswer(status, {}, body, CAME))


def ended(kind: str, message: str = "why", **changes: Any) -> Exchange:
    return Exchange(intent(**changes), ended=EndedWithout(kind, message, CAME))


def classify(exchange: Exchange, **settings: Any) -> Classification:
    policy = settings.pop("policy", RetryPolicy(max_attempts=3))
    return Classifier(RECIPES, policy, **settings).classify(exchange, jitter=0.5)


def failed_of(classification: Classification) -> Failed:
    assert isinstance(classification.outcome, Failed)
    return classification.outcome


# ---------------------------------------------------------------------------------- answers


def test_an_answer_completes_its_row() -> None:
    attempt, outcome, step, error = classify(answered(chat("A red shoe.")))

    assert (step, error) == (None, None)
    assert isinstance(outcome, Completed)
    assert outcome.answer.text == "A red shoe."
    assert outcome.output_json is None
    assert outcome.row_cost_ticks == 1040  # all its attempts
    assert outcome.intent.attempt == 3
    assert (outcome.intent.sent_at, outcome.finished_at) == (SENT, CAME)
    assert outcome.intent.keep == {"title": "Shoe"}
    assert (attempt.state, attempt.http_status, attempt.error_kind, attempt.bound_ticks) == (OK, 200, None, None)
    assert attempt.answer.usage.cost_ticks == 40
    assert attempt.latency_ms == 2500
    assert attempt.raw_answer == chat("A red shoe.").decode()


def test_an_answer_to_labels_gets_its_typed_columns() -> None:
    outcome = classify(answered(chat('{"label": "shoe"}'), recipe_id="labels")).outcome

    assert isinstance(outcome, Completed)
    assert outcome.answer_columns == {"answer_label": "shoe"}
    assert json.loads(outcome.output_json or "") == {"label": "shoe"}


def test_an_answer_that_breaks_its_schema_is_kept_paid_and_not_asked_again() -> None:
    classification = classify(answered(chat('{"label": "boat"}'), recipe_id="labels"))

    failed = failed_of(classification)
    assert failed.error_kind == "invalid_answer"
    assert failed.last_output_text == '{"label": "boat"}'
    assert failed.row_cost_ticks == 1040
    assert (classification.attempt.state, classification.attempt.error_kind, classification.step) == (
        FAILED,
        "invalid_answer",
        None,
    )
    assert failed.at_provider


def test_recipes_may_be_looked_up() -> None:
    asked = []

    def load(recipe_id: str) -> Recipe:
        asked.append(recipe_id)
        return RECIPES[recipe_id]

    assert isinstance(Classifier(load, RetryPolicy()).classify(answered(chat("x"))).outcome, Completed)
    assert asked == ["plain"]


def test_a_cost_that_is_not_reported_is_computed_where_prices_are_known() -> None:
    body = json.dumps(
        {
            "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 2},
        }
    ).encode()
    exchange = answered(body)
    usage = classify(exchange, prices=Prices(1_000_000, 0, 10_000_000, image_ticks=100)).attempt.answer.usage

    assert (usage.cost_ticks, usage.cost_source) == (130, "computed")
    assert classify(exchange).attempt.answer.usage.cost_ticks is None


def tokens_only(**changes: Any) -> Exchange:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    return answered(json.dumps(body).encode(), **changes)


def cost_of(exchange: Exchange, **settings: Any) -> int | None:
    return classify(exchange, **settings).attempt.answer.usage.cost_ticks


def test_an_intents_own_prices_win_over_todays() -> None:
    today, then = Prices(500, 500, 500), Prices(7, 7, 7)
    assert cost_of(tokens_only(prices=then.record()), prices=today) == 7
    assert cost_of(tokens_only(prices={}), prices=today) is None


def test_an_intent_without_recorded_prices_is_not_priced_as_another_model() -> None:
    """Of a journal of an earlier version: today's prices serve only the model that they are of."""
    today = {"prices": Prices(500, 500, 500), "asked": RECIPES["plain"]}
    assert cost_of(tokens_only(), **today) == 500
    other = Recipe("xai", "grok-4.5", None, "What?", None, recipe_id="plain")
    assert cost_of(tokens_only(model_requested="grok-4.5"), **today) == 2 * 20_000_000_000
    assert cost_of(tokens_only(model_requested="grok-unheard-of"), **today) is None
    assert cost_of(tokens_only(), prices=Prices(500, 500, 500), asked=other) == 2 * 12_500_000_000


@pytest.mark.parametrize(
    ("lane", "tier", "ticks"),
    [
        (Lane.ONLINE, "flex", 500),
        (Lane.ONLINE, "default", 1000),
        (Lane.ONLINE, None, 1000),
        (Lane.BATCH, "default", 800),
        (Lane.BATCH, "flex", 800),
    ],
)
def test_an_answer_costs_the_price_of_the_tier_that_it_names(lane: Lane, tier: str | None, ticks: int) -> None:
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    document = {
        "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}],
        "usage": usage,
        "service_tier": tier,
    }
    prices = Prices(1000, 1000, 1000, flex_percent=50, batch_percent=80)
    exchange = answered(json.dumps(document).encode(), lane=lane, prices=prices.record())
    assert cost_of(exchange) == ticks


# ---------------------------------------------------------------------------------- the ledger's states

TRANSIENT_503 = b'{"code": "unavailable", "error": "busy"}'
RATE_429 = b'{"code": "resource-exhausted", "error": "Too many requests"}'
SAFETY = b'{"code": "permission-denied", "error": "Failed check: SAFETY_CHECK_TYPE_BIO"}'
BAD_KEY = b'{"code": "invalid-argument", "error": "Incorrect API key provided"}'
HTML = b"<html>hello</html>"


@pytest.mark.parametrize(
    ("exchange", "state", "attempt_kind", "row_kind", "bound"),
    [
        (answered(TRANSIENT_503, 503), RETRIED, "server_error", None, None),
        (answered(TRANSIENT_503, 503, tries=Tries(3)), FAILED, "server_error", "attempts_exhausted", None),
        (answered(RATE_429, 429, tries=Tries(3)), RETRIED, "rate_limited", None, None),
        (answered(SAFETY, 403), FAILED, "refused", "refused", None),
        (answered(b"", 413), FAILED, "image_too_large", "image_too_large", None),
        (answered(chat(None)), RETRIED, "empty", None, None),
        (answered(chat(None), tries=Tries(2, empties=1)), FAILED, "empty", "empty", None),
        (answered(chat("A re", "length")), FAILED, "truncated", "truncated", None),
        # a 200 without a whole answer may have been billed
        (answered(HTML), AMBIGUOUS, "answer_cut_short", None, 500),
        (answered(HTML, tries=Tries(3)), AMBIGUOUS, "answer_cut_short", "attempts_exhausted", 500),
        (answered(chat("x")[:-5]), AMBIGUOUS, "answer_cut_short", None, 500),
        # ended without an answer
        (ended("timeout"), AMBIGUOUS, "timeout", None, 500),
        (ended("connection_cut"), AMBIGUOUS, "connection_cut", None, 500),
        (ended("timeout", tries=Tries(3)), AMBIGUOUS, "timeout", "attempts_exhausted", 500),
        (ended("connect_failed", tries=Tries(3)), RETRIED, "connect_failed", None, None),
        (ended("lost_after_read"), LOST, "lost_after_read", "lost_after_read", 500),
        (ended("expired"), AMBIGUOUS, "expired", "expired", 500),
        (ended("interrupted"), AMBIGUOUS, INTERRUPTED, None, 500),
        (ended("spend_cap_reached"), AMBIGUOUS, INTERRUPTED, None, 500),
        # the run's end
        (answered(BAD_KEY, 400), RETRIED, "authentication_failed", None, None),
    ],
)
def test_how_an_attempt_enters_the_ledger(
    exchange: Exchange, state: AttemptState, attempt_kind: str, row_kind: str | None, bound: int | None
) -> None:
    classification = classify(exchange)

    assert (classification.attempt.state, classification.attempt.error_kind) == (state, attempt_kind)
    assert classification.attempt.bound_ticks == bound
    assert (classification.outcome and failed_of(classification).error_kind) == row_kind


@pytest.mark.parametrize("kind", [*TRANSIENTS, *ROW_FAULTS])
def test_every_kind_an_exchange_can_end_with_is_judged(kind: str) -> None:
    classification = classify(ended(kind))

    assert classification.attempt.error_kind == kind
    assert (classification.outcome is None) == isinstance(classification.step, Again)


def test_an_open_exchange_is_ambiguous_and_its_row_stays_open() -> None:
    attempt, outcome, step, error = classify(Exchange(intent()))

    assert (outcome, step, error) == (None, None, None)
    assert (attempt.state, attempt.error_kind, attempt.bound_ticks) == (AMBIGUOUS, INTERRUPTED, 500)
    assert attempt.exchange.ended_at is None
    assert attempt.latency_ms is None


def test_a_cut_answer_that_told_its_cost_is_no_doubt() -> None:
    chunk = json.dumps({"choices": [{"delta": {"content": "A"}}], "usage": {"cost_in_usd_ticks": 7}})
    attempt = classify(answered(f"data: {chunk}\n\n".encode())).attempt

    assert (attempt.state, attempt.answer.usage.cost_ticks, attempt.bound_ticks) == (RETRIED, 7, None)


# ---------------------------------------------------------------------------------- what is done next


def test_a_transient_error_is_tried_again_after_a_delay() -> None:
    assert classify(answered(TRANSIENT_503, 503)).step == Again(0.5, Tries(2))


def test_a_hopeless_error_stops_the_run_and_leaves_the_row_open() -> None:
    classification = classify(answered(BAD_KEY, 400))

    assert isinstance(classification.step, Stop)
    assert classification.step.error is classification.error
    assert classification.outcome is None


def test_a_truncated_answer_is_asked_once_more_if_the_job_says_so() -> None:
    raising = RetryPolicy(3, raise_once=True)
    first = classify(answered(chat("A re", "length")), policy=raising)
    second = classify(answered(chat("A re", "length"), tries=Tries(2, raised=True)), policy=raising)

    assert first.step == Again(0.5, Tries(2, raised=True))
    assert (first.attempt.state, first.attempt.answer.usage.cost_ticks) == (RETRIED, 40)
    assert failed_of(second).last_output_text == "A re"


def test_an_image_the_provider_cannot_fetch_is_inlined_in_the_end() -> None:
    body = b'{"error": {"code": 400, "message": "x", "metadata": {"error_type": "image_download_failed"}}}'
    again = classify(answered(body, 400, provider="openrouter", has_urls=True, tries=Tries(2, downloads=1))).step
    assert isinstance(again, Again)
    assert again.inline_images

    failed = failed_of(classify(answered(body, 400, provider="openrouter", tries=Tries(2, downloads=1))))
    assert (failed.error_kind, failed.last_error_kind) == ("image_unreachable", "image_download_failed")
    assert not failed.at_provider


def test_a_failed_row_says_how_its_last_attempt_failed() -> None:
    failed = failed_of(classify(answered(TRANSIENT_503, 503, tries=Tries(3))))

    assert (failed.error_kind, failed.last_error_kind) == ("attempts_exhausted", "server_error")
    assert "xai answered 503: busy" in failed.error_message
    assert failed.last_output_text is None
    assert failed.at_provider
    assert failed.failed_at == CAME


def test_a_fault_the_provider_names_counts_as_its_own() -> None:
    assert failed_of(classify(answered(b"", 413))).at_provider
    assert not failed_of(classify(ended("image_unreachable"))).at_provider


@pytest.mark.parametrize(("before", "quarantined"), [(0, False), (3, False), (4, True), (9, True)])
def test_a_row_that_failed_in_so_many_runs_is_quarantined(before: int, quarantined: bool) -> None:
    failed = failed_of(classify(answered(SAFETY, 403, runs_failed=before), policy=RetryPolicy(quarantine_after_runs=5)))

    assert (failed.runs_failed, failed.quarantined) == (before + 1, quarantined)


def test_a_long_message_is_shortened() -> None:
    classification = classify(ended("timeout", "x" * 2000, tries=Tries(3)))

    assert len(failed_of(classification).error_message) == MOST_MESSAGE_CHARS
    assert classification.attempt.error_message == "x" * (MOST_MESSAGE_CHARS - 3) + "..."


# ---------------------------------------------------------------------------------- tickets


def ticketed(body: bytes, status: int, age: timedelta = timedelta(minutes=5)) -> Exchange:
    raw = RawAnswer(status, {}, body, SENT + age)
    return Exchange(intent(lane=Lane.DEFERRED), ticket="t-1", ticket_at=SENT, answer=raw)


def test_the_answer_to_a_ticket_completes_its_row() -> None:
    classification = classify(ticketed(chat("A red shoe."), 200))

    assert isinstance(classification.outcome, Completed)
    assert classification.attempt.exchange.ticket == "t-1"


@pytest.mark.parametrize(
    ("age", "kind", "state"),
    [
        (timedelta(minutes=5), "lost_after_read", LOST),
        (timedelta(hours=23, minutes=59), "lost_after_read", LOST),
        (timedelta(hours=24), "expired", AMBIGUOUS),
    ],
)
def test_a_ticket_that_is_gone_was_read_or_has_expired_by_its_age(
    age: timedelta, kind: str, state: AttemptState
) -> None:
    classification = classify(ticketed(b"", 404, age))

    assert failed_of(classification).error_kind == kind
    assert classification.attempt.state is state
    assert classification.attempt.bound_ticks == 500


def test_a_poll_kept_by_mistake_is_no_answer() -> None:
    assert classify(ticketed(b"", 202)).attempt.state is AMBIGUOUS


# ---------------------------------------------------------------------------------- replay


@pytest.mark.parametrize(
    "exchange",
    [
        answered(chat("x")),
        answered(SAFETY, 403),
        answered(HTML),
        ended("timeout"),
        Exchange(intent()),
        ticketed(b"", 404),
    ],
)
def test_a_replay_of_the_journal_gives_the_same_records(exchange: Exchange) -> None:
    live = Classifier(RECIPES, RetryPolicy()).classify(exchange, jitter=0.9)
    replayed = Classifier(RECIPES, RetryPolicy()).classify(exchange)

    assert (live.attempt, live.outcome) == (replayed.attempt, replayed.outcome)


def test_a_body_of_any_bytes_is_kept_as_text() -> None:
    attempt = classify(answered(b"\xff\x00{", 500)).attempt

    assert isinstance(attempt, Attempt)
    assert attempt.raw_answer == "\ufffd\x00{"
    assert attempt.error_kind == errors.ServerError.kind


# ---------------------------------------------------------------------------------- money that nobody tells


def test_an_answer_that_does_not_say_its_cost_keeps_its_bound() -> None:
    silent = json.loads(chat("fine"))
    del silent["usage"]
    attempt = classify(answered(json.dumps(silent).encode(), bound_ticks=77)).attempt
    assert (attempt.state, attempt.answer.usage.cost_ticks, attempt.bound_ticks) == (AttemptState.OK, None, 77)


def test_an_error_inside_a_200_cost_nothing() -> None:
    body = b'{"error": {"code": 502, "message": "upstream failed"}}'
    attempt = classify(answered(body, bound_ticks=77)).attempt
    assert attempt.answer.usage.cost_ticks is None
    assert attempt.bound_ticks is None


# ---------------------------------------------------------------------------------- a stream that was given up


def streamed(*choices: dict[str, Any]) -> bytes:
    chunks = [json.dumps({"choices": [{"index": 0, **choice}]}) for choice in choices]
    return "".join(f"data: {chunk}\n\n" for chunk in [*chunks, "[DONE]"]).encode()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (streamed({"delta": {"content": "A re"}, "finish_reason": None}), "truncated"),
        (streamed({"delta": {"content": 'say "finish_reason": "stop"'}, "finish_reason": None}), "truncated"),
        (streamed({"delta": {"content": "A shoe."}, "finish_reason": None}, {"finish_reason": "stop"}), None),
        (streamed({"delta": {"content": "A shoe."}, "finish_reason": None}, {"finish_reason": ""}), None),
        (streamed({"delta": {"content": "A shoe."}}), None),
        (streamed({"delta": {"content": ""}, "finish_reason": None}), "empty"),
        (chat("A shoe.", finish=None), None),  # type: ignore[arg-type]  # as servers send it
    ],
)
def test_a_stream_whose_reason_stays_null_was_given_up_and_is_no_answer(body: bytes, kind: str | None) -> None:
    classification = classify(answered(body, tries=Tries(2, empties=1)))
    assert classification.attempt.error_kind == kind
    assert isinstance(classification.outcome, Failed if kind else Completed)
    if kind == "truncated":
        assert "limits.concurrency to 1" in (classification.attempt.error_message or "")


# ---------------------------------------------------------------------------------- thoughts


@pytest.mark.parametrize("keeps", [False, True])
def test_thoughts_are_held_in_their_column_or_nowhere(keeps: bool) -> None:
    message = {"content": "A shoe.", "reasoning_content": "It has heels."}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    classification = classify(answered(body), keep_reasoning=keeps)
    assert isinstance(classification.outcome, Completed)
    assert classification.outcome.answer.reasoning_text is classification.attempt.answer.reasoning_text is None
    assert classification.outcome.answer_columns == ({"reasoning_text": "It has heels."} if keeps else {})
