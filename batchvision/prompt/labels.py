"""The one label that an answer names, spelled exactly or nearly so. Pure.

Rule: a label is the whole answer, never a word in a sentence. Case, blanks, end punctuation and wrapping are forgiven
only where one label can be meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from batchvision.prompt.spoken import bare_word, unwrapped

#: An answer may be so much longer than the longest label: room for a fence and markup.
_MOST_WRAPPING = 200
_NAMED = re.compile(r"[\"'*_`]{0,4}label[\"'*_`]{0,4}\s*[:=]\s*[\"'*_`]{0,4}\s*(.+)", re.DOTALL)


class Labels:
    """The labels of one job, to be found by what a model wrote."""

    __slots__ = ("_by_bare_word", "_exact", "_most_characters")

    def __init__(self, values: Iterable[str]) -> None:
        self._exact = frozenset(values)
        self._most_characters = max(map(len, self._exact), default=0) + _MOST_WRAPPING
        by_word: dict[str, set[str]] = {}
        for value in self._exact:
            by_word.setdefault(bare_word(value), set()).add(value)
        self._by_bare_word = {word: found.pop() for word, found in by_word.items() if word and len(found) == 1}

    def find(self, text: str) -> str | None:
        """The label that all of ``text`` is; None where it is none, or could be two."""
        if text in self._exact:
            return text
        body = text.strip()
        if body in self._exact:
            return body
        if not body or body[0] == "{" or len(body) > self._most_characters:
            return None
        if (inner := unwrapped(body)) in self._exact:
            return inner
        word = bare_word(body)
        found = self._by_bare_word.get(word)
        if found is None and (named := _NAMED.fullmatch(word)):
            return self._by_bare_word.get(bare_word(named[1]))
        return found
