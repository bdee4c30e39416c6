"""How deep JSON text is nested, before anybody reads it: a limit of our own, the same on every version of Python. Pure.

Rule: readers of what a model or a server wrote ask here first; what recurses over a value is never surprised.
"""

from __future__ import annotations

import re

#: An answer deeper than this is no answer to any schema that is sent.
MOST_DEPTH = 64

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{]|[\]}]', re.DOTALL)


def is_deeper(text: str, most: int = MOST_DEPTH, start: int = 0) -> bool:
    """Whether arrays and objects stand in each other more than ``most`` deep."""
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
                if depth <= 0:  # what follows a closed value is not read
                    return False
    return False
