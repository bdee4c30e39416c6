"""Count the tokens of an image by the rules that providers publish; a prior for models without a rule. Pure.

Sources: OpenAI's guide "Images and vision"; Claude's vision page (w*h/750); Gemini's media_resolution table. xAI has no
published rule for Grok 4. The prior is the rule of its earlier vision models: 256 tokens for each tile of 448 px (at
most six) and for the overview. The largest count of that rule is the bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil, floor, sqrt

#: (width, height, detail) -> tokens
_Count = Callable[[int, int, str], int]

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
