"""One slice of a manifest: which rows are its own, and which other slices share rows with it."""

from __future__ import annotations

import re
from hashlib import blake2b
from math import gcd
from typing import NamedTuple

#: The number that a repeated row has behind its id: ``-2`` where ids are hashes of the content, ``#2`` elsewhere.
_REPETITION = re.compile(r"(?<=^[0-9a-f]{16})-\d+$|(?<=.)#\d+$", re.DOTALL)


class Shard(NamedTuple):
    """Slice ``number`` of a division into ``of``; 0 of 1 is the whole manifest."""

    number: int = 0
    of: int = 1

    @classmethod
    def named(cls, name: str) -> Shard:
        """The shard that files and folders name ``1of4``. Raises ValueError."""
        number, _, of = name.partition("of")
        return cls(int(number), int(of))

    @classmethod
    def typed(cls, text: str) -> Shard:
        """The shard that ``--shard`` names ``1/4``. Raises ValueError."""
        number, _, of = text.partition("/")
        return cls(int(number), int(of))

    @property
    def name(self) -> str:
        return f"{self.number}of{self.of}"

    def __str__(self) -> str:
        """As it is typed: ``--shard 1/4``."""
        return f"{self.number}/{self.of}"

    def owns(self, row_id: str) -> bool:
        """Whether a row belongs to this shard. By id alone: rows that come or go move no other row, and repeated rows
        stay together."""
        if self.of == 1:
            return True
        first = _REPETITION.sub("", row_id)
        return int.from_bytes(blake2b(first.encode(), digest_size=8).digest()) % self.of == self.number

    def overlaps(self, other: Shard) -> bool:
        """Whether a row can belong to both."""
        return (self.number - other.number) % gcd(self.of, other.of) == 0
