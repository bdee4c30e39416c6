"""Runs on servers that take only a part of what OpenAI's take."""

from __future__ import annotations

from typing import Any

import pytest
from fake_provider import Asked, FakeProvider, Reply, chat

LABELS = {"labels": ["shoe", "bag"]}


def error(message: str, status: int = 400) -> Reply:
    return Reply(status, {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})


def form_of(asked: Asked) -> str:
    form = asked.body.get("response_format", {}).get("type")
    text = asked.body["messages"][-1]["content"][-1].get("text", "")
    return form or ("prompt" if "JSON schema" in text else "text")


def taking(*forms: str, refusal: str = "This response_format type is unavailable now", status: int = 400) -> Any:
    def script(asked: Asked) -> Reply:
        return Reply(200, chat('{"label": "shoe"}')) if form_of(asked) in forms else error(refusal, status)

    return FakeProvider(script)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "the server takes no" in record.message]


@pytest.mark.parametrize("takes", ["json_object", "prompt"])
@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("lane", ["online", "deferred"])
def test_a_server_without_json_schema_answers_all_rows_after_its_first_refusals(
    job_runs, caplog, takes, concurrency, lane
):
    job_runs.rows(130)
    job_runs.settings |= {"answer": LABELS, "delivery": {"lane": lane}}
    provider = taking(takes)
    summary = job_runs.run(provider, limits__concurrency=concurrency)

    assert (summary.rows_completed, summary.rows_failed, summary.exit_code) == (130, 0, 0)
    assert len(warnings_in(caplog)) == (1 if takes == "json_object" else 2)
    refused = len(provider.asked) - 130
    assert 1 <= refused <= 2 * concurrency + 2, "only what was on its way"
    assert form_of(provider.asked[-1]) == takes
    ledger = job_runs.table("attempts")
    assert {row["error_kind"] for row in ledger if row["state"] == "retried"} == {"request_rejected"}
    assert summary.cost_ticks == provider.billed_ticks == 130_000
    assert job_runs.run(provider).requests_sent == 0


def test_the_recipe_is_the_same_in_every_form_so_no_answer_is_asked_again(job_runs):
    job_runs.rows(3)
    job_runs.settings["answer"] = LABELS
    job_runs.run(taking("json_object"))
    for form in ("json_object", "prompt", "json_schema"):
        assert job_runs.run(taking(), provider__response_format=form).requests_sent == 0


def test_a_form_that_the_job_names_is_used_from_the_start(job_runs, caplog):
    job_runs.rows(20)
    job_runs.settings["answer"] = LABELS
    provider = taking("prompt")
    assert job_runs.run(provider, provider__response_format="prompt").rows_completed == 20
    assert {form_of(asked) for asked in provider.asked} == {"prompt"}
    assert warnings_in(caplog) == []


def test_what_the_prompt_asks_for_is_checked_on_arrival(job_runs):
    job_runs.rows(2)
    job_runs.settings["answer"] = LABELS
    provider = FakeProvider(lambda asked: Reply(200, chat("a hat")))
    summary = job_runs.run(provider, provider__response_format="prompt", limits__max_failed="100%")
    assert summary.failures_by_kind == {"invalid_answer": 2}


def test_a_refusal_of_the_form_by_a_500_spends_no_attempt_and_is_no_outage(job_runs, caplog):
    job_runs.rows(30)
    job_runs.settings["answer"] = LABELS
    provider = taking("prompt", refusal="Failed to parse grammar", status=500)
    summary = job_runs.run(provider, limits__max_attempts=1, limits__concurrency=8)
    assert (summary.rows_completed, summary.exit_code) == (30, 0)
    assert len(caplog.records) == len(warnings_in(caplog)) == 2, "nothing is said of an outage"


def test_a_server_that_takes_no_form_at_all_names_the_key(job_runs):
    job_runs.rows(30)
    job_runs.settings["answer"] = LABELS
    summary = job_runs.run(taking(refusal="response_format is unknown here"))
    assert (summary.rows_completed, summary.exit_code) == (0, 5)
    assert "provider.response_format" in (summary.message or "")
    named = job_runs.run(taking("prompt", refusal="no json_schema here"), provider__response_format="json_schema")
    assert named.exit_code == 5
    assert "set provider.response_format to another form" in (named.message or "")


def test_a_row_refused_for_its_form_after_successes_is_the_rows_matter(job_runs, caplog):
    job_runs.rows(30)
    job_runs.settings["answer"] = LABELS

    def script(asked: Asked) -> Reply:
        is_odd = asked.row == "r20"
        return error("Invalid schema for response_format") if is_odd else Reply(200, chat('{"label": "bag"}'))

    provider = FakeProvider(script)
    summary = job_runs.run(provider, limits__concurrency=2)
    assert summary.failures_by_kind == {"request_rejected": 1}
    assert {form_of(asked) for asked in provider.asked} == {"json_schema"}
    assert warnings_in(caplog) == []


def test_openrouter_without_a_provider_that_takes_a_schema_is_asked_in_the_prompt(job_runs, caplog):
    """Its refusal is a 404, which otherwise means that there is no such model."""
    job_runs.rows(20)
    job_runs.settings["answer"] = LABELS
    refusal = "No endpoints found that can handle the requested parameters."
    summary = job_runs.run(taking("prompt", refusal=refusal, status=404), limits__concurrency=4)
    assert (summary.rows_completed, summary.exit_code) == (20, 0)
    assert len(warnings_in(caplog)) == 2


def test_a_server_without_stream_options_streams_without_them(job_runs, caplog):
    job_runs.rows(40)
    job_runs.settings["delivery"] = {"stream": True}

    def script(asked: Asked) -> Reply:
        if "stream_options" in asked.body:
            return Reply(422, {"detail": "Unexpected keys in the request: {'stream_options'}"})
        return Reply(200, chat("fine"))

    provider = FakeProvider(script)
    summary = job_runs.run(provider, limits__concurrency=4)
    assert (summary.rows_completed, summary.exit_code) == (40, 0)
    assert len(warnings_in(caplog)) == 1
    assert len(provider.asked) <= 40 + 8
