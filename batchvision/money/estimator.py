"""Estimate tokens and cost of one recipe's requests.

Usage in answers corrects the likely figures. Bounds serve the spend cap and err upward, as far as a model's way of
counting is known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from batchvision.money.image_tokens import LearnedImages, Mean, rule
from batchvision.prompt import system_text
from batchvision.providers import output_limit
from batchvision.records import Estimate, ImageSize, Recipe, Usage
from batchvision.ticks import Prices

#: For English text. Learning and the bound cover scripts with more tokens a character.
CHARS_PER_TOKEN = 4
#: An upper bound for common tokenizers and scripts.
MOST_TOKENS_PER_CHAR = 2
#: Tokens that a chat format adds around each message.
TOKENS_AROUND = 20

#: Output tokens of an answer, before the first answer.
FIRST_OUTPUT_TOKENS = 300

#: Prompts are cached in blocks of so many tokens (measured at xAI; documented by OpenAI).
CACHE_BLOCK_TOKENS = 128


class Estimator:
    """Estimates the requests of one recipe."""

    def __init__(self, recipe: Recipe, prices: Prices | None, *, caches_prefix: bool = False) -> None:
        """``caches_prefix``: the provider caches the common prefix of requests, which lowers likely costs."""
        self._prices = prices
        self._cached = _prefix_tokens(recipe) // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS if caches_prefix else 0
        self._images = LearnedImages(rule(recipe.model), recipe.detail)
        self._constant_chars = _constant_chars(recipe)
        self._messages = 2 + 2 * len(recipe.examples)
        self._example_images = sum(len(example.images) for example in recipe.examples)
        self._max_tokens = output_limit(recipe)
        self._output = Mean()

    def estimate(
        self,
        text_chars: int,
        images: Sequence[ImageSize],
        messages_bytes: int = 0,
        max_tokens: int | None = None,
    ) -> Estimate:
        """``images``: width and height of each, where known. ``messages_bytes``: the length of the messages as sent
        (0: not known). ``max_tokens`` overrides the recipe's.
        """
        limit = max_tokens or self._max_tokens
        chars = self._constant_chars + text_chars
        text = chars // CHARS_PER_TOKEN + TOKENS_AROUND
        sizes: tuple[ImageSize, ...] = (*images, *((None, None),) * self._example_images)
        prompt = text + round(sum(map(self._images.likely, sizes)))
        cached = min(self._cached, prompt)
        output = min(round(self._output.value or FIRST_OUTPUT_TOKENS), limit or 1_000_000)
        most_text = chars * MOST_TOKENS_PER_CHAR + self._messages * TOKENS_AROUND
        if messages_bytes:
            most_text = min(most_text, messages_bytes)  # a token has at least one byte
        most_prompt = most_text + round(sum(map(self._images.most, sizes)))
        return Estimate(
            tokens=prompt + output,
            likely_ticks=self._ticks(prompt, output, len(sizes), cached),
            bound_ticks=None if limit is None else self._ticks(most_prompt, limit, len(sizes)),
            output_tokens=output,
            cached_tokens=cached,
            text_tokens=text,
            sizes=sizes,
        )

    def learn(self, usage: Usage, asked: Estimate | None = None) -> None:
        """Learn from an answer's usage. ``asked``: the estimate of its request, if still known."""
        if usage.completion_tokens is not None:
            self._output.add(usage.completion_tokens + (usage.reasoning_tokens or 0))
        if asked is not None:
            self._images.learn(usage, asked.sizes, asked.text_tokens)

    def _ticks(self, prompt: int, output: int, images: int, cached: int = 0) -> int | None:
        return None if self._prices is None else self._prices.ticks(prompt, output, cached, images)


def _prefix_tokens(recipe: Recipe) -> int:
    """Approximate tokens before a row's own text and images, without the examples' images."""
    examples = sum(len(example.user) + len(example.answer) for example in recipe.examples)
    return (len(system_text(recipe) or "") + examples) // CHARS_PER_TOKEN


def _constant_chars(recipe: Recipe) -> int:
    """Characters of each request of a recipe beside the row's text."""
    examples = sum(len(example.user) + len(example.answer) for example in recipe.examples)
    schema = recipe.answer.schema
    return len(recipe.system or "") + examples + (0 if schema is None else len(json.dumps(schema, default=str)))
