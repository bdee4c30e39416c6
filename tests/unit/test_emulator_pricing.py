"""Tokens and ticks by rules a reader can follow."""

from __future__ import annotations

import pytest

from batchvision.emulator.pricing import AnswerTokens, cost_ticks, image_tokens, price_of, text_tokens
from batchvision.records import TICKS_PER_USD


def test_a_million_prompt_tokens_of_grok_43_cost_a_dollar_and_a_quarter() -> None:
    assert price_of("grok-4.3").prompt * 1_000_000 == TICKS_PER_USD * 5 // 4
    assert price_of("x-ai/grok-4.7").completion * 1_000_000 == 6 * TICKS_PER_USD
    assert price_of("some/other-model") == price_of("grok-4.3")


def test_cached_tokens_are_cheaper_and_reasoning_costs_like_completion() -> None:
    tokens = AnswerTokens(text=100, image=512, cached=64, completion=24, reasoning=10)
    assert tokens.prompt == 612
    assert tokens.total == 646
    assert cost_ticks("grok-4.3", tokens) == 548 * 12_500 + 64 * 2_000 + 34 * 25_000


def test_a_long_prompt_costs_twice_for_all_its_tokens() -> None:
    short = AnswerTokens(199_999, 0, 0, 10, 0)
    long = AnswerTokens(200_000, 0, 0, 10, 0)
    assert cost_ticks("grok-4.3", long) == 2 * (cost_ticks("grok-4.3", short) + 12_500)


@pytest.mark.parametrize(("text", "tokens"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2)])
def test_four_characters_are_a_token(text: str, tokens: int) -> None:
    assert text_tokens(text) == tokens


@pytest.mark.parametrize(
    ("width", "height", "detail", "tokens"),
    [
        (64, 48, "auto", 512),
        (448, 448, "high", 512),
        (449, 448, "high", 768),
        (9000, 9000, "auto", 1792),
        (9000, 9000, "low", 256),
    ],
)
def test_image_tokens_grow_by_tiles_to_a_limit(width: int, height: int, detail: str, tokens: int) -> None:
    assert image_tokens(width, height, detail) == tokens
