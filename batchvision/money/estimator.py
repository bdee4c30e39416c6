"""The estimator of one recipe's requests.

Likely figures are corrected by what answers report; bounds are for the spend cap and only ever err upward, as far as
a model's counting is known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from batchvision.money import image_tokens
from batchvision.money.learned import LearnedImages
from batchvision.money.mean import Mean
from batchvision.prompt import system_text
from batchvision.providers import output_limit
from batchvision.records import Estimate, ImageSize, Recipe, Usage
from batchvision.ticks import Prices

#: Of English text; scripts with more tokens a character are covered by learning, and by the bound.
CHARS_PER_TOKEN = 4
#: No text has more tokens than this many for a character (of common tokenizers and scripts).
MOST_TOKENS_PER_CHAR = 2
#: What a chat puts around each message, and around all of them.
TOKENS_AROUND = 20

#: Output tokens of an answer, before any is known.
FIRST_OUTPUT_TOKENS = 300

#: Prompts are cached in blocks of so many tokens (measured at xAI; OpenAI says the same).
CACHE_BLOCK_TOKENS = 128


class Estimator:
    """Estimates the requests of one recipe."""

    def __init__(self, recipe: Recipe, prices: Prices | None, *, caches_prefix: bool = False) -> None:
        """``caches_prefix``: the provider is asked to keep what all requests begin with; likely costs count on it."""
        self._prices = prices
        self._cached = _prefix_tokens(recipe) // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS if caches_prefix else 0
        self._images = LearnedImages(image_tokens.rule(recipe.model), recipe.detail)
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
            most_text = min(most_text, messages_bytes)  # no token is less than a byte
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
        """Take an answer's usage in. ``asked``: what was estimated of its request; None: that is not known any more."""
        if usage.completion_tokens is not None:
            self._output.add(usage.completion_tokens + (usage.reasoning_tokens or 0))
        if asked is not None:
            self._images.learn(usage, asked.sizes, asked.text_tokens)

    def _ticks(self, prompt: int, output: int, images: int, cached: int = 0) -> int | None:
        return None if self._prices is None else self._prices.ticks(prompt, output, cached, images)


def _prefix_tokens(recipe: Recipe) -> int:
    """What comes before a row's own text and images, about; the examples' images are left out."""
    examples = sum(len(example.user) + len(example.answer) for example in recipe.examples)
    return (len(system_text(recipe) or "") + examples) // CHARS_PER_TOKEN


def _constant_chars(recipe: Recipe) -> int:
    """What every request of a recipe holds beside its row's text."""
    examples = sum(len(example.user) + len(example.answer) for example in recipe.examples)
    schema = recipe.answer.schema
    return len(recipe.system or "") + examples + (0 if schema is None else len(json.dumps(schema, default=str)))
