"""The JSON of each face: whole answers, streamed answers, tickets, lists of models, account pages. No I/O.

xAI leaves reasoning out of ``completion_tokens`` and reports ticks. OpenRouter includes reasoning and reports USD.
OpenAI includes reasoning and reports no cost.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchvision.emulator.answers import Made
from batchvision.emulator.checks import ParsedRequest
from batchvision.emulator.options import Face
from batchvision.emulator.pricing import LONG_CONTEXT_TOKENS, MODELS, AnswerTokens, context_of
from batchvision.records import TICKS_PER_USD

FINGERPRINT = "fp_emulator_is_no_model"
_PIECE = 24  # characters in one streamed chunk


@dataclass(frozen=True, slots=True)
class Generated:
    """One answer with its tokens, cost and ids."""

    asked: ParsedRequest
    made: Made
    tokens: AnswerTokens
    ticks: int
    request_id: str
    created: int
    service_tier: str = "default"


def chat_body(generated: Generated) -> bytes:
    return json.dumps(chat_document(generated)).encode()


def chat_document(generated: Generated) -> dict[str, Any]:
    """A whole ``chat.completion``."""
    made = generated.made
    choice: dict[str, Any] = {
        "index": 0,
        "message": _message(generated.asked.face, made),
        "finish_reason": made.finish_reason,
    }
    if generated.asked.face is Face.OPENROUTER:
        choice["native_finish_reason"] = made.finish_reason
    if made.error is not None:
        choice["error"] = {"code": 502, "message": made.error, "metadata": {"error_type": "provider_unavailable"}}
    body = {**_envelope(generated, "chat.completion"), "choices": [choice]}
    if made.has_usage:
        body["usage"] = usage(generated)
    return body


def _envelope(generated: Generated, kind: str) -> dict[str, Any]:
    envelope: dict[str, Any] = {
        "id": generated.request_id,
        "object": kind,
        "created": generated.created,
        "model": generated.asked.model,
        "system_fingerprint": FINGERPRINT,
    }
    if generated.asked.face is Face.OPENROUTER:
        envelope["provider"] = "Emulator"
    envelope["service_tier"] = generated.service_tier
    return envelope


def _message(face: Face, made: Made) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": made.text, "refusal": made.refusal}
    match face:
        case Face.XAI:
            message["reasoning_content"] = made.reasoning
        case Face.OPENROUTER:
            message["reasoning"] = made.reasoning
        case Face.OPENAI:
            message["annotations"] = []
    return message


def usage(generated: Generated) -> dict[str, Any]:
    """The face's ``usage`` object."""
    tokens, face = generated.tokens, generated.asked.face
    if face is Face.XAI:
        return {
            "prompt_tokens": tokens.prompt,
            "completion_tokens": tokens.completion,
            "total_tokens": tokens.total,
            "prompt_tokens_details": {
                "text_tokens": tokens.text,
                "audio_tokens": 0,
                "image_tokens": tokens.image,
                "cached_tokens": tokens.cached,
            },
            "completion_tokens_details": {
                "reasoning_tokens": tokens.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
            "num_sources_used": 0,
            "cost_in_usd_ticks": generated.ticks,
        }
    told: dict[str, Any] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion + tokens.reasoning,
        "total_tokens": tokens.total,
        "prompt_tokens_details": {"cached_tokens": tokens.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": tokens.reasoning},
    }
    if face is Face.OPENROUTER:
        # at most 15 digits, so the shortest decimal of this float is exact
        told |= {"cost": generated.ticks / TICKS_PER_USD, "is_byok": False, "cost_details": {}}
        told["prompt_tokens_details"] |= {"cache_write_tokens": 0, "video_tokens": 0}
    return told


# ---------------------------------------------------------------------------------- streams


def stream_pieces(generated: Generated) -> list[bytes]:
    """Server-sent events: role, content in pieces, finish, usage (xAI sends it with the finish), ``[DONE]``."""
    face, made = generated.asked.face, generated.made
    pieces = [b": OPENROUTER PROCESSING\n\n"] if face is Face.OPENROUTER else []
    pieces += [_event(_chunk(generated, delta)) for delta in _deltas(made)]
    last = _chunk(generated, {}, made.finish_reason)
    if made.error is not None:
        last["error"] = {"code": 502, "message": made.error}
    tells_usage = made.has_usage and generated.asked.wants_usage
    if tells_usage and face is Face.XAI:
        last["usage"] = usage(generated)
    pieces.append(_event(last))
    if tells_usage and face is not Face.XAI:
        pieces.append(
            _event({**_envelope(generated, "chat.completion.chunk"), "choices": [], "usage": usage(generated)})
        )
    return [*pieces, b"data: [DONE]\n\n"]


def stream_error(face: Face) -> bytes:
    """The event that ends a stream early."""
    error: dict[str, Any] = {"code": "internal", "error": "The model failed mid-way."}
    if face is not Face.XAI:
        error = {"error": {"code": 502, "message": "The model failed mid-way.", "type": "server_error"}}
    if face is Face.OPENROUTER:
        error["choices"] = [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]
    return _event(error)


def _deltas(made: Made) -> Iterator[dict[str, Any]]:
    yield {"role": "assistant", "content": ""}
    if made.reasoning is not None:
        yield {"reasoning_content": made.reasoning}
    if made.refusal is not None:
        yield {"refusal": made.refusal}
    text = made.text or ""
    for at in range(0, len(text), _PIECE):
        yield {"content": text[at : at + _PIECE]}


def _chunk(generated: Generated, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {**_envelope(generated, "chat.completion.chunk"), "choices": [choice]}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


# ---------------------------------------------------------------------------------- lists


def ticket_body(ticket: str) -> bytes:
    return json.dumps({"request_id": ticket}).encode()


def models_body(face: Face) -> bytes:
    """``GET models``. OpenRouter lists prices as strings in USD per token."""
    if face is Face.OPENROUTER:
        return json.dumps({"data": [_router_model(name) for name in MODELS]}).encode()
    listed = [{"id": name, "object": "model", "created": 1_763_596_800, "owned_by": "emulator"} for name in MODELS]
    return json.dumps({"object": "list", "data": listed}).encode()


def _router_model(name: str) -> dict[str, Any]:
    price = MODELS[name]
    return {
        "id": f"x-ai/{name}",
        "canonical_slug": f"x-ai/{name}",
        "name": f"Emulated {name}",
        "context_length": context_of(name),
        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
        "pricing": {
            "prompt": _usd_text(price.prompt),
            "completion": _usd_text(price.completion),
            "input_cache_read": _usd_text(price.cached),
            "image": "0",
            "request": "0",
        },
        "top_provider": {"max_completion_tokens": None, "is_moderated": False},
        "supported_parameters": ["max_tokens", "response_format", "seed", "structured_outputs", "temperature"],
    }


def _usd_text(ticks: int) -> str:
    return f"{ticks / TICKS_PER_USD:.10f}".rstrip("0")


def language_models_body() -> bytes:
    """xAI's list, with prices in USD cents per 100 million tokens."""
    return json.dumps({"models": [language_model(name) for name in MODELS]}).encode()


def language_model(name: str) -> dict[str, Any]:
    cents = MODELS[name]._asdict()  # 1 tick per token is 1 cent per 100 million tokens
    return {
        "id": name,
        "object": "model",
        "created": 1_763_596_800,
        "owned_by": "emulator",
        "version": "0",
        "aliases": [f"{name}-latest"],
        "fingerprint": FINGERPRINT,
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
        "prompt_text_token_price": cents["prompt"],
        "prompt_image_token_price": cents["prompt"],
        "cached_prompt_text_token_price": cents["cached"],
        "completion_text_token_price": cents["completion"],
        "context_length": context_of(name),
        "long_context_threshold": LONG_CONTEXT_TOKENS,
        "prompt_text_token_price_long_context": 2 * cents["prompt"],
        "completion_text_token_price_long_context": 2 * cents["completion"],
    }


def key_body(face: Face, spent_ticks: int) -> bytes:
    """``GET key`` (OpenRouter) and ``GET api-key`` (xAI)."""
    if face is Face.OPENROUTER:
        spent = spent_ticks / TICKS_PER_USD
        return json.dumps(
            {
                "data": {
                    "label": "emulator",
                    "limit": None,
                    "limit_reset": None,
                    "limit_remaining": None,
                    "usage": spent,
                    "usage_daily": spent,
                    "is_free_tier": False,
                }
            }
        ).encode()
    return json.dumps(
        {
            "redacted_api_key": "emu...key",
            "name": "emulator",
            "team_id": "emulator",
            "acls": ["api-key:model:*", "api-key:endpoint:*"],
            "api_key_blocked": False,
            "api_key_disabled": False,
            "team_blocked": False,
        }
    ).encode()
