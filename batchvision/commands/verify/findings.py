"""What a check found: one line for people, with a mark and the next step where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """What a finding means for the output."""

    OK = "ok"  #: as it should be
    NOTE = "note"  #: worth knowing: it could not be checked, or the next run deals with it
    WRONG = "wrong"  #: something is not what was written


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked. ``next_step``: what to do about it, for a WRONG one always."""

    topic: str
    mark: Mark
    says: str
    next_step: str | None = None


def ok(topic: str, says: str) -> Finding:
    return Finding(topic, Mark.OK, says)


def note(topic: str, says: str, next_step: str | None = None) -> Finding:
    return Finding(topic, Mark.NOTE, says, next_step)


def wrong(topic: str, says: str, next_step: str) -> Finding:
    return Finding(topic, Mark.WRONG, says, next_step)
