"""How alike two answers are. Pure.

Typed answers are compared property by property. Properties are equal or not; free text is compared by its words, as
plain answers are. The likeness of two texts is Dice's coefficient: twice the number of common words over the number of
words of both texts, in any order and case. "a red shoe" and "A red running shoe." are 0.86 alike. The figure shows that
answers differ, not which one is right.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from statistics import fmean
from typing import Any, NamedTuple

from batchvision.commands.pilot.paid import Answered
from batchvision.records import AnswerSpec

_WORD = re.compile(r"\w+")


class Agreement(NamedTuple):
    """``rows`` were compared, ``same`` of them have equal answers. ``alike`` is the mean likeness."""

    rows: int
    same: int
    alike: float


def agreement(own: Mapping[str, Answered], other: Mapping[str, Answered], spec: AnswerSpec) -> Agreement | None:
    """Compare the rows of ``own``. A row without an answer in ``other`` has the likeness 0."""
    shares = [likeness(own[row_id], other[row_id], spec) if row_id in other else 0.0 for row_id in own]
    return Agreement(len(shares), shares.count(1.0), fmean(shares)) if shares else None


def likeness(left: Answered, right: Answered, spec: AnswerSpec) -> float:
    """From 0 to 1."""
    if spec.schema is None or left.output_json is None or right.output_json is None:
        return words_in_common(left.text, right.text)
    mine, its = json.loads(left.output_json), json.loads(right.output_json)
    if not isinstance(mine, dict) or not isinstance(its, dict):
        return float(mine == its)
    names = mine.keys() | its.keys()
    return fmean(_cell(name, mine.get(name), its.get(name), spec) for name in names) if names else 1.0


def _cell(name: str, left: Any, right: Any, spec: AnswerSpec) -> float:
    if isinstance(left, str) and isinstance(right, str) and not _is_closed(name, spec):
        return words_in_common(left, right)
    return float(left == right)


def _is_closed(name: str, spec: AnswerSpec) -> bool:
    """Whether the schema lists the allowed values of a property."""
    described = ((spec.schema or {}).get("properties") or {}).get(name)
    return isinstance(described, Mapping) and any(word in described for word in ("enum", "const", "anyOf", "oneOf"))


def words_in_common(left: str, right: str) -> float:
    mine, its = (Counter(_WORD.findall(text.casefold())) for text in (left, right))
    both = mine.total() + its.total()
    return 2 * (mine & its).total() / both if both else float(left.strip() == right.strip())
