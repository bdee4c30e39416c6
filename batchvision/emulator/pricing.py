"""Count the tokens of an answer and its cost in ticks. Pure, integers only.

The rules are simple, so that a test can compute the bill itself. Prices are xAI's list of 2026-09-29. An unknown model
costs as much as grok-4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from batchvision.records import TICKS_PER_USD


class ModelPrice(NamedTuple):
    """Ticks per token."""

    prompt: int
    cached: int
    completion: int


def _cents(prompt: int, cached: int, completion: int) -> ModelPrice:
    """From US cents per million tokens."""
    return ModelPrice(*(each * TICKS_PER_USD // 100_000_000 for each in (prompt, cached, completion)))


MODELS: dict[str, ModelPrice] = {
    "grok-4.7": _cents(200, 50, 600),
    "grok-4.6": _cents(200, 50, 600),
    "grok-4.5": _cents(200, 30, 600),
    "grok-4.3": _cents(125, 20, 250),
    "grok-4.20-0309-reasoning": _cents(125, 20, 250),
    "grok-4.20-0309-non-reasoning": _cents(125, 20, 250),
}
#: Prompt tokens that a model accepts, text and images together.
CONTEXT_TOKENS: dict[str, int] = {
    "grok-4.7": 500_000,
    "grok-4.6": 500_000,
    "grok-4.5": 500_000,
    "grok-4.3": 1_000_000,
    "grok-4.20-0309-reasoning": 1_000_000,
    "grok-4.20-0309-non-reasoning": 1_000_000,
}
#: xAI accepts these models in batches.
BATCH_MODELS = frozenset({"grok-4.3", "grok-4.20-0309-reasoning", "grok-4.20-0309-non-reasoning"})
#: Prices of service tiers, in percent of the usual price. xAI has no flex.
TIER_PERCENTS = {"flex": 50, "priority": 200}
#: From this number of prompt tokens on, all tokens of the request cost twice as much.
LONG_CONTEXT_TOKENS = 200_000
CACHE_BLOCK_TOKENS = 128


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """Tokens of one answer. ``cached`` is part of ``text + image``. ``reasoning`` is not part of ``completion``."""

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
    """The price of a model. A vendor prefix (``x-ai/``) is ignored."""
    return MODELS.get(model.rpartition("/")[2], MODELS["grok-4.3"])


def context_of(model: str) -> int:
    """The context length of a model. Unknown models have that of grok-4.3. A vendor prefix is ignored."""
    return CONTEXT_TOKENS.get(model.rpartition("/")[2], CONTEXT_TOKENS["grok-4.3"])


def batch_percent(model: str, is_xai: bool) -> int | None:
    """The price in a batch, in percent of the usual price; ``None`` for a model that is not batch-enabled.

    Models that are not listed here are batch-enabled.
    """
    name = model.rpartition("/")[2]
    if name in MODELS and name not in BATCH_MODELS:
        return None
    return 80 if is_xai else 50


def cost_ticks(model: str, tokens: AnswerTokens, percent: int = 100) -> int:
    """The cost at ``percent`` of the usual price. Reasoning tokens cost as much as completion tokens."""
    price = price_of(model)
    ticks = (
        (tokens.prompt - tokens.cached) * price.prompt
        + tokens.cached * price.cached
        + (tokens.completion + tokens.reasoning) * price.completion
    )
    return (ticks * 2 if tokens.prompt >= LONG_CONTEXT_TOKENS else ticks) * percent // 100


def text_tokens(text: str) -> int:
    """Four characters per token, rounded up."""
    return -(-len(text) // 4)


def image_tokens(width: int, height: int, detail: str) -> int:
    """256 tokens for the overview and for each tile of 448 x 448, at most six tiles. ``low``: the overview only."""
    if detail == "low":
        return 256
    tiles = -(-width // 448) * -(-height // 448)
    return 256 * (min(tiles, 6) + 1)
