"""Learn the tokens of images from usage, for models without a published rule.

Likely figures follow the size of an image. Observations lower the bounds, on one assumption: an image within the width
and height of another takes at most as many tokens. An answer that contradicts a bound raises it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2

from batchvision.money.image_tokens import ImageRule
from batchvision.records import ImageSize, Usage

#: An observed count times this is a bound.
MARGIN = 1.25
#: Answers needed before an observation lowers a bound.
ANSWERS_BEFORE_TRUST = 10
#: Sizes kept as bounds of all smaller sizes; most sizes are covered by a few.
_MOST_WITNESSES = 64

#: Values that a mean remembers.
_MEMORY = 200

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
