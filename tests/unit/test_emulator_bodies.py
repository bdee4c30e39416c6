"""The bodies of each face: whole answers, streams, errors and lists."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from batchvision.emulator.answers import Made, count_tokens, cut_to, make_answer
from batchvision.emulator.bodies import (
    Generated,
    chat_body,
    key_body,
    language_models_body,
    models_body,
    stream_error,
    stream_pieces,
)
from batchvision.emulator.checks import ParsedRequest, read_request
from batchvision.emulator.faults import FaultKind, Stage
from batchvision.emulator.options import EmulatorOptions, Face
from batchvision.emulator.pixels import PictureMemory
from batchvision.emulator.pricing import AnswerTokens
from batchvision.emulator.refusals import Reason, Refusal, refused_by_fault

TOKENS = AnswerTokens(text=100, image=512, cached=64, completion=24, reasoning=10)
TICKS = 7_828_000


def asked(face: Face = Face.XAI, text: str = "Describe it. [[echo:7]]", **fields: Any) -> ParsedRequest:
    document = {"model": "grok-4.3", "messages": [{"role": "user", "content": text}], **fields}
    return read_request(face, json.dumps(document).encode(), EmulatorOptions(), PictureMemory())


def generated(face: Face, made: Made | None = None, **fields: Any) -> Generated:
    return Generated(asked(face, **fields), made or Made("A red shoe, seen from the side."), TOKENS, TICKS, "id-1", 1)


def events(pieces: list[bytes]) -> list[Any]:
    lines = b"".join(pieces).decode().split("\n\n")
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


# ---------------------------------------------------------------------------------- usage


def test_xai_leaves_reasoning_out_of_completion_and_reports_ticks() -> None:
    usage = json.loads(chat_body(generated(Face.XAI)))["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (612, 24, 646)
    assert usage["completion_tokens_details"]["reasoning_tokens"] == 10
    assert usage["prompt_tokens_details"] == {
        "text_tokens": 100,
        "audio_tokens": 0,
        "image_tokens": 512,
        "cached_tokens": 64,
    }
    assert usage["cost_in_usd_ticks"] == TICKS


def test_openrouter_counts_reasoning_in_and_reports_the_exact_decimal_of_the_ticks() -> None:
    body = json.loads(chat_body(generated(Face.OPENROUTER)), parse_float=Decimal)
    assert (body["usage"]["completion_tokens"], body["usage"]["total_tokens"]) == (34, 646)
    assert body["usage"]["cost"] * 10**10 == TICKS
    assert "image_tokens" not in body["usage"]["prompt_tokens_details"]
    assert (body["provider"], body["choices"][0]["native_finish_reason"]) == ("Emulator", "stop")


@pytest.mark.parametrize("ticks", [1, 12_500, 7_828_001, 123_456_789_012_345, 3 * 10**10 + 1])
def test_every_number_of_ticks_survives_openrouters_decimal(ticks: int) -> None:
    one = Generated(asked(Face.OPENROUTER), Made("x"), TOKENS, ticks, "id", 1)
    assert json.loads(chat_body(one), parse_float=Decimal)["usage"]["cost"] * 10**10 == ticks


def test_openai_reports_no_cost() -> None:
    usage = json.loads(chat_body(generated(Face.OPENAI)))["usage"]
    assert usage["completion_tokens"] == 34
    assert not [name for name in usage if "cost" in name]


# ---------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("face", Face)
def test_a_stream_holds_the_whole_text_and_its_usage_at_the_end(face: Face) -> None:
    pieces = stream_pieces(generated(face, stream=True, stream_options={"include_usage": True}))
    chunks = events(pieces)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == "A red shoe, seen from the side."
    assert pieces[-1] == b"data: [DONE]\n\n"
    assert "usage" in chunks[-1]
    assert (chunks[-1]["choices"] == []) is (face is not Face.XAI)
    assert pieces[0].startswith(b": OPENROUTER PROCESSING") is (face is Face.OPENROUTER)


def test_openai_streams_usage_only_when_asked() -> None:
    assert not [chunk for chunk in events(stream_pieces(generated(Face.OPENAI, stream=True))) if "usage" in chunk]


def test_a_refusal_and_an_error_travel_in_streams_too() -> None:
    refusal = events(stream_pieces(generated(Face.OPENAI, Made(None, refusal="No."))))
    assert [chunk["choices"][0]["delta"].get("refusal") for chunk in refusal][1] == "No."
    failed = events(stream_pieces(generated(Face.OPENROUTER, Made("x", "error", error="gone", has_usage=False))))
    assert failed[-1]["error"]["message"] == "gone"
    assert [set(events([stream_error(face)])[0]) for face in Face] == [
        {"code", "error"},
        {"error", "choices"},
        {"error"},
    ]


# ---------------------------------------------------------------------------------- errors


def test_xai_has_three_shapes_of_errors() -> None:
    assert Refusal(Reason.SAFETY, "m").document(Face.XAI) == {"code": "permission-denied", "error": "m"}
    assert Refusal(Reason.NO_PATH, "m").document(Face.XAI) == {"error": {"code": 404, "message": "m"}}
    assert Refusal(Reason.FIELD, "m").document(Face.XAI) == {"error": "m"}


def test_every_reason_has_a_body_in_every_dialect() -> None:
    for reason in Reason:
        refusal = Refusal(reason, "words")
        for face in Face:
            assert refusal.status(face) in (200, *range(400, 425), 429, *range(500, 530))
            assert refusal.body(face).startswith(b"<!DOCTYPE html>" if refusal.is_page() else b"{")
        assert refusal.document(Face.OPENROUTER)["error"]["message"] == "words"
        assert set(refusal.document(Face.OPENAI)["error"]) == {"message", "type", "param", "code"}


def test_no_credit_has_the_status_of_each_provider() -> None:
    refusal = refused_by_fault(FaultKind.CREDIT).refusal
    assert [refusal.status(face) for face in Face] == [403, 402, 429]
    assert "used all available credits" in refusal.message
    assert refused_by_fault(FaultKind.CREDIT_429).refusal.status(Face.XAI) == 429


def test_a_safety_block_names_its_check() -> None:
    refusal = refused_by_fault(FaultKind.SAFETY).refusal
    assert "SAFETY_CHECK_TYPE_" in refusal.document(Face.XAI)["error"]
    assert refusal.document(Face.OPENROUTER)["error"]["metadata"]["error_type"] == "content_policy_violation"


def test_an_error_in_a_200_names_its_code_inside() -> None:
    refusal = refused_by_fault(FaultKind.ERROR_IN_200).refusal
    assert [refusal.status(face) for face in Face] == [200, 200, 200]
    assert refusal.document(Face.OPENROUTER)["error"]["code"] == 500


# ---------------------------------------------------------------------------------- words


def test_an_answer_without_images_repeats_the_prompt_and_the_echo() -> None:
    assert make_answer(asked(), None).text == "No image. Prompt: Describe it. [[echo:7]]"


def test_urls_are_described_as_not_fetched() -> None:
    parts = [{"type": "image_url", "image_url": {"url": f"https://example.com/{name}.jpg"}} for name in "ab"]
    document = {"model": "m", "messages": [{"role": "user", "content": parts}]}
    one = read_request(Face.XAI, json.dumps(document).encode(), EmulatorOptions(), PictureMemory())
    assert (make_answer(one, None).text or "").startswith("2 images: an image handed over as a URL and not fetched")


def test_json_is_given_when_asked_for() -> None:
    assert json.loads(make_answer(asked(response_format={"type": "json_object"}), None).text or "") == {
        "answer": "No image. Prompt: Describe it. [[echo:7]]"
    }
    schema = {"type": "object", "properties": {"label": {"enum": ["shoe", "bag"]}}}
    spec = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = make_answer(asked(text="Is this bag a bag or a shoe?", response_format=spec), None)
    assert json.loads(answer.text or "") == {"label": "bag"}


@pytest.mark.parametrize(
    ("kind", "text", "finish"),
    [
        (FaultKind.CHOICE_ERROR, "No image. Prompt: De", "error"),
        (FaultKind.EMPTY, "", "stop"),
        (FaultKind.WHITESPACE, " \n\n ", "stop"),
        (FaultKind.REASONING_ONLY, None, "stop"),
        (FaultKind.LENGTH, "No image. Prompt: De", "length"),
        (FaultKind.CONTENT_FILTER, "", "content_filter"),
        (FaultKind.REFUSAL, None, "stop"),
        (FaultKind.FINISH_MISSING, "No image. Prompt: Describe it. [[echo:7]]", ""),
        (FaultKind.LEADING_BLANK_LINES, "\n\n \nNo image. Prompt: Describe it. [[echo:7]]", "stop"),
        (FaultKind.FENCED, "```json\nNo image. Prompt: Describe it. [[echo:7]]\n```", "stop"),
        (FaultKind.INVALID_ANSWER, '["not what any schema of an answer asks for"]', "stop"),
        (FaultKind.NOT_JSON, "No image. Prompt: Describe it. [[echo:7]]", "stop"),
        (FaultKind.NO_USAGE, "No image. Prompt: Describe it. [[echo:7]]", "stop"),
    ],
)
def test_each_fault_of_an_answer_bends_it_in_its_own_way(kind: FaultKind, text: str | None, finish: str) -> None:
    assert kind.stage is Stage.ANSWER
    made = make_answer(asked(), kind)
    assert (made.text, made.finish_reason) == (text, finish)
    assert bool(made.refusal) is (kind is FaultKind.REFUSAL)
    assert bool(made.reasoning) is (kind is FaultKind.REASONING_ONLY)
    assert made.has_usage is (kind is not FaultKind.NO_USAGE)


def test_reasoning_leaves_half_of_max_tokens_to_the_answer() -> None:
    assert count_tokens(asked(max_tokens=20), Made("x" * 40), 32, 0).reasoning == 10
    assert count_tokens(asked(reasoning_effort="none"), Made("x" * 40), 32, 0).reasoning == 0
    assert count_tokens(asked(), Made(None, reasoning="x" * 400), 32, 0).reasoning == 100


def test_an_answer_is_cut_at_its_tokens() -> None:
    assert cut_to(Made("x" * 41), 10) == Made("x" * 40, "length")
    assert cut_to(Made("x" * 40), 10) == Made("x" * 40)


# ---------------------------------------------------------------------------------- lists


def test_prices_are_listed_in_each_providers_unit() -> None:
    listed = {model["id"]: model for model in json.loads(language_models_body())["models"]}
    assert listed["grok-4.3"]["prompt_text_token_price"] == 12_500
    assert listed["grok-4.7"]["completion_text_token_price"] == 60_000
    routed = {model["id"]: model for model in json.loads(models_body(Face.OPENROUTER))["data"]}
    assert Decimal(routed["x-ai/grok-4.3"]["pricing"]["prompt"]) == Decimal("0.00000125")
    assert "grok-4.3" in [model["id"] for model in json.loads(models_body(Face.OPENAI))["data"]]


def test_the_key_page_shows_the_cost() -> None:
    assert json.loads(key_body(Face.OPENROUTER, 5 * 10**9))["data"]["usage"] == 0.5
    assert json.loads(key_body(Face.XAI, 0))["api_key_blocked"] is False
