"""The whole JSON objects and arrays in a text, whatever stands between them. Pure, and linear in the text.

A value is whole where it is closed and its grammar holds from its first bracket on. What stands inside a value that is
not whole is a part, and no value of its own.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_OPENING = re.compile(r"[{\[]")
#: One token and the blanks before it. A string that is not closed has an empty ``quote``.
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
    """Where a value stands: ``text[start:end]``."""

    start: int
    end: int


def whole_values(text: str) -> list[Span]:
    """All whole objects and arrays of ``text`` that stand in no other one, in order.

    Linear: a bracket that was read inside a broken value would break at the same place if it were read by itself, so
    it is not read again. Only brackets that looked like a part of a string are.
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
    """Where the value that begins at ``start`` is closed. None: it is not, and all of its brackets are ``broken``."""
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
    """The bracket or mark itself, ``string`` or ``value``; "" where it is none of JSON's."""
    if token["quote"] is not None:
        return _STRING if token["quote"] else ""
    if token["atom"] is not None:
        return _VALUE if _ATOM.fullmatch(token["atom"]) else ""
    return token["bracket"] or token["mark"]
