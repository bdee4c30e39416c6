"""Read a chat completion: an Answer, and the error where the answer is not usable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from batchvision.errors import (
    AnswerCutShort,
    BatchvisionError,
    EmptyAnswer,
    Refused,
    ServerError,
    Truncated,
)
from batchvision.providers import faults, wire
from batchvision.records import Answer, RawAnswer, Usage
from batchvision.ticks import usd_to_ticks


class UsageRule(NamedTuple):
    """Differences between providers in the meaning of ``usage``."""

    #: OpenAI and OpenRouter count reasoning in completion_tokens, xAI does not. A total that adds up decides first.
    completion_includes_reasoning: bool = True
    #: ``usage.cost`` is in USD.
    reports_cost_usd: bool = False


#: Finish reasons of servers in lower case, by meaning. Any other reason, or no reason, is an ordinary end.
_TRUNCATED = frozenset({"length", "max_tokens", "max_output_tokens", "model_length"})
_REFUSED = frozenset({"content_filter", "refusal", "safety", "prohibited_content", "recitation", "blocklist", "spii"})
_FAILED = frozenset({"error"})

#: Names used by xAI, DeepSeek, vLLM and llama.cpp; by OpenRouter; by further servers.
_REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")

#: Blanks and characters without width: a text with nothing else is empty.
_INVISIBLE = " \t\r\n\xa0\u200b\u200c\u200d\u2060\ufeff"


class _Parts(NamedTuple):
    """A body, its first choice and the message of that choice; empty where absent."""

    body: Mapping[str, Any]
    choice: Mapping[str, Any]
    message: Mapping[str, Any]


def read(
    raw: RawAnswer, rule: UsageRule, request_id_headers: tuple[str, ...], voice: faults.Voice
) -> tuple[Answer, BatchvisionError | None]:
    """The facts of any body, and the error that makes the answer unusable. Nothing raises."""
    document = wire.document_of(raw.body)
    body = wire.mapping(document.value)
    choices = wire.sequence(body.get("choices"))
    choice = wire.mapping(choices[0]) if choices else {}
    parts = _Parts(body, choice, wire.mapping(choice.get("message")))
    known = _facts(parts, raw.headers, rule, request_id_headers)
    if not 200 <= raw.status < 300:
        return known, faults.from_answer(raw, document, voice)
    return _checked(raw, document, parts, known, voice)


def _facts(parts: _Parts, headers: Mapping[str, str], rule: UsageRule, request_id_headers: tuple[str, ...]) -> Answer:
    """The facts in a body, of an error body too. The text is the first choice's, or ""."""
    body, choice, message = parts
    cached = headers.get("x-openrouter-cache-status", "").strip().upper() == "HIT"
    usage = read_usage(wire.mapping(body.get("usage")), rule, is_cached=cached)
    if usage.cost_ticks is None and (ticks := _ticks_of_gateway(headers)) is not None:
        usage = usage._replace(cost_ticks=ticks, cost_source="reported")
    content = message.get("content")
    if not isinstance(content, str):  # parts with texts
        parts_of_content = (wire.mapping(part).get("text") for part in wire.sequence(content))
        content = "".join(part for part in parts_of_content if isinstance(part, str))
    thoughts = (message.get(name) for name in _REASONING_NAMES)
    reasoning = next((text for text in thoughts if isinstance(text, str) and text.strip()), None)
    if reasoning is None:
        shown = [*wire.sequence(message.get("reasoning_details")), *wire.sequence(message.get("content"))]
        reasoning = "".join(text for part in shown if isinstance(part, dict) for text in _thought_in(part))
    named = (wire.text(headers.get(name)) for name in request_id_headers)
    return Answer(
        text=wire.storable(content),
        finish_reason=wire.text(choice.get("finish_reason")),
        usage=usage,
        model=wire.text(body.get("model")),
        upstream_provider=wire.text(body.get("provider")),
        provider_request_id=next(filter(None, named), None) or wire.text(body.get("id")),
        system_fingerprint=wire.text(body.get("system_fingerprint")),
        service_tier=wire.text(body.get("service_tier")),
        reasoning_text=wire.storable(reasoning) or None,
    )


def _checked(
    raw: RawAnswer, document: wire.Document, parts: _Parts, known: Answer, voice: faults.Voice
) -> tuple[Answer, BatchvisionError | None]:
    """The answer in a 2xx body, and the error that makes it unusable. The first problem in this order counts."""
    body, choice, message = parts
    found = body or wire.mapping(faults.unwrapped(document.value))
    is_error = found.get("error") or found.get("object") == "error"
    if not is_error and not found.get("choices"):
        is_error = found.get("code") and isinstance(found.get("message"), str)
    if document.problem is None and is_error:
        return known, faults.from_document(raw, document, voice)
    usage = known.usage
    is_paid = any(count is not None for count in (usage.prompt_tokens, usage.completion_tokens, usage.cost_ticks))
    if document.problem is None and not body.get("choices") and is_paid:
        return known, EmptyAnswer("the answer has usage and no content")  # whole and paid for, so not cut short
    if document.problem is not None or not isinstance(body.get("choices"), list):
        return known, _cut_short(raw, document, voice)
    reason = (known.finish_reason or "").lower()
    if choice.get("error"):
        return known, faults.from_document(raw, wire.Document({"error": choice["error"]}), voice)
    if reason in _FAILED:
        return known, ServerError(f"{voice.name} failed while answering and gives no reason")
    refusal = "".join(wire.strings(message.get("refusal"))).strip()
    if refusal:
        refused = known if known.text.strip() else known._replace(text=refusal)
        return refused, Refused(f"the model declined: {wire.presentable(refusal)}")
    if reason in _REFUSED:
        return known, Refused(f"the answer was withheld by a content filter (finish_reason {reason})")
    if reason in _TRUNCATED:
        return known, Truncated(_truncation(known))
    if not known.text.strip(_INVISIBLE).strip():
        return known, EmptyAnswer(f"the answer has no content (finish_reason {reason or 'not given'})")
    return known, None


def _truncation(known: Answer) -> str:
    what = "the answer reached max_tokens before its end"
    if not known.text.strip():
        what = "reasoning reached max_tokens before any answer"
    return f'{what}: raise provider.parameters.max_tokens, or set answer.on_truncated = "raise_once"'


def _cut_short(raw: RawAnswer, document: wire.Document, voice: faults.Voice) -> AnswerCutShort:
    found = document.problem or "JSON that is no chat completion"
    if document.problem == "an HTML page":
        found += " (if this goes on, check provider.base_url)"
    cut = "" if raw.complete else ", cut short on the way"
    return AnswerCutShort(f"{voice.name} answered {raw.status} with {found}{cut}")


def _thought_in(part: Mapping[str, Any]) -> Iterator[str]:
    """OpenRouter: ``{"type": "reasoning.text", "text": ...}``. Mistral: ``{"type": "thinking", "thinking": [...]}``."""
    kind = str(part.get("type"))
    if kind.startswith("reasoning"):
        yield from wire.strings(part.get("text") or part.get("summary"))
    elif kind == "thinking":
        thoughts = part.get("thinking")
        yield from wire.strings(thoughts)
        yield from wire.strings([wire.mapping(inner).get("text") for inner in wire.sequence(thoughts)])


# ---------------------------------------------------------------------------------- usage

#: LiteLLM's proxy writes the cost in USD here, and 0.0 or ``None`` for models of unknown price.
COST_HEADER = "x-litellm-response-cost"


def _ticks_of_gateway(headers: Mapping[str, str]) -> int | None:
    try:
        ticks = usd_to_ticks(headers.get(COST_HEADER, ""))
    except ValueError:
        return None
    return ticks if ticks > 0 else None


def read_usage(usage: Mapping[str, Any], rule: UsageRule, *, is_cached: bool = False) -> Usage:
    """Tokens and cost, normalised; ``None`` where a value is absent or makes no sense."""
    prompt = wire.count(usage.get("prompt_tokens"))
    completion = wire.count(usage.get("completion_tokens"))
    reasoning = wire.count(wire.mapping(usage.get("completion_tokens_details")).get("reasoning_tokens"))
    if completion is not None and reasoning and _includes_reasoning(usage, prompt, completion, reasoning, rule):
        completion -= reasoning
    details = wire.mapping(usage.get("prompt_tokens_details"))
    cost = wire.count(usage.get("cost_in_usd_ticks"))
    if cost is None and rule.reports_cost_usd:
        cost = _ticks_of_usd_fields(usage)
    return Usage(
        prompt_tokens=prompt,
        image_tokens=wire.count(details.get("image_tokens")),
        cached_tokens=wire.count(details.get("cached_tokens")),
        completion_tokens=completion,
        reasoning_tokens=reasoning,
        cost_ticks=0 if is_cached else cost,
        cost_source="cached" if is_cached else "unknown" if cost is None else "reported",
    )


def _includes_reasoning(
    usage: Mapping[str, Any], prompt: int | None, completion: int, reasoning: int, rule: UsageRule
) -> bool:
    """Whether completion_tokens include the reasoning tokens, by the total, else by the provider's rule.

    They cannot if they are fewer than the reasoning tokens alone.
    """
    if reasoning > completion:
        return False
    total = wire.count(usage.get("total_tokens"))
    if total is not None and prompt is not None:
        if total == prompt + completion + reasoning:
            return False
        if total == prompt + completion:
            return True
    return rule.completion_includes_reasoning


def _ticks_of_usd_fields(usage: Mapping[str, Any]) -> int | None:
    cost = _usd_ticks(usage.get("cost"))
    if cost is None or usage.get("is_byok") is not True:
        return cost
    # If the user brings a key of the upstream provider, `cost` is OpenRouter's fee alone.
    return cost + (_usd_ticks(wire.mapping(usage.get("cost_details")).get("upstream_inference_cost")) or 0)


def _usd_ticks(usd: Any) -> int | None:
    if isinstance(usd, bool) or not isinstance(usd, int | Decimal):
        return None
    try:
        ticks = usd_to_ticks(usd)
    except ValueError:
        return None
    return ticks if ticks >= 0 else None
