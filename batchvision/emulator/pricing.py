"""Tokens and ticks: how many an answer takes and what they cost. Pure, integers only.

Rule: the rules are simple and documented, so that a test can compute the bill itself. Prices: xAI's list of
2026-09-29; a model that is not on it costs what grok-4.3 costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from batchvision.records import TICKS_PER_USD


class ModelPrice(NamedTuple):
    """Ticks for one token."""

    prompt: int
    cached: int
    completion: int


def _cents(prompt: int, cached: int, completion: int) -> ModelPrice:
    """From US cents for a million tokens."""
    return ModelPrice(*(each * TICKS_PER_USD // 100_000_000 for each in (prompt, cached, completion)))


MODELS: dict[str, ModelPrice] = {
    "grok-4.7": _cents(200, 50, 600),
    "grok-4.6": _cents(200, 50, 600),
    "grok-4.5": _cents(200, 30, 600),
    "grok-4.3": _cents(125, 20, 250),
    "grok-4.20-0309-reasoning": _cents(125, 20, 250),
    "grok-4.20-0309-non-reasoning": _cents(125, 20, 250),
}
#: How many prompt tokens a model takes, text and images together.
CONTEXT_TOKENS: dict[str, int] = {
    "grok-4.7": 500_000,
    "grok-4.6": 500_000,
    "grok-4.5": 500_000,
    "grok-4.3": 1_000_000,
    "grok-4.20-0309-reasoning": 1_000_000,
    "grok-4.20-0309-non-reasoning": 1_000_000,
}
LONG_CONTEXT_TOKENS = 200_000  # from here all tokens of the request cost twice
CACHE_BLOCK_TOKENS = 128


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """What one answer took; ``cached`` is part of ``text + image``, ``reasoning`` is not part of ``completion``."""

    text: int
    image: int
    cached: int
    completion: int
    reasoning: int

    @property
    def prompt(self) -> int:
        return self.text + self.image

    @property
    def total(self) -> int:
        return self.prompt + self.completion + self.reasoning


def price_of(model: str) -> ModelPrice:
    """By the name behind a vendor prefix (``x-ai/grok-4.3``)."""
    return MODELS.get(model.rpartition("/")[2], MODELS["grok-4.3"])


def context_of(model: str) -> int:
    """The context of a model, by the name behind a vendor prefix; that of grok-4.3 for models of other names."""
    return CONTEXT_TOKENS.get(model.rpartition("/")[2], CONTEXT_TOKENS["grok-4.3"])


def cost_ticks(model: str, tokens: AnswerTokens) -> int:
    """Reasoning costs as much as completion; cached prompt tokens cost the cached price instead of the full one."""
    price = price_of(model)
    ticks = (
        (tokens.prompt - tokens.cached) * price.prompt
        + tokens.cached * price.cached
        + (tokens.completion + tokens.reasoning) * price.completion
    )
    return ticks * 2 if tokens.prompt >= LONG_CONTEXT_TOKENS else ticks


def text_tokens(text: str) -> int:
    """Four characters a token, rounded up."""
    return -(-len(text) // 4)


def image_tokens(width: int, height: int, detail: str) -> int:
    """256 for the overview and for each tile of 448 x 448, at most six tiles; ``low`` is the overview only."""
    if detail == "low":
        return 256
    tiles = -(-width // 448) * -(-height // 448)
    return 256 * (min(tiles, 6) + 1)
