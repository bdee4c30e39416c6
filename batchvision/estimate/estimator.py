"""The estimator of one recipe's requests.

Likely figures are corrected by what answers report; bounds are for the spend cap and only ever err upward, as far as
a model's counting is known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from batchvision.estimate import image_tokens
from batchvision.money import Prices
from batchvision.prompt.conversation import system_text
from batchvision.providers.base import output_limit
from batchvision.records import Estimate, Recipe, Usage

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

#: How many answers a running mean remembers.
_MEMORY = 200

#: A learned image size is the bound's base with this margin.
_IMAGE_MARGIN = 1.25


class _Mean:
    """A running mean that forgets slowly."""

    __slots__ = ("_count", "most", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self.most = 0.0
        self._count = 0

    def add(self, value: float) -> None:
        self._count = min(self._count + 1, _MEMORY)
        self.value = value if self.value is None else self.value + (value - self.value) / self._count
        self.most = max(self.most, value)


class Estimator:
    """Estimates the requests of one recipe."""

    def __init__(self, recipe: Recipe, prices: Prices | None, *, caches_prefix: bool = False) -> None:
        """``caches_prefix``: the provider is asked to keep what all requests begin with; likely costs count on it."""
        self._prices = prices
        self._cached = _prefix_tokens(recipe) // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS if caches_prefix else 0
        self._rule = image_tokens.rule(recipe.model)
        self._detail = recipe.detail
        self._constant_chars = _constant_chars(recipe)
        self._messages = 2 + 2 * len(recipe.examples)
        self._example_images = sum(len(example.images) for example in recipe.examples)
        self._max_tokens = output_limit(recipe)
        self._output = _Mean()
        self._image = _Mean()
        self._images_asked = _Mean()
        self._text_asked = _Mean()

    def estimate(
        self,
        text_chars: int,
        images: Sequence[tuple[int | None, int | None]],
        messages_bytes: int = 0,
        max_tokens: int | None = None,
    ) -> Estimate:
        """``images``: width and height of each, where known. ``messages_bytes``: the length of the messages as sent
        (0: not known). ``max_tokens`` overrides the recipe's.
        """
        limit = max_tokens or self._max_tokens
        chars = self._constant_chars + text_chars
        text = chars // CHARS_PER_TOKEN + TOKENS_AROUND
        sizes = [*images, *[(None, None)] * self._example_images]
        self._images_asked.add(len(sizes))
        self._text_asked.add(text)
        prompt = text + round(sum(self._image_tokens(width, height) for width, height in sizes))
        output = min(round(self._output.value or FIRST_OUTPUT_TOKENS), limit or 1_000_000)
        most_text = chars * MOST_TOKENS_PER_CHAR + self._messages * TOKENS_AROUND
        if messages_bytes:
            most_text = min(most_text, messages_bytes)  # no token is less than a byte
        most_prompt = most_text + round(sum(self._most_image_tokens(width, height) for width, height in sizes))
        return Estimate(
            tokens=prompt + output,
            likely_ticks=self._ticks(prompt, output, len(sizes), self._cached),
            bound_ticks=None if limit is None else self._ticks(most_prompt, limit, len(sizes)),
        )

    def learn(self, usage: Usage, images: int | None = None) -> None:
        """Take an answer's usage in. ``images``: how many its request had; None: as many as requests usually have."""
        if usage.completion_tokens is not None:
            self._output.add(usage.completion_tokens + (usage.reasoning_tokens or 0))
        asked = images or self._images_asked.value
        if not asked or self._rule.is_exact:
            return
        of_images: float | None = usage.image_tokens
        if of_images is None and usage.prompt_tokens is not None and self._text_asked.value is not None:
            of_images = usage.prompt_tokens - self._text_asked.value
        if of_images is not None and of_images > 0:
            self._image.add(of_images / asked)

    def _image_tokens(self, width: int | None, height: int | None) -> float:
        if not self._rule.is_exact and self._image.value is not None:
            return self._image.value
        return self._rule.tokens(width, height, self._detail)

    def _most_image_tokens(self, width: int | None, height: int | None) -> float:
        known = self._rule.most(width, height, self._detail)
        return known if self._rule.is_exact else max(known, self._image.most * _IMAGE_MARGIN)

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
