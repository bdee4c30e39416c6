"""Thrift's compact form, as much of it as Parquet's own structures use.

Rule: any bytes are read within bounds of time and memory, or refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MOST_ELEMENTS = 1_000_000
_MOST_DEPTH = 12
_BOOLEANS = (1, 2)  #: as fields they are their own value


class Compact:
    """Reads values from ``content`` on. Raises IndexError at its end, ValueError for what is no such value."""

    def __init__(self, content: bytes, at: int = 0) -> None:
        self._content = content
        self.at = at

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of a structure, by number."""
        return {name: self._value(kind, depth) for name, kind in self.fields()}

    def fields(self) -> Iterator[tuple[int, int]]:
        """Number and kind of each field of a structure; who asks reads its value before the next."""
        name = 0
        while head := self._byte():
            name = name + (head >> 4) if head >> 4 else self._integer()
            yield name, head & 0x0F

    def value(self, kind: int) -> Any:
        return self._value(kind, 0)

    def elements(self, depth: int = 0) -> Iterator[Any]:
        """Those of a list, one by one. Each takes at least a byte, so that no few bytes stand for many."""
        head = self._byte()
        kind, count = head & 0x0F, self._varint() if head >> 4 == 15 else head >> 4
        if count > _MOST_ELEMENTS:
            raise ValueError("a list too long")
        for _ in range(count):
            yield self._byte() == 1 if kind in _BOOLEANS else self._value(kind, depth + 1)

    def _value(self, kind: int, depth: int) -> Any:
        if depth > _MOST_DEPTH:
            raise ValueError("nested too deeply")
        match kind:
            case _ if kind in _BOOLEANS:
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._integer()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._varint())
            case 9 | 10:
                return list(self.elements(depth))
            case 12:
                return self.struct(depth + 1)
        raise ValueError(f"a field of kind {kind}")

    def _byte(self) -> int:
        value = self._content[self.at]
        self.at += 1
        return value

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number too long")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _bytes(self, size: int) -> bytes:
        taken = self._content[self.at : self.at + size]
        if len(taken) < size:
            raise IndexError
        self.at += size
        return taken
