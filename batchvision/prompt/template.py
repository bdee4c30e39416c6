"""A prompt template, parsed: ``Describe {title}.``, ``{{ }}`` for braces, ``{image}`` or ``{image:front}`` for images.

Rule: no expressions and no formats. What stands between the braces is a column's name and nothing else, so that a
manifest can never run anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: Stands before and after a slot's name in rendered text; no cell can hold it.
MARK = "\x00"

_TOKEN = re.compile(r"\{\{|\}\}|\{|\}")
_IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Literal:
    """Text that is sent as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class Column:
    """A cell of the row."""

    name: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for images: those of the column ``name``, or ("") the next one that has no place yet."""

    name: str


Segment = Literal | Column | Slot


class TemplateError(ValueError):
    """The template cannot be read; the message names line and column."""


def _place(text: str, offset: int) -> str:
    line = text.count("\n", 0, offset) + 1
    return f"line {line}, column {offset - (text.rfind(chr(10), 0, offset) + 1) + 1}"


def _field(text: str, start: int, end: int) -> Column | Slot:
    """What stands between the brace before ``start`` and the one at ``end``."""
    name = text[start:end].strip()
    if not name:
        raise TemplateError(f"{_place(text, start - 1)}: {{}} names no column; write {{{{}}}} for a pair of braces")
    if '"' in name or "\n" in name:
        shown = name[:30]
        raise TemplateError(
            f"{_place(text, start - 1)}: {{{shown}}} is no column name; write {{{{ and }}}} for braces that are text"
        )
    if name == _IMAGE:
        return Slot("")
    if name.startswith(f"{_IMAGE}:"):
        slot = name.removeprefix(f"{_IMAGE}:").strip()
        if not slot:
            raise TemplateError(f"{_place(text, start - 1)}: {{image:}} names no image column; write {{image}}")
        return Slot(slot)
    return Column(name)


def _segments(text: str) -> list[Segment]:
    found: list[Segment] = []
    literal: list[str] = []
    position = 0
    while token := _TOKEN.search(text, position):
        literal.append(text[position : token.start()])
        position = token.end()
        if token[0] in ("{{", "}}"):
            literal.append(token[0][0])
            continue
        if token[0] == "}":
            raise TemplateError(f"{_place(text, token.start())}: a single }} closes nothing; write }}}} for a brace")
        end = text.find("}", position)
        inner = text.find("{", position)
        if end < 0 or 0 <= inner < end:
            raise TemplateError(f"{_place(text, token.start())}: this {{ is never closed; write {{{{ for a brace")
        if before := "".join(literal):
            found.append(Literal(before))
        literal.clear()
        found.append(_field(text, position, end))
        position = end + 1
    literal.append(text[position:])
    if rest := "".join(literal):
        found.append(Literal(rest))
    return found


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template; adjacent literals are one. Made by :meth:`parse`."""

    segments: tuple[Segment, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises :class:`TemplateError` (a ValueError) with line and column of the first mistake."""
        if MARK in text:
            raise TemplateError(f"{_place(text, text.index(MARK))}: a prompt cannot hold a NUL character")
        return cls(tuple(_segments(text)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads, each once, in order of first appearance."""
        return tuple(dict.fromkeys(part.name for part in self.segments if isinstance(part, Column)))

    @property
    def slots(self) -> tuple[str, ...]:
        """The image slots it places, each once; "" is a plain ``{image}``."""
        return tuple(dict.fromkeys(part.name for part in self.segments if isinstance(part, Slot)))

    def render(self, cells: Mapping[str, str]) -> str:
        """The text of one row; where an image belongs stands ``\\x00slot\\x00``. KeyError on a missing column."""
        return "".join(_rendered(part, cells) for part in self.segments)


def _rendered(part: Segment, cells: Mapping[str, str]) -> str:
    match part:
        case Literal(text):
            return text
        case Column(name):
            return cells[name]
        case Slot(name):
            return f"{MARK}{name}{MARK}"
