"""Find the whole JSON objects and arrays in a text. Pure, and linear in the text.

A value is whole if it is closed and valid from its first bracket on. Values inside a broken value do not count.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_OPENING = re.compile(r"[{\[]")
#: One token and the blanks before it. An unclosed string has an empty ``quote``.
_TOKEN = re.compile(
    r'[ \t\n\r]*(?:(?P<bracket>[{}\[\]])|(?P<mark>[,:])|"[^"\\]*(?:\\.[^"\\]*)*(?P<quote>"?)|(?P<atom>[-+.\w]+))',
    re.DOTALL,
)
_ATOM = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")

#: Replaced by a test that counts the work.
_token_at = _TOKEN.match

_VALUE, _STRING = "value", "string"
_FIRST_OF = {"{": (_STRING, "}"), "[": (_VALUE, "]")}
_AFTER_COMMA_IN = {"{": (_STRING,), "[": (_VALUE,)}
_AFTER_VALUE_IN = {"{": (",", "}"), "[": (",", "]")}


class Span(NamedTuple):
    """The place of a value: ``text[start:end]``."""

    start: int
    end: int


def whole_values(text: str) -> list[Span]:
    """The outermost whole objects and arrays of ``text``, in order.

    Linear: a bracket inside a broken value would break at the same place by itself, so it is not read again. Only
    brackets that looked like parts of a string are read again.
    """
    found: list[Span] = []
    broken: set[int] = set()
    position = 0
    while opening := _OPENING.search(text, position):
        start = opening.start()
        end = None if start in broken else _end_of(text, start, broken)
        if end is None:
            position = start + 1
        else:
            found.append(Span(start, end))
            position = end
    return found


def _end_of(text: str, start: int, broken: set[int]) -> int | None:
    """The end of the value at ``start``. ``None``: it is not whole, and its brackets were added to ``broken``."""
    seen: list[int] = []
    inside: list[str] = []
    expected: tuple[str, ...] = (_VALUE,)
    position = start
    while token := _token_at(text, position):
        position = token.end()
        kind = _kind_of(token)
        is_value = kind in (_STRING, _VALUE, "{", "[")
        if kind not in expected and not (is_value and _VALUE in expected):
            break
        if kind in ("{", "["):
            seen.append(position - 1)
            inside.append(kind)
            expected = _FIRST_OF[kind]
            continue
        if kind in ("}", "]"):
            inside.pop()
            if not inside:
                return position
        if kind == ":":
            expected = (_VALUE,)
        elif kind == ",":
            expected = _AFTER_COMMA_IN[inside[-1]]
        elif kind == _STRING and _VALUE not in expected:  # the name of a property
            expected = (":",)
        else:
            expected = _AFTER_VALUE_IN[inside[-1]]
    broken.update(seen)
    return None


def _kind_of(token: re.Match[str]) -> str:
    """The bracket or mark itself, ``string`` or ``value``; "" for a token outside JSON."""
    if token["quote"] is not None:
        return _STRING if token["quote"] else ""
    if token["atom"] is not None:
        return _VALUE if _ATOM.fullmatch(token["atom"]) else ""
    return token["bracket"] or token["mark"]
