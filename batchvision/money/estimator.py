"""Estimate tokens and cost of one recipe's requests.

Usage in answers corrects the likely figures. Bounds serve the spend cap and err upward, as far as a model's way of
counting is known. Likely costs follow the service tier. Bounds have the usual prices, because an answer may name a
dearer tier than its request.

Tokens of images follow the rules that providers publish: OpenAI's guide "Images and vision"; Claude's vision page
(w*h/750); Gemini's media_resolution table. xAI has no published rule for Grok 4. The prior is the rule of its earlier
vision models: 256 tokens for each tile of 448 px (at most six) and for the overview. The largest count of that rule is
the bound.

Learned figures follow the size of an image. Observations lower the bounds, on one assumption: an image within the width
and height of another takes at most as many tokens. An answer that contradicts a bound raises it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil, floor, log2, sqrt

from batchvision.prompt import system_text
from batchvision.providers import output_limit
from batchvision.records import Estimate, ImageSize, Recipe, Usage
from batchvision.ticks import BATCH, Prices

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

#: (width, height, detail) -> tokens
_Count = Callable[[int, int, str], int]

#: An observed count times this is a bound.
MARGIN = 1.25
#: Answers needed before an observation lowers a bound.
ANSWERS_BEFORE_TRUST = 10
#: Sizes kept as bounds of all smaller sizes; most sizes are covered by a few.
_MOST_WITNESSES = 64

#: Values that a mean remembers.
_MEMORY = 200

#: The assumed side of an image of unknown size, longer than any sent side.
_LARGE = 8192


class Estimator:
    """Estimates the requests of one recipe."""

    def __init__(
        self, recipe: Recipe, prices: Prices | None, *, caches_prefix: bool = False, in_batch: bool = False
    ) -> None:
        """``caches_prefix``: the provider caches the common prefix of requests, which lowers likely costs.

        ``in_batch``: the requests are answered in batches.
        """
        self._prices = prices
        examples_chars = sum(len(example.user) + len(example.answer) for example in recipe.examples)
        prefix_tokens = (len(system_text(recipe) or "") + examples_chars) // CHARS_PER_TOKEN
        self._cached = prefix_tokens // CACHE_BLOCK_TOKENS * CACHE_BLOCK_TOKENS if caches_prefix else 0
        self._images = LearnedImages(rule(recipe.model), recipe.detail)
        schema = recipe.answer.schema
        schema_chars = 0 if schema is None else len(json.dumps(schema, default=str))
        self._constant_chars = len(recipe.system or "") + examples_chars + schema_chars  #: beside the row's text
        self._messages = 2 + 2 * len(recipe.examples)
        self._example_images = sum(len(example.images) for example in recipe.examples)
        self._max_tokens = output_limit(recipe)
        tier = recipe.parameters.get("service_tier")
        self._in_batch = in_batch
        self._tier = tier if isinstance(tier, str) else None  #: asked for, later that of the newest answer
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
        likely_ticks = bound_ticks = None
        if self._prices is not None:
            likely_ticks = self._prices.at(BATCH if self._in_batch else self._tier).ticks(
                prompt, output, cached, len(sizes)
            )
            bound_ticks = None if limit is None else self._prices.ticks(most_prompt, limit, images=len(sizes))
        return Estimate(
            tokens=prompt + output,
            likely_ticks=likely_ticks,
            bound_ticks=bound_ticks,
            output_tokens=output,
            cached_tokens=cached,
            text_tokens=text,
            sizes=sizes,
        )

    def learn(self, usage: Usage, asked: Estimate | None = None, service_tier: str | None = None) -> None:
        """Learn from an answer's usage. ``asked``: the estimate of its request, if still known. ``service_tier``: the
        tier that the answer names."""
        self._tier = service_tier or self._tier
        if usage.completion_tokens is not None:
            self._output.add(usage.completion_tokens + (usage.reasoning_tokens or 0))
        if asked is not None:
            self._images.learn(usage, asked.sizes, asked.text_tokens)


# ---------------------------------------------------------------------------------- rules of images


@dataclass(frozen=True, slots=True)
class ImageRule:
    """``is_exact``: the count follows from size and detail. Otherwise the count is a prior, to be learned from usage.

    An image of unknown size counts as 1024 x 1024, and at most as a large one.
    """

    count: _Count
    is_exact: bool = True
    most_tokens: int | None = None

    def tokens(self, width: int | None, height: int | None, detail: str) -> int:
        """The likely tokens."""
        return self.count(width or 1024, height or 1024, detail)


def rule(model: str) -> ImageRule:
    """The rule for a model's images; ``vendor/model:variant`` counts as ``model``."""
    name = model.lower().rpartition("/")[2].partition(":")[0]
    return next((found for pattern, found in _RULES if re.match(pattern, name)), _PRIOR)


def _patches(factor: float, budget: int, original: int | None, width: int, height: int, detail: str) -> int:
    """OpenAI's patch models: 32 px patches after a resize into a box and a budget of patches, times a factor.

    ``original``: the budget of models that take the original image under ``auto``.
    """
    side, most = (512, 256) if detail == "low" else (2048, budget)
    if original is not None and detail in ("auto", "original"):
        side, most = 6000, original
    shrink = min(1.0, side / max(width, height))
    across, down = width * shrink / 32, height * shrink / 32
    if ceil(across) * ceil(down) > most:
        shrink = sqrt(most / (across * down))
        across, down = across * shrink, down * shrink
        whole = min(floor(across) / across, floor(down) / down) if min(across, down) >= 1 else 1.0
        across, down = across * whole, down * whole
    patches = min(most, max(1, ceil(round(across, 6))) * max(1, ceil(round(down, 6))))
    return ceil(round(patches * factor, 6))


def _tiles(base: int, tile: int, width: int, height: int, detail: str) -> int:
    """OpenAI's tile models: fit into 2048, shortest side to 768, 512 px tiles."""
    if detail == "low":
        return base
    shrink = min(1.0, 2048 / max(width, height))
    width_px, height_px = width * shrink, height * shrink
    shrink = min(1.0, 768 / min(width_px, height_px))
    across, down = ceil(round(width_px * shrink / 512, 6)), ceil(round(height_px * shrink / 512, 6))
    return base + tile * across * down


def _area(width: int, height: int, detail: str) -> int:
    """Claude: a token for 750 pixels, long side at most 1568."""
    shrink = min(1.0, 1568 / max(width, height))
    return min(1600, ceil(width * shrink * height * shrink / 750))


def _gemini_3(width: int, height: int, detail: str) -> int:
    return 280 if detail == "low" else 1120


def _gemini_2(width: int, height: int, detail: str) -> int:
    """258 a tile; small images are one."""
    return 258 if max(width, height) <= 384 else 258 * min(16, ceil(width / 768) * ceil(height / 768))


def _grok_2(width: int, height: int, detail: str) -> int:
    return 256 if detail == "low" else 256 * (1 + min(6, ceil(width / 448) * ceil(height / 448)))


_PRIOR = ImageRule(_grok_2, is_exact=False, most_tokens=1792)

#: The first pattern that a model's name begins with.
_RULES: tuple[tuple[str, ImageRule], ...] = (
    (r"gpt-5\.[56]|gpt-6", ImageRule(partial(_patches, 1.2, 2500, 10_000))),
    (r"gpt-5\.[2-4]", ImageRule(partial(_patches, 1.2, 2500, None))),
    (r"gpt-(4\.1|5)-mini", ImageRule(partial(_patches, 1.62, 1536, None))),
    (r"gpt-(4\.1|5)-nano", ImageRule(partial(_patches, 2.46, 1536, None))),
    (r"o4-mini", ImageRule(partial(_patches, 1.72, 1536, None))),
    (r"gpt-4o-mini", ImageRule(partial(_tiles, 2833, 5667))),
    (r"gpt-4o|gpt-4\.1|chatgpt-4o", ImageRule(partial(_tiles, 85, 170))),
    (r"gpt-5", ImageRule(partial(_tiles, 70, 140))),
    (r"o1|o3", ImageRule(partial(_tiles, 75, 150))),
    (r"claude", ImageRule(_area, is_exact=False, most_tokens=4784)),
    (r"gemini-3", ImageRule(_gemini_3, is_exact=False, most_tokens=2240)),
    (r"gemini-2", ImageRule(_gemini_2, is_exact=False, most_tokens=258 * 16)),
)


# ---------------------------------------------------------------------------------- learned from usage

_Class = int | None


class Mean:
    """A running mean that forgets slowly; ``None`` before the first value."""

    __slots__ = ("_count", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self._count = 0

    def add(self, value: float) -> None:
        if self._count < _MEMORY:
            self._count += 1
        self.value = value if self.value is None else self.value + (value - self.value) / self._count


class LearnedImages:
    """Tokens of images by size, under one rule and detail."""

    def __init__(self, rule: ImageRule, detail: str) -> None:
        self._rule = rule
        self._detail = detail
        self._answers = 0
        self._factor = Mean()  #: observed tokens over the rule's count
        self._classes: dict[_Class, Mean] = {}
        self._most_seen = 0.0  #: of one image
        self._witnesses: list[tuple[int, int, float]] = []  #: width, height and most tokens of smaller images

    def likely(self, size: ImageSize) -> float:
        """The mean of images of about this size; else the rule's count times the mean error of the rule."""
        seen = self._classes.get(_class(size))
        if seen is not None and seen.value is not None:
            return seen.value
        return self._rule.tokens(*size, self._detail) * (self._factor.value or 1.0)

    def most(self, size: ImageSize) -> float:
        """The most tokens of an image of this size."""
        width, height = size
        known = self._rule.most_tokens
        if known is None:
            known = self._rule.count(width or _LARGE, height or _LARGE, self._detail)
        if self._rule.is_exact:
            return known
        most = max(known, self._most_seen * MARGIN)
        if not width or not height or self._answers < ANSWERS_BEFORE_TRUST:
            return most
        above = (tokens for wide, high, tokens in self._witnesses if wide >= width and high >= height)
        return min(min(above, default=most) * MARGIN, most)

    def learn(self, usage: Usage, sizes: Sequence[ImageSize], text_tokens: int) -> None:
        """Learn from one request. Without ``image_tokens``, images took the prompt tokens that the text left."""
        if self._rule.is_exact or not sizes:
            return
        reported, prompt = usage.image_tokens, usage.prompt_tokens
        taken = reported if reported is not None else None if prompt is None else prompt - text_tokens
        if taken is None or taken <= 0:
            return
        self._answers += 1
        self._factor.add(taken / sum(self._rule.tokens(*size, self._detail) for size in sizes))
        are_equal = sizes.count(sizes[0]) == len(sizes)
        if are_equal or len({_class(size) for size in sizes}) == 1:
            self._most_seen = max(self._most_seen, taken / len(sizes))
            kind = _class(sizes[0])
            if kind not in self._classes:
                self._classes[kind] = Mean()
            self._classes[kind].add(taken / len(sizes))
        width, height = sizes[0]
        if are_equal and width and height:  # the whole prompt is a bound, too
            self._witness(width, height, (reported if reported is not None else prompt or taken) / len(sizes))

    def _witness(self, width: int, height: int, tokens: float) -> None:
        kept, is_covered = [], False
        for wide, high, most in self._witnesses:
            if wide >= width and high >= height:
                is_covered = True
                kept.append((wide, high, max(most, tokens)))
            elif wide > width or high > height or most < tokens:
                kept.append((wide, high, most))
        if not is_covered and len(kept) < _MOST_WITNESSES:
            kept.append((width, height, tokens))
        self._witnesses = kept


@lru_cache(maxsize=4096)
def _class(size: ImageSize) -> _Class:
    """The class of a size: one for each half octave of pixels."""
    width, height = size
    return None if not width or not height else round(2 * log2(width * height))
