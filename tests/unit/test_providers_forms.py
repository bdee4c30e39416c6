"""Which form of a request a server takes: words of servers, and what is tried next."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from batchvision.errors import AuthenticationFailed, BatchvisionError, RateLimited, RequestRejected, ServerError
from batchvision.prompt import Conversation, build_answer_spec
from batchvision.providers import ResponseForm, ResponseForms, SendOptions, dialect
from batchvision.records import AnswerSpec, ImageSlot, Label, Payload, RawAnswer, Recipe

NOW = datetime(2026, 11, 20, tzinfo=UTC)
LABELLED = build_answer_spec(labels=[Label("shoe"), Label("bag")])
REFUSED = RequestRejected("refused")


def raw(document: Any, status: int = 400) -> RawAnswer:
    return RawAnswer(status, {}, json.dumps(document).encode(), NOW)


def openai_error(message: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": None}}


#: As servers say it: DeepSeek, OpenAI, llama.cpp, LM Studio, vLLM, Groq, LiteLLM, transformers.
REFUSALS: list[tuple[str, Any, int]] = [
    ("DeepSeek", openai_error("This response_format type is unavailable now"), 400),
    ("OpenAI", openai_error("Invalid parameter: of type 'json_schema' is not supported with this model."), 400),
    ("param alone", openai_error("Unsupported value.", "response_format"), 400),
    ("llama.cpp", openai_error("response_format type must be one of 'text' or 'json_object'"), 500),
    ("LM Studio", {"error": "'response_format.type' must be 'json_schema' or 'text'"}, 400),
    (
        "FastAPI",
        {"detail": [{"loc": ["body", "response_format", "type"], "msg": "Input should be 'text'", "input": "x"}]},
        422,
    ),
    ("Groq", openai_error("This model does not support response format `json_schema`."), 400),
    (
        "LiteLLM",
        openai_error("UnsupportedParamsError: m does not support parameters: ['response_format']"),
        400,
    ),
    ("transformers", {"detail": "Unexpected keys in the request: {'response_format'}"}, 422),
    ("OpenRouter", openai_error("No endpoints found that can handle the requested parameters."), 404),
    ("a grammar", openai_error("Failed to parse grammar"), 500),
]


@pytest.mark.parametrize(("document", "status"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_a_refused_form_is_followed_by_the_next_one_and_logged_once(
    document: Any, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    forms = ResponseForms(has_schema=True, streams=False)
    first = forms.current
    assert first == ResponseForm("json_schema")
    for _ in range(3):  # as many were on their way
        assert forms.has_left(first, raw(document, status), REFUSED)
    assert forms.current == ResponseForm("json_object")
    assert len(caplog.records) == 1 and 'provider.response_format = "json_object"' in caplog.text
    assert forms.has_left(forms.current, raw(document, status), REFUSED)
    assert forms.current == ResponseForm("prompt")
    assert not forms.has_left(forms.current, raw(document, status), REFUSED), "nothing is left to try"


@pytest.mark.parametrize(
    ("document", "status", "error"),
    [
        (openai_error("The image cannot be decoded"), 400, REFUSED),
        (openai_error("response_format"), 429, RateLimited("slow")),
        (openai_error("response_format"), 403, REFUSED),
        (openai_error("bad key; response_format"), 400, AuthenticationFailed("key", is_certain=True)),
        ({"detail": [{"loc": ["body", "messages"], "msg": "bad", "input": {"response_format": {}}}]}, 422, REFUSED),
        (openai_error("response_format"), 200, None),
    ],
)
def test_a_refusal_for_another_reason_keeps_the_form(
    document: Any, status: int, error: BatchvisionError | None
) -> None:
    forms = ResponseForms(has_schema=True, streams=False)
    assert not forms.has_left(forms.current, raw(document, status), error)
    assert forms.current == ResponseForm()


def test_a_form_that_was_answered_is_not_left_for_one_rows_sake() -> None:
    forms = ResponseForms(has_schema=True, streams=True)
    forms.answered(forms.current)
    for words in ("response_format", "stream_options"):
        assert not forms.has_left(forms.current, raw(openai_error(words)), REFUSED)
    assert forms.current == ResponseForm()


@pytest.mark.parametrize("wanted", ["json_schema", "json_object", "prompt"])
def test_a_form_that_the_job_names_stays(wanted: Any) -> None:
    forms = ResponseForms(wanted, has_schema=True, streams=False)
    assert forms.current == ResponseForm(wanted)
    assert not forms.has_left(forms.current, raw(openai_error("response_format")), REFUSED)


def test_plain_text_and_answers_without_a_stream_have_no_form_to_leave() -> None:
    forms = ResponseForms(has_schema=False, streams=False)
    for words in ("response_format", "stream_options"):
        assert not forms.has_left(forms.current, raw(openai_error(words)), REFUSED)


def test_stream_options_are_left_out_where_the_server_does_not_know_them(caplog: pytest.LogCaptureFixture) -> None:
    forms = ResponseForms("json_schema", has_schema=True, streams=True)
    both = raw({"detail": "Unexpected keys in the request: {'stream_options', 'response_format'}"}, 422)
    first = forms.current
    assert forms.has_left(first, both, ServerError("x"))
    assert forms.has_left(first, both, REFUSED)
    assert forms.current == ResponseForm("json_schema", stream_options=False)
    assert len(caplog.records) == 1
    assert not forms.has_left(forms.current, both, REFUSED), "the job names this form"


# ---------------------------------------------------------------------------------- what is sent


def body(answer: AnswerSpec, form: ResponseForm, *, stream: bool = False) -> dict[str, Any]:
    recipe = Recipe("openai", "m", "Be short.", "Which?", None, {"seed": 1}, answer=answer)
    image = Payload("i", "a.png", "image", "5e", inline=b"abc", media_type="image/png")
    messages = Conversation(recipe).messages(("Which? ", ImageSlot("")), [image])
    body = dialect("openai").body(recipe, messages, SendOptions(stream=stream, form=form))
    return json.loads(body)


def test_the_prompt_states_the_schema_where_response_format_does_not() -> None:
    strict = body(LABELLED, ResponseForm("json_schema"))
    assert strict["response_format"]["type"] == "json_schema"
    as_object, told = body(LABELLED, ResponseForm("json_object")), body(LABELLED, ResponseForm("prompt"))
    assert as_object["response_format"] == {"type": "json_object"}
    assert "response_format" not in told
    assert as_object["messages"] == told["messages"]
    *parts, last = told["messages"][-1]["content"]
    assert parts == strict["messages"][-1]["content"]
    assert told["messages"][:-1] == strict["messages"][:-1]
    assert "JSON" in last["text"] and json.loads(last["text"].partition("\n")[2]) == LABELLED.schema


def test_plain_text_has_the_same_body_in_every_form() -> None:
    assert (
        body(AnswerSpec(), ResponseForm("prompt"))
        == body(AnswerSpec(), ResponseForm("json_object"))
        == body(AnswerSpec(), ResponseForm())
    )


def test_a_stream_is_asked_without_its_usage_where_that_is_not_taken() -> None:
    assert body(AnswerSpec(), ResponseForm(), stream=True)["stream_options"] == {"include_usage": True}
    without = body(AnswerSpec(), ResponseForm(stream_options=False), stream=True)
    assert without["stream"] is True and "stream_options" not in without
