"""What answers have told of images' tokens, for models whose rule is not published.

Likely figures follow the size of an image. Bounds come down with what was seen, on one assumption: an image that is no
wider and no higher than another takes no more tokens. An answer that shows otherwise raises the bound it broke.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import log2

from batchvision.money.image_tokens import ImageRule
from batchvision.money.mean import Mean
from batchvision.records import ImageSize, Usage

#: What was seen is a bound with this margin.
MARGIN = 1.25
#: Answers that must have come before anything lowers a bound.
ANSWERS_BEFORE_TRUST = 10
#: Sizes that are remembered as bounds of all smaller ones; few are needed, for most say no more than others.
_MOST_WITNESSES = 64

_Class = int | None


class LearnedImages:
    """Tokens of images by size, under one rule and detail."""

    def __init__(self, rule: ImageRule, detail: str) -> None:
        self._rule = rule
        self._detail = detail
        self._answers = 0
        self._factor = Mean()  #: what images took, over what the rule says
        self._classes: dict[_Class, Mean] = {}
        self._most_seen = 0.0  #: of one image
        self._witnesses: list[tuple[int, int, float]] = []  #: width, height, tokens: no smaller image took more

    def likely(self, size: ImageSize) -> float:
        """As images of about this size were; else by the rule, corrected by how far off it was."""
        if self._rule.is_exact:
            return self._rule.tokens(*size, self._detail)
        seen = self._classes.get(_class(size))
        if seen is not None and seen.value is not None:
            return seen.value
        return self._rule.tokens(*size, self._detail) * (self._factor.value or 1.0)

    def most(self, size: ImageSize) -> float:
        """What it is at most."""
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
        """Take in what the images of one request took. Where that is not told apart, it is what the text left."""
        if self._rule.is_exact or not sizes:
            return
        told, prompt = usage.image_tokens, usage.prompt_tokens
        taken = told if told is not None else None if prompt is None else prompt - text_tokens
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
        if are_equal and width and height:  # what is not told apart bounds the images all the more
            self._witness(width, height, (told if told is not None else prompt or taken) / len(sizes))

    def _witness(self, width: int, height: int, tokens: float) -> None:
        kept, is_said = [], False
        for wide, high, most in self._witnesses:
            if wide >= width and high >= height:
                is_said = True
                kept.append((wide, high, max(most, tokens)))
            elif wide > width or high > height or most < tokens:
                kept.append((wide, high, most))
        if not is_said and len(kept) < _MOST_WITNESSES:
            kept.append((width, height, tokens))
        self._witnesses = kept


@lru_cache(maxsize=4096)
def _class(size: ImageSize) -> _Class:
    """Sizes within half an octave of pixels are alike."""
    width, height = size
    return None if not width or not height else round(2 * log2(width * height))
