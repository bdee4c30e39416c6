"""The findings of a check: a line of text, a mark and the next step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """The meaning of a finding for the output."""

    OK = "ok"  #: correct
    NOTE = "note"  #: not checked, or left to the next run
    WRONG = "wrong"  #: damaged, missing or inconsistent


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. Every WRONG finding has a ``next_step``."""

    topic: str
    mark: Mark
    text: str
    next_step: str | None = None


def ok(topic: str, text: str) -> Finding:
    return Finding(topic, Mark.OK, text)


def note(topic: str, text: str, next_step: str | None = None) -> Finding:
    return Finding(topic, Mark.NOTE, text, next_step)


def wrong(topic: str, text: str, next_step: str) -> Finding:
    return Finding(topic, Mark.WRONG, text, next_step)
