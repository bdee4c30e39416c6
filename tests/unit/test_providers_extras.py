"""What gateways and servers of one's own tell beside an answer: a cost in a header, thoughts, lists of models."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from batchvision.providers import dialect
from batchvision.records import RawAnswer

NOW = datetime(2026, 11, 20, tzinfo=UTC)
USAGE = {"prompt_tokens": 100, "completion_tokens": 10}


def raw(document: Any, **headers: str) -> RawAnswer:
    return RawAnswer(
        200, {name.replace("_", "-"): value for name, value in headers.items()}, json.dumps(document).encode(), NOW
    )


def chat(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "choices": [{"message": {"content": "A shoe.", **message}, "finish_reason": "stop"}],
        "usage": USAGE,
        **more,
    }


# ---------------------------------------------------------------------------------- LiteLLM's cost


@pytest.mark.parametrize(
    ("told", "ticks"),
    [
        ("0.0000123", 123_000),
        ("1.23e-05", 123_000),
        ("0.0", None),
        ("None", None),
        ("", None),
        ("-1", None),
        ("NaN", None),
        ("1e400", None),
    ],
)
def test_the_cost_that_litellm_tells_is_read(told: str, ticks: int | None) -> None:
    usage = dialect("openai").read(raw(chat({}), x_litellm_response_cost=told)).answer.usage
    assert (usage.cost_ticks, usage.cost_source) == (ticks, "unknown" if ticks is None else "reported")


def test_a_cost_in_the_body_is_before_one_in_a_header() -> None:
    answer = (
        dialect("xai")
        .read(raw(chat({}, usage={**USAGE, "cost_in_usd_ticks": 7}), x_litellm_response_cost="0.5"))
        .answer
    )
    assert answer.usage.cost_ticks == 7


def test_the_header_is_kept_with_the_answer() -> None:
    from batchvision.http.client import _READ_HEADERS
    from batchvision.providers.chat import COST_HEADER

    assert COST_HEADER in _READ_HEADERS


# ---------------------------------------------------------------------------------- thoughts

TOLD_THOUGHTS: list[dict[str, Any]] = [
    {"reasoning_content": "Heels."},
    {"reasoning": "Heels."},
    {"thinking": "Heels."},
    {"reasoning_content": " ", "reasoning": "Heels."},
    {"reasoning_details": [{"type": "reasoning.text", "text": "Hee"}, {"type": "reasoning.summary", "summary": "ls."}]},
    {
        "content": [
            {"type": "thinking", "thinking": [{"type": "text", "text": "Heels."}]},
            {"type": "text", "text": "A"},
        ]
    },
    {"content": [{"type": "thinking", "thinking": "Heels."}, {"type": "text", "text": "A"}]},
]


@pytest.mark.parametrize("message", TOLD_THOUGHTS)
def test_thoughts_that_a_server_shows_are_read(message: dict[str, Any]) -> None:
    assert dialect("openai").read(raw(chat(message))).answer.reasoning_text == "Heels."


@pytest.mark.parametrize(
    "message", [{}, {"reasoning": None}, {"reasoning": {"effort": "low"}}, {"reasoning_details": 3}]
)
def test_no_thoughts_are_none(message: dict[str, Any]) -> None:
    assert dialect("openai").read(raw(chat(message))).answer.reasoning_text is None


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_of_a_stream_are_put_together(name: str) -> None:
    deltas = [{name: "Hee"}, {name: "ls."}, {"content": "A shoe."}]
    chunks = [{"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"
    answer = dialect("openai").read(RawAnswer(200, {}, body, NOW)).answer
    assert (answer.text, answer.reasoning_text) == ("A shoe.", "Heels.")


# ---------------------------------------------------------------------------------- lists of models


@pytest.mark.parametrize(
    "document",
    [
        {"data": [{"id": "m"}]},
        {"models": [{"name": "llama", "model": "llama"}], "data": [{"id": "m"}]},  # llama.cpp sends both
        {"models": [{"name": "m", "model": "other"}]},
        {"models": [{"model": "m"}], "data": []},
        {"data": [{"id": "", "name": "m"}]},
        [{"id": "m"}],
    ],
)
@pytest.mark.parametrize("provider", ["openai", "xai", "openrouter"])
def test_a_model_is_listed_under_the_name_that_it_is_asked_by(provider: str, document: Any) -> None:
    assert [model.name for model in dialect(provider).read_models(raw(document))] == ["m"]


def test_geminis_names_are_known_without_their_prefix() -> None:
    (model,) = dialect("openai").read_models(raw({"data": [{"id": "models/gemini-3-flash"}]}))
    assert (model.name, model.aliases) == ("models/gemini-3-flash", ("gemini-3-flash",))


@pytest.mark.parametrize("document", [{}, [], {"data": None}, {"object": "list"}, "models", None])
def test_a_list_of_nothing_is_empty(document: Any) -> None:
    assert dialect("openai").read_models(raw(document)) == ()
