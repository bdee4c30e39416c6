"""Accuracy in words: one sentence for each property of the answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def accuracy_words(accuracy: Mapping[str, Any]) -> Iterator[str]:
    """``label: 93.4% of 500 known rows are right (95% sure: 90.9% to 95.3%); always "shoe" would be 41.0%``"""
    for name, measured in accuracy.items():
        share, baseline = measured["accuracy"], measured["baseline"]
        sure = f"95% sure: {share['low']:.1%} to {share['high']:.1%}"
        words = f"{name}: {share['value']:.1%} of {measured['rows']:,} known rows are right ({sure})"
        if "labels" in measured:
            words += f'; always "{baseline["label"]}" would be {baseline["accuracy"]:.1%}'
        if measured["unanswered"]:
            words += f"; {measured['unanswered']:,} known rows have no answer"
        yield words
