"""An answer costs what its request was sent under, whichever prices the run has that collects it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_provider import Asked, FakeProvider, Reply

from batchvision.checkpoint import OutputView
from batchvision.checkpoint.record_json import decode, encode
from batchvision.records import Intent
from batchvision.ticks import Prices

DEFERRED = {"delivery__lane": "deferred"}
CHEAP = {"provider__prices": {"input": 1.0, "output": 2.0}}
DEAR = {"provider__prices": {"input": 100.0, "output": 200.0}, "provider__model": "grok-4.5"}
#: 100 prompt and 10 completion tokens.
CHEAP_TICKS = 100 * 10_000 + 10 * 20_000


def by_tokens(asked: Asked) -> Reply:
    """A provider that does not say what an answer costs."""
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    message = {"role": "assistant", "content": f"an answer for [[{asked.row}]]"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return Reply(200, {"id": f"chat-{asked.number}", "model": "m", "choices": choices, "usage": usage})


def left_with_tickets(job_runs: Any, **settings: Any) -> FakeProvider:
    job_runs.rows(5)
    provider = FakeProvider(by_tokens, ticket_seconds=1e6)
    summary = job_runs.run(provider, delivery__max_ticket_wait_seconds=600, **DEFERRED, **settings)
    assert summary.tickets_open == 5
    provider.tickets = {ticket: (0.0, answer) for ticket, (_, answer) in provider.tickets.items()}
    return provider


def open_intents(job_runs: Any) -> tuple[Intent, ...]:
    return OutputView(job_runs.folder / "out").open_work().tickets


def test_tickets_of_another_model_are_booked_at_the_prices_they_were_given_under(job_runs):
    provider = left_with_tickets(job_runs, **CHEAP)
    job_runs.run(provider, **DEAR, output__on_recipe_change="redo")
    cheap = [row for row in job_runs.table("attempts") if row["lane"] == "deferred"]
    assert [(row["cost_ticks"], row["cost_source"]) for row in cheap] == [(CHEAP_TICKS, "computed")] * 5
    dear = [row["cost_ticks"] for row in job_runs.table("attempts") if row["lane"] == "online"]
    assert dear == [CHEAP_TICKS * 100] * 5


def test_prices_that_changed_since_reprice_nothing_that_was_sent_before(job_runs):
    provider = left_with_tickets(job_runs, **CHEAP)
    summary = job_runs.run(provider, provider__prices={"input": 9.0, "output": 9.0})
    assert {row["cost_ticks"] for row in job_runs.table("attempts")} == {CHEAP_TICKS}
    assert summary.cost_ticks == 5 * CHEAP_TICKS


def test_what_was_sent_without_known_prices_stays_of_unknown_cost(job_runs):
    provider = left_with_tickets(job_runs, provider__model="a-model-of-no-price")
    job_runs.run(provider, provider__model="a-model-of-no-price", **CHEAP)
    assert [(row["cost_ticks"], row["cost_source"]) for row in job_runs.table("attempts")] == [(None, "unknown")] * 5


def test_an_intent_names_its_prices_and_one_of_an_earlier_version_none(job_runs):
    left_with_tickets(job_runs, **CHEAP)
    intents = open_intents(job_runs)
    named = {Prices.recorded(intent.prices or {}) for intent in intents}
    assert {(prices.input_ticks_per_mtok, prices.output_ticks_per_mtok) for prices in named} == {(10**10, 2 * 10**10)}
    document = json.loads(encode(intents[0], lambda text: text))
    assert decode(document) == intents[0]
    del document["prices"]
    assert decode(document) == intents[0]._replace(prices=None)


@pytest.mark.parametrize("prices", [[1], {"input_ticks_per_mtok": 1}, {"unheard_of": 1}, {"input_ticks_per_mtok": "1"}])
def test_prices_that_we_never_wrote_are_damage(job_runs, prices):
    left_with_tickets(job_runs, **CHEAP)
    document = json.loads(encode(open_intents(job_runs)[0], lambda text: text))
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        decode({**document, "prices": prices})
