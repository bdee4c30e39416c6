"""The text of an answer: a description of the images, the prompt, the echo; and its change by a fault. Pure.

An answer holds only what was measured, and repeats the prompt. ``system_fingerprint`` names the emulator.
"""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from batchvision.emulator.checks import ParsedRequest, RequestImage
from batchvision.emulator.compose import Clue, compose
from batchvision.emulator.faults import FaultKind, without_markers
from batchvision.emulator.pricing import AnswerTokens, text_tokens

_SHOWN_PROMPT = 200
_THOUGHT = "The emulator does not think; this text stands where a model's reasoning would."


@dataclass(frozen=True, slots=True)
class Made:
    """One answer before it is put into the JSON of a face. ``error`` becomes ``choices[0].error``."""

    text: str | None
    finish_reason: str | None = "stop"
    reasoning: str | None = None
    refusal: str | None = None
    error: str | None = None
    has_usage: bool = True


def make_answer(asked: ParsedRequest, fault: FaultKind | None) -> Made:
    """The answer to a request, changed by ``fault`` if it is of the ANSWER stage."""
    sentence = _sentence(asked)
    made = Made(sentence)
    if asked.wants_json:
        made = Made(json.dumps(_instance(asked, sentence), ensure_ascii=False))
    return _bent(made, fault, sentence)


def count_tokens(asked: ParsedRequest, made: Made, reasoning_tokens: int, cached: int) -> AnswerTokens:
    """Reasoning tokens are counted first and leave at least half of ``max_tokens`` to the answer."""
    reasoning = reasoning_tokens if asked.is_reasoning else 0
    if asked.max_tokens is not None:
        reasoning = min(reasoning, asked.max_tokens // 2)
    completion = text_tokens(made.text or made.refusal or "")
    if made.text is None and made.reasoning is not None:
        reasoning = max(reasoning, text_tokens(made.reasoning))
    return AnswerTokens(asked.text_tokens, asked.image_tokens, cached, completion, reasoning)


def cut_to(made: Made, tokens: int) -> Made:
    """The answer cut to ``tokens`` visible tokens, as ``max_tokens`` cuts it."""
    if made.text is None or text_tokens(made.text) <= tokens:
        return made
    return replace(made, text=made.text[: max(0, tokens) * 4], finish_reason="length")


def _sentence(asked: ParsedRequest) -> str:
    """``A 64x48 PNG, mostly red and white [sha256 1a2b3c4d]. Prompt: Describe it. [[echo:7]]``"""
    prompt = without_markers(asked.text)[:_SHOWN_PROMPT]
    echo = " ".join(f"[[echo:{token}]]" for token in asked.echo.split(" ") if token)
    return " ".join(part for part in (_described(asked.images), f"Prompt: {prompt}" if prompt else "", echo) if part)


def _described(images: tuple[RequestImage, ...]) -> str:
    if not images:
        return "No image."
    if len(images) == 1:
        text = _one(images[0])
        return f"{text[0].upper()}{text[1:]}."
    return f"{len(images)} images: {'; '.join(_one(image) for image in images)}."


def _one(image: RequestImage) -> str:
    seen = image.picture
    if seen is None:
        return f"an image handed over as a URL and not fetched, {image.url[:200]}"
    colours = " and ".join(seen.colours)
    return f"a {seen.width}x{seen.height} {seen.format}, mostly {colours} [sha256 {seen.sha256[:8]}]"


def _instance(asked: ParsedRequest, sentence: str) -> object:
    if asked.schema is None:
        return {"answer": sentence}
    seen = next((image.picture for image in asked.images if image.picture), None)
    names = (posixpath.basename(urlsplit(url).path).replace("_", " ").replace("-", " ") for url in asked.urls)
    words = " ".join((without_markers(asked.text), *names))
    clue = Clue(sentence, words)
    if seen:
        clue = Clue(sentence, words, seen.colours, seen.format, seen.width, seen.height)
    return compose(asked.schema, clue)


def _bent(made: Made, fault: FaultKind | None, sentence: str) -> Made:
    text = made.text or ""
    half = text[: max(1, len(text) // 2)]
    match fault:
        case FaultKind.CHOICE_ERROR:
            return replace(made, text=half, finish_reason="error", error="The upstream provider failed mid-way.")
        case FaultKind.EMPTY:
            return replace(made, text="")
        case FaultKind.WHITESPACE:
            return replace(made, text=" \n\n ")
        case FaultKind.REASONING_ONLY:
            return replace(made, text=None, reasoning=_THOUGHT)
        case FaultKind.LENGTH:
            return replace(made, text=half, finish_reason="length")
        case FaultKind.CONTENT_FILTER:
            return replace(made, text="", finish_reason="content_filter")
        case FaultKind.REFUSAL:
            return replace(made, text=None, refusal="I can't help with this image.")
        case FaultKind.FINISH_MISSING:
            return replace(made, finish_reason="")
        case FaultKind.LEADING_BLANK_LINES:
            return replace(made, text=f"\n\n \n{text}")
        case FaultKind.FENCED:
            return replace(made, text=f"```json\n{text}\n```")
        case FaultKind.INVALID_ANSWER:
            return replace(made, text='["not what any schema of an answer asks for"]')
        case FaultKind.NOT_JSON:
            return replace(made, text=sentence)
        case FaultKind.NO_USAGE:
            return replace(made, has_usage=False)
        case _:
            return made
