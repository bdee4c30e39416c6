"""Parse prompt templates: ``Describe {title}.``, ``{{ }}`` for braces, ``{image}`` or ``{image:front}`` for images.

Braces hold a column's name and nothing else. Expressions and formats are left out, so that a manifest cannot run code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from batchvision.records import ImageSlot, Prompt

_TOKEN = re.compile(r"\{\{|\}\}|\{|\}")
_IMAGE = "image"


@dataclass(frozen=True, slots=True)
class ColumnField:
    """The row's cell in the column ``name``."""

    name: str


#: A part of a template: text, a cell, or a place for images.
TemplatePart = str | ColumnField | ImageSlot


class TemplateError(ValueError):
    """The template cannot be read; the message names line and column."""


def _place(text: str, offset: int) -> str:
    line = text.count("\n", 0, offset) + 1
    return f"line {line}, column {offset - (text.rfind(chr(10), 0, offset) + 1) + 1}"


def _field(text: str, start: int, end: int) -> ColumnField | ImageSlot:
    """The field between the brace before ``start`` and the brace at ``end``."""
    name = text[start:end].strip()
    if not name:
        raise TemplateError(f"{_place(text, start - 1)}: {{}} names no column; write {{{{}}}} for a pair of braces")
    if '"' in name or "\n" in name:
        shown = name[:30]
        raise TemplateError(
            f"{_place(text, start - 1)}: {{{shown}}} is no column name; write {{{{ and }}}} for braces that are text"
        )
    if name == _IMAGE:
        return ImageSlot("")
    if name.startswith(f"{_IMAGE}:"):
        slot = name.removeprefix(f"{_IMAGE}:").strip()
        if not slot:
            raise TemplateError(f"{_place(text, start - 1)}: {{image:}} names no image column; write {{image}}")
        return ImageSlot(slot)
    return ColumnField(name)


def _parts(text: str) -> list[TemplatePart]:
    found: list[TemplatePart] = []
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
            found.append(before)
        literal.clear()
        found.append(_field(text, position, end))
        position = end + 1
    literal.append(text[position:])
    if rest := "".join(literal):
        found.append(rest)
    return found


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template, made by :meth:`parse`. Neighbouring texts are joined."""

    parts: tuple[TemplatePart, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """Raises :class:`TemplateError` (a ValueError) with line and column of the first mistake."""
        if "\x00" in text:
            raise TemplateError(f"{_place(text, text.index(chr(0)))}: a prompt cannot hold a NUL character")
        return cls(tuple(_parts(text)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the template reads, each once, in order of first appearance."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, ColumnField)))

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the image slots, each once; "" is a plain ``{image}``."""
        return tuple(dict.fromkeys(part.name for part in self.parts if isinstance(part, ImageSlot)))

    def render(self, cells: Mapping[str, str]) -> Prompt:
        """The prompt of one row. Raises KeyError for a missing column."""
        return joined(cells[part.name] if isinstance(part, ColumnField) else part for part in self.parts)


def joined(parts: Iterable[str | ImageSlot]) -> Prompt:
    """``parts`` with neighbouring texts joined."""
    prompt: list[str | ImageSlot] = []
    for part in parts:
        last = prompt[-1] if prompt else None
        if isinstance(part, str) and isinstance(last, str):
            prompt[-1] = last + part
        else:
            prompt.append(part)
    return tuple(prompt)
