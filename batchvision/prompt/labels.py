"""Find the label that an answer names, spelled exactly or nearly so. Pure.

A label is the whole answer, never a word in a sentence. Differences in case, blanks, final punctuation and wrapping are
forgiven only if exactly one label fits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from batchvision.prompt.spoken import bare_word, unwrapped

#: Characters of fence and markup that an answer may have beside the longest label.
_MOST_WRAPPING = 200
_NAMED = re.compile(r"[\"'*_`]{0,4}label[\"'*_`]{0,4}\s*[:=]\s*[\"'*_`]{0,4}\s*(.+)", re.DOTALL)


class Labels:
    """The labels of one job."""

    __slots__ = ("_by_bare_word", "_exact", "_most_characters")

    def __init__(self, values: Iterable[str]) -> None:
        self._exact = frozenset(values)
        self._most_characters = max(map(len, self._exact), default=0) + _MOST_WRAPPING
        by_word: dict[str, set[str]] = {}
        for value in self._exact:
            by_word.setdefault(bare_word(value), set()).add(value)
        self._by_bare_word = {word: found.pop() for word, found in by_word.items() if word and len(found) == 1}

    def find(self, text: str) -> str | None:
        """The label that ``text`` names; ``None`` where no label fits, or several do."""
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
