"""Limit the nesting of JSON text before it is parsed. Pure.

Readers of foreign JSON call this first, so that recursive code cannot overflow the stack on any version of Python.
"""

from __future__ import annotations

import re

#: No schema that is sent allows a deeper answer.
MOST_DEPTH = 64

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def is_deeper(text: str, most: int = MOST_DEPTH, start: int = 0) -> bool:
    """Whether arrays and objects are nested more than ``most`` deep."""
    if text.count("[", start) + text.count("{", start) <= most:
        return False
    depth = 0
    for found in _BRACKETS.finditer(text, start):
        match text[found.start()]:
            case "[" | "{":
                depth += 1
                if depth > most:
                    return True
            case "]" | "}":
                depth -= 1
                if depth <= 0:  # text after a closed value is not read
                    return False
    return False
