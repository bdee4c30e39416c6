"""Values by key that know how they differ from the last seal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Difference(NamedTuple, Generic[K, V]):
    """The values that were set since the last cut, and the keys that were removed."""

    put: list[V]
    removed: list[K]


class Tracked(Mapping[K, V]):
    """A mapping with a :meth:`cut`. Its first values count as there before the first cut.

    One thread changes it. Another thread may ask for a key meanwhile: a value that is replaced is always found.
    """

    __slots__ = ("_before", "_gone", "_since")

    def __init__(self, values: Mapping[K, V] | None = None) -> None:
        self._before: dict[K, V] = dict(values or {})  #: of the last cut, and neither set nor removed since
        self._since: dict[K, V] = {}  #: set since the last cut
        self._gone: dict[K, None] = {}  #: keys of the last cut that are no longer in ``_before``

    def __getitem__(self, key: K) -> V:
        try:
            return self._since[key]
        except KeyError:
            return self._before[key]

    def __contains__(self, key: object) -> bool:
        return key in self._since or key in self._before

    def __iter__(self) -> Iterator[K]:
        return chain(self._before, self._since)

    def __len__(self) -> int:
        return len(self._before) + len(self._since)

    def __setitem__(self, key: K, value: V) -> None:
        self._since[key] = value
        if key in self._before:
            del self._before[key]
            self._gone[key] = None

    def take(self, key: K) -> V:
        """Remove a key, and return its value. Raises KeyError."""
        if key in self._since:
            return self._since.pop(key)
        value = self._before.pop(key)
        self._gone[key] = None
        return value

    def copy(self) -> dict[K, V]:
        """All values. Any thread may ask: a key that moves between the dicts meanwhile is found in one of them."""
        since = self._since
        return {**self._before, **since, **self._since}

    @property
    def has_changed(self) -> bool:
        return bool(self._since or self._gone)

    def cut(self) -> Difference[K, V]:
        """The difference since the last cut."""
        difference = Difference(list(self._since.values()), [key for key in self._gone if key not in self._since])
        self._before.update(self._since)
        self._since, self._gone = {}, {}
        return difference
