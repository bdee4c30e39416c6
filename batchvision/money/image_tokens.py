"""Count the tokens of an image: by the rules that providers publish, else by a prior and what usage teaches.

Sources: OpenAI's guide "Images and vision"; Claude's vision page (w*h/750); Gemini's media_resolution table. xAI has no
published rule for Grok 4. The prior is the rule of its earlier vision models: 256 tokens for each tile of 448 px (at
most six) and for the overview. The largest count of that rule is the bound.

Learned figures follow the size of an image. Observations lower the bounds, on one assumption: an image within the width
and height of another takes at most as many tokens. An answer that contradicts a bound raises it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil, floor, log2, sqrt

from batchvision.records import ImageSize, Usage

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

    def most(self, width: int | None, height: int | None, detail: str) -> int:
        """The most tokens."""
        if self.most_tokens is not None:
            return self.most_tokens
        return self.count(width or _LARGE, height or _LARGE, detail)


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
        if self._rule.is_exact:
            return self._rule.tokens(*size, self._detail)
        seen = self._classes.get(_class(size))
        if seen is not None and seen.value is not None:
            return seen.value
        return self._rule.tokens(*size, self._detail) * (self._factor.value or 1.0)

    def most(self, size: ImageSize) -> float:
        """The most tokens of an image of this size."""
        known = self._rule.most(*size, self._detail)
        if self._rule.is_exact:
            return known
        most = max(known, self._most_seen * MARGIN)
        width, height = size
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
