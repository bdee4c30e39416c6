"""Dialects by name, and how each asks: headers, bodies, paths, model lists."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from batchvision.errors import AuthenticationFailed, JobInvalid
from batchvision.prompt import build_answer_spec
from batchvision.providers import Dialect, ModelListing, SendOptions, dialect, registry
from batchvision.providers.base import RAISED_WITHOUT_LIMIT, output_limit
from batchvision.records import AnswerSpec, Label, Lane, RawAnswer, Recipe
from batchvision.secrets import Secret
from batchvision.ticks import Prices

NOW = datetime(2026, 11, 20, 12, 0, 0, tzinfo=UTC)
MESSAGES = b'[{"role":"user","content":"\xc3\xbc"}]'
LABELLED = build_answer_spec(None, [Label("shoe"), Label("bag")])


def recipe(parameters: dict[str, Any] | None = None, answer: AnswerSpec | None = None) -> Recipe:
    return Recipe("xai", "grok-4.3", None, "Describe.", None, parameters or {}, answer=answer or AnswerSpec())


def body(provider: str, of: Recipe, **options: Any) -> Any:
    return json.loads(dialect(provider).body(of, MESSAGES, SendOptions(**options)))


# ---------------------------------------------------------------------------------- by name


def test_the_providers_there_are() -> None:
    assert registry.names() == ("xai", "openrouter", "openai", "emulator")


@pytest.mark.parametrize(
    ("name", "base_url", "key_env", "lanes"),
    [
        ("xai", "https://api.x.ai/v1", "XAI_API_KEY", {Lane.ONLINE, Lane.DEFERRED, Lane.BATCH}),
        ("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", {Lane.ONLINE}),
        ("openai", "https://api.openai.com/v1", "OPENAI_API_KEY", {Lane.ONLINE, Lane.BATCH}),
        ("emulator", "http://127.0.0.1:8765/v1", None, {Lane.ONLINE, Lane.DEFERRED, Lane.BATCH}),
    ],
)
def test_where_each_provider_is_and_what_it_can(
    name: str, base_url: str, key_env: str | None, lanes: set[Lane]
) -> None:
    found = dialect(name)

    assert (found.name, found.default_base_url, found.default_key_env) == (name, base_url, key_env)
    assert found.lanes == lanes
    assert found.chat_path == "/chat/completions"
    assert dialect(name) is found


def test_an_unknown_provider_is_answered_with_those_there_are() -> None:
    with pytest.raises(JobInvalid, match="no provider 'grok'; choose one of: xai, openrouter, openai, emulator"):
        dialect("grok")


class Elsewhere(Dialect):
    name = "elsewhere"
    default_base_url = "https://elsewhere.example/v1"
    default_key_env = None


INSTANCE = Elsewhere()


@pytest.fixture
def entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    here = "tests_of_providers"
    monkeypatch.setitem(__import__("sys").modules, here, __import__("types").SimpleNamespace(**globals()))
    points = [EntryPoint(name, f"{here}:{value}", "batchvision.providers") for name, value in POINTS.items()]
    monkeypatch.setattr(
        registry, "entry_points", lambda group, name=None: [p for p in points if name in (None, p.name)]
    )


POINTS = {"elsewhere": "Elsewhere", "shared": "INSTANCE", "wrong": "MESSAGES"}


@pytest.mark.usefixtures("entry_points")
def test_other_packages_add_providers() -> None:
    assert type(dialect("elsewhere")) is Elsewhere
    assert dialect("shared") is INSTANCE
    assert "elsewhere" in registry.names()


@pytest.mark.usefixtures("entry_points")
def test_an_entry_point_that_is_no_dialect_is_named() -> None:
    with pytest.raises(
        JobInvalid, match=r"'wrong' \(tests_of_providers:MESSAGES\) is not a batchvision.providers.Dialect"
    ):
        dialect("wrong")


# ---------------------------------------------------------------------------------- headers


def test_the_key_travels_in_the_authorization_header_alone() -> None:
    headers = dialect("xai").headers(Secret("xai-123456"), {})

    assert headers["Authorization"] == "Bearer xai-123456"
    assert headers["Content-Type"] == "application/json"
    assert "Authorization" not in dialect("emulator").headers(None, {})


def test_openrouter_gets_the_name_of_an_app_only_from_the_job() -> None:
    names = {name.lower() for name in dialect("openrouter").headers(None, {})}
    own = {"HTTP-Referer": "https://shop.example", "X-Title": "shop"}

    assert not {"http-referer", "x-title", "x-openrouter-title"} & names
    assert own.items() <= dialect("openrouter").headers(None, own).items()


def test_headers_of_the_job_win_in_any_case() -> None:
    headers = dialect("openrouter").headers(Secret("k"), {"http-referer": "https://shop.example", "X-Team": "7"})

    assert [name for name in headers if name.lower() == "http-referer"] == ["http-referer"]
    assert headers["http-referer"] == "https://shop.example"
    assert headers["X-Team"] == "7"


# ---------------------------------------------------------------------------------- bodies


def test_the_body_is_model_messages_parameters_in_that_order() -> None:
    sent = dialect("xai").body(recipe({"temperature": 0, "max_tokens": 300}), MESSAGES, SendOptions())

    assert sent == b'{"model":"grok-4.3","messages":%b,"temperature":0,"max_tokens":300}' % MESSAGES


def test_a_body_without_parameters_is_json_too() -> None:
    assert body("xai", recipe()) == {"model": "grok-4.3", "messages": [{"role": "user", "content": "ü"}]}


def test_a_deferred_body_has_the_field_deferred() -> None:
    assert body("xai", recipe(), deferred=True)["deferred"] is True


def test_a_streamed_body_asks_for_its_usage() -> None:
    sent = body("openai", recipe(), stream=True)

    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_raised_limit_replaces_the_one_of_the_recipe_under_its_own_name(name: str) -> None:
    sent = body("xai", recipe({name: 100, "seed": 7}), max_tokens=400)

    assert {key: sent[key] for key in sent.keys() - {"model", "messages"}} == {name: 400, "seed": 7}


def test_a_raised_limit_is_set_where_the_recipe_has_no_limit() -> None:
    assert body("xai", recipe(), max_tokens=RAISED_WITHOUT_LIMIT)["max_tokens"] == RAISED_WITHOUT_LIMIT


def test_a_truncated_answer_gets_four_times_the_tokens() -> None:
    assert dialect("xai").raised_max_tokens(recipe({"max_tokens": 100})) == 400
    assert dialect("xai").raised_max_tokens(recipe()) == RAISED_WITHOUT_LIMIT
    assert output_limit(recipe({"max_tokens": True})) is None


def test_a_schema_is_sent_as_a_strict_response_format() -> None:
    sent = body("xai", recipe(answer=LABELLED))["response_format"]

    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["properties"]["label"]["enum"] == ["shoe", "bag"]


def test_openrouter_may_route_only_to_providers_that_honour_the_schema() -> None:
    assert body("openrouter", recipe(answer=LABELLED))["provider"] == {"require_parameters": True}
    assert "provider" not in body("openrouter", recipe())


def test_the_users_own_routing_is_kept() -> None:
    routing = {"order": ["xAI"], "allow_fallbacks": False}
    sent = body("openrouter", recipe({"provider": routing, "models": ["a/b", "c/d"]}, LABELLED))
    assert sent["provider"] == {"require_parameters": True, **routing}
    assert sent["models"] == ["a/b", "c/d"]

    told_not_to = recipe({"provider": {"require_parameters": False}}, LABELLED)
    assert body("openrouter", told_not_to)["provider"] == {"require_parameters": False}
    assert body("openrouter", recipe({"provider": routing}))["provider"] == routing


def test_the_same_recipe_gives_the_same_bytes_and_another_one_does_not() -> None:
    speaks = dialect("openrouter")
    first = speaks.body(recipe({"seed": 1}, LABELLED), MESSAGES, SendOptions())

    for seed in range(40):  # more recipes than are remembered
        again = speaks.body(recipe({"seed": seed}, LABELLED), MESSAGES, SendOptions())
        assert json.loads(again)["seed"] == seed
    assert speaks.body(recipe({"seed": 1}, LABELLED), MESSAGES, SendOptions()) == first


def test_text_stays_readable_in_the_body_and_half_characters_do_no_harm() -> None:
    sent = dialect("xai").body(recipe({"user": "Zoë \ud83d"}), MESSAGES, SendOptions())

    assert "Zoë ?".encode() in sent


@pytest.mark.parametrize("name", ["messages", "n", "stream", "deferred", "response_format"])
def test_reserved_parameters_have_a_reason(name: str) -> None:
    assert len(dialect("xai").reserved_parameters[name]) > 10


def test_a_ticket_cannot_leave_its_path() -> None:
    assert dialect("xai").ticket_path("f15c114e-f47d") == "/chat/deferred-completion/f15c114e-f47d"
    assert dialect("xai").ticket_path("../models?x=1") == "/chat/deferred-completion/..%2Fmodels%3Fx%3D1"
    with pytest.raises(NotImplementedError):
        dialect("openai").ticket_path("t")


# ---------------------------------------------------------------------------------- models


def listed(provider: str, document: Any, status: int = 200) -> tuple[ModelListing, ...]:
    return dialect(provider).read_models(RawAnswer(status, {}, json.dumps(document).encode(), NOW))


def test_grok_prices_are_cents_for_a_hundred_million_tokens() -> None:
    entry = {
        "id": "grok-4.3",
        "aliases": ["grok-4.3-latest"],
        "input_modalities": ["text", "image"],
        "prompt_text_token_price": 12500,
        "cached_prompt_text_token_price": 2000,
        "completion_text_token_price": 25000,
        "long_context_threshold": 200000,
    }
    prices = Prices(12_500_000_000, 2_000_000_000, 25_000_000_000, long_context_tokens=200_000)

    assert listed("xai", {"models": [entry]}) == (ModelListing("grok-4.3", ("grok-4.3-latest",), prices, True),)


def test_openrouter_prices_are_text_in_usd_for_one_token() -> None:
    entry = {
        "id": "x-ai/grok-4.3",
        "context_length": 1_000_000,
        "architecture": {"input_modalities": ["text"]},
        "pricing": {"prompt": "0.00000125", "completion": "0.0000025", "image": "0.001"},
    }
    prices = Prices(12_500_000_000, 12_500_000_000, 25_000_000_000, image_ticks=10_000_000)

    assert listed("openrouter", {"data": [entry]}) == (ModelListing("x-ai/grok-4.3", (), prices, False, 1_000_000),)


def test_grok_lists_what_a_long_context_costs() -> None:
    entry = {
        "id": "grok-4.3",
        "prompt_text_token_price": 12500,
        "prompt_image_token_price": 13000,
        "completion_text_token_price": 25000,
        "long_context_threshold": 200000,
        "prompt_text_token_price_long_context": 26000,
        "completion_text_token_price_long_context": 60000,
    }
    prices = listed("xai", {"models": [entry]})[0].prices
    assert prices is not None
    assert prices.ticks(100, 10) == 100 * 13_000 + 10 * 25_000, "image tokens cost more, and images are in the prompt"
    assert prices.ticks(200_000, 10) == 200_000 * 26_000 + 10 * 60_000
    assert prices.ticks(200_000, 0, cached=200_000) == 2 * 200_000 * 13_000, "not listed: twice the usual"


def test_openrouter_lists_steps_requests_and_the_longest_answer() -> None:
    entry = {
        "id": "a/b",
        "pricing": {
            "prompt": "0.000001",
            "completion": "0.000002",
            "request": "0.01",
            "overrides": [
                {"utc_start": "00:00", "prompt": "0"},
                {"min_prompt_tokens": 1000, "prompt": "0.000004"},
            ],
        },
        "top_provider": {"max_completion_tokens": 4096},
    }
    (found,) = listed("openrouter", {"data": [entry]})
    assert found.max_output_tokens == 4096
    assert found.prices is not None
    assert found.prices.ticks(999, 1) == 999 * 10_000 + 20_000 + 100_000_000
    assert found.prices.ticks(1000, 1) == 1000 * 40_000 + 20_000 + 100_000_000


@pytest.mark.parametrize(
    "pricing", [None, {}, {"prompt": "-1", "completion": "-1"}, {"prompt": "x", "completion": "NaN"}]
)
def test_impossible_prices_are_unknown(pricing: Any) -> None:
    assert listed("openrouter", {"data": [{"id": "a", "pricing": pricing}]})[0].prices is None


def test_a_plain_list_of_models_gives_their_names_in_order() -> None:
    names = [entry.name for entry in listed("openai", {"data": [{"id": "b"}, {"id": "a"}, {"id": None}, 7]})]

    assert names == ["a", "b"]
    assert listed("xai", {"data": [{"id": "grok-4.3"}]})[0].prices is None
    assert listed("openai", []) == ()


def test_a_refused_list_of_models_raises_what_is_wrong() -> None:
    with pytest.raises(AuthenticationFailed):
        listed("xai", {"code": "invalid-argument", "error": "Incorrect API key provided"}, status=400)
