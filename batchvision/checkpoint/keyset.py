"""Sets of 128-bit keys in little memory, asked one by one or a batch at a time.

The rule: what is in a set is always found. What is not is found by mistake where all bits that the set keeps are equal
by chance: of 104, with 20 million keys and 10 million questions, less than once in 10^16 runs; of 56 (``Keep.HINT``)
once in some hundred, so that a "yes" there is looked up again before anything is made of it.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchvision.keys import KEY_BYTES

#: Keys that come one by one wait here, and are sorted in together: as objects they take twenty times the room, and 16
#: more would make Python's set of them four times as wide.
FRESH = 4_900
_PENDING_BYTES = 64 * 1024 * KEY_BYTES
_BUCKETS = 256  #: by the first byte: sorting one at a time needs little room
_BUCKET_BYTES = 160 * 1024  #: a bucket's first room; what is not written is not taken
#: A table begins its search in a cell of about so many keys, which lie in one or two lines of the processor's cache.
_CELL_KEYS = 8
#: From here on an allocator maps memory by itself, and numpy asks for huge pages, without which a search takes longer.
_LARGE_BYTES = 4 * 1024 * 1024

Words = NDArray[np.unsignedinteger[Any]]


class Keep(Enum):
    """How much of a key is kept beside its first byte: a head, by which it is sorted, and a tail."""

    SURE = np.dtype([("head", np.uint64), ("tail", np.uint32)])
    HINT = np.dtype([("head", np.uint32), ("tail", np.uint16)])


class KeySet:
    """Add and ask in any order, from one thread; the first question after many were added sorts them. Once
    :meth:`settle` was called, and until more are added, a question changes nothing: several threads may ask."""

    __slots__ = ("_fresh", "_has_loose", "_keep", "_length", "_loose", "_pending", "_tables")

    def __init__(self, keys: Iterable[bytes] = (), keep: Keep = Keep.SURE) -> None:
        self._keep = keep
        self._length = 0
        self._fresh: set[bytes] = set()
        self._pending = bytearray()
        self._loose = [_Loose(keep) for _ in range(_BUCKETS)]
        self._has_loose = False
        self._tables: list[_Table] = []
        self.add_packed(b"".join(keys))

    def __len__(self) -> int:
        """How many were added."""
        return self._length

    def __repr__(self) -> str:
        return f"<KeySet of {self._length}, {self._keep.name.lower()}>"

    @property
    def nbytes(self) -> int:
        """What its sorted keys take."""
        return sum(table.nbytes for table in self._tables)

    def add(self, key: bytes) -> None:
        self._fresh.add(key)
        self._length += 1
        if len(self._fresh) >= FRESH:
            fresh, self._fresh = self._fresh, set()
            self._length -= len(fresh)
            self.add_packed(b"".join(fresh))

    def add_packed(self, keys: bytes) -> None:
        """Keys of 16 bytes, one behind the other."""
        self._length += len(keys) // KEY_BYTES
        self._pending += keys
        if len(self._pending) >= _PENDING_BYTES:
            self._distribute()

    def contains(self, key: bytes) -> bool:
        if not self._length:
            return False
        if key in self._fresh:
            return True
        self.settle()
        return any(table.contains(key) for table in self._tables)

    def contains_packed(self, keys: bytes) -> NDArray[np.bool_]:
        """Of each of the keys, one behind the other."""
        rows = _rows(keys)
        found = np.zeros(len(rows), dtype=np.bool_)
        if not self._length or not len(rows):
            return found
        self.settle()
        asked = rows[:, 1 : 1 + self._keep.value.itemsize].copy().view(self._keep.value)[:, 0]
        for table in self._tables:
            found |= table.contains_many(rows[:, 0], asked["head"], asked["tail"])
        if self._fresh:
            found |= [keys[at : at + KEY_BYTES] in self._fresh for at in range(0, len(keys), KEY_BYTES)]
        return found

    # ---------------------------------------------------------------------------- from pending to loose to sorted

    def _distribute(self) -> None:
        pending, self._pending, self._has_loose = bytes(self._pending), bytearray(), True
        first_bytes = _rows(pending)[:, 0].copy()
        order = np.argsort(first_bytes, kind="stable")
        bounds = np.searchsorted(first_bytes[order], np.arange(_BUCKETS + 1))
        ordered = np.frombuffer(pending, dtype=f"V{KEY_BYTES}").take(order)
        kept = _rows(ordered)[:, 1 : 1 + self._keep.value.itemsize]
        for number in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
            self._loose[number].add(kept[bounds[number] : bounds[number + 1]])

    def settle(self) -> None:
        """All that is loose becomes a table, together with smaller ones: of many tables each is far larger than the
        next."""
        if self._pending:
            self._distribute()
        if not self._has_loose:
            return
        self._has_loose = False
        count = sum(map(len, self._loose))
        smaller: list[_Table] = []
        while self._tables and len(self._tables[-1]) <= 2 * count:
            smaller.append(self._tables.pop())
            count += len(smaller[-1])
        self._tables.append(_Table(self._keep, self._loose, smaller, count))


class _Loose:
    """Keys of one first byte, in no order."""

    __slots__ = ("_count", "_keep", "_rows")

    def __init__(self, keep: Keep) -> None:
        self._keep = keep
        self._count = 0
        self._rows = np.empty((0, keep.value.itemsize), dtype=np.uint8)

    def __len__(self) -> int:
        return self._count

    def add(self, kept: NDArray[np.uint8]) -> None:
        if not self._count:  # they may be asked for before more come: then nothing is copied
            self._rows, self._count = kept, len(kept)
            return
        count = self._count + len(kept)
        if count > len(self._rows):
            room = max(count, 2 * len(self._rows), _BUCKET_BYTES // self._keep.value.itemsize)
            larger = _mapped(room * self._keep.value.itemsize).reshape(room, -1)
            larger[: self._count] = self._rows[: self._count]
            self._rows = larger
        self._rows[self._count : count] = kept
        self._count = count

    def taken(self) -> tuple[Words, Words]:
        """Heads and tails, and nothing is left."""
        words = self._rows[: self._count].view(self._keep.value)[:, 0]
        self._count, self._rows = 0, self._rows[:0].copy()
        return words["head"], words["tail"]


class _Table:
    """Keys by their first bytes and, under each of these, sorted by their heads. ``_cells`` says where those begin
    whose first byte and upper bits of the head are the same: few, so that a search ends after a few steps."""

    __slots__ = ("_cell_bits", "_cells", "_heads", "_shift", "_tails", "_views")

    def __init__(self, keep: Keep, loose: Sequence[_Loose], smaller: Sequence[_Table], count: int) -> None:
        """Takes what is in ``loose`` out of it, bucket by bucket."""
        head, tail = (keep.value[name] for name in ("head", "tail"))
        self._heads = _words(count, head)
        self._tails = _words(count, tail)
        self._cell_bits = max(0, (count // (_BUCKETS * _CELL_KEYS)).bit_length() - 1)
        self._shift = 8 * head.itemsize - 1 - self._cell_bits
        self._cells = _words((_BUCKETS << self._cell_bits) + 1, np.dtype(np.uint32 if count < 2**32 else np.uint64))
        #: the same, for one question: an element of a view is a plain number, a numpy scalar takes ten times the time
        self._views = self._heads.data, self._tails.data, self._cells.data
        self._cells.fill(0)
        filled = 0
        for number in range(_BUCKETS):
            parts = [loose[number].taken(), *(table._bucket(number) for table in smaller)]
            heads, tails = (np.concatenate(each) for each in zip(*parts, strict=True))
            self._fill(number, filled, heads, tails)
            filled += len(heads)
        np.cumsum(self._cells, out=self._cells)

    def _fill(self, number: int, start: int, heads: Words, tails: Words) -> None:
        """Puts the keys of one first byte in their place, and counts them by cell."""
        order = np.argsort(heads)
        self._heads[start : start + len(heads)] = heads[order]
        self._tails[start : start + len(heads)] = tails[order]
        counts = np.bincount(self._upper(heads), minlength=1 << self._cell_bits)
        first = (number << self._cell_bits) + 1
        self._cells[first : first + len(counts)] = counts

    def _upper(self, heads: Words) -> NDArray[np.intp]:
        """The bits of heads that choose a cell (two shifts: all bits at once would be none)."""
        upper: NDArray[np.intp] = ((heads >> heads.dtype.type(self._shift)) >> heads.dtype.type(1)).astype(np.intp)
        return upper

    def __len__(self) -> int:
        return len(self._heads)

    @property
    def nbytes(self) -> int:
        return self._heads.nbytes + self._tails.nbytes + self._cells.nbytes

    def _bucket(self, number: int) -> tuple[Words, Words]:
        bounds = slice(int(self._cells[number << self._cell_bits]), int(self._cells[(number + 1) << self._cell_bits]))
        return self._heads[bounds], self._tails[bounds]

    def contains(self, key: bytes) -> bool:
        heads, tails, cells = self._views
        between = 1 + heads.itemsize
        head = int.from_bytes(key[1:between], sys.byteorder)
        cell = (key[0] << self._cell_bits) + (head >> self._shift >> 1)
        stretch = slice(cells[cell], cells[cell + 1])
        if head not in heads[stretch]:
            return False
        tail = int.from_bytes(key[between : between + tails.itemsize], sys.byteorder)
        return any(one == head and other == tail for one, other in zip(heads[stretch], tails[stretch], strict=True))

    def contains_many(self, first_bytes: NDArray[np.uint8], heads: Words, tails: Words) -> NDArray[np.bool_]:
        """All searches take their steps together."""
        cells = (first_bytes.astype(np.intp) << self._cell_bits) + self._upper(heads)
        at = self._cells.take(cells).astype(np.intp)
        end = self._cells.take(cells + 1).astype(np.intp)
        step = 1 << int((end - at).max()).bit_length() >> 1
        while step:  # as many of the cell's heads are smaller as steps can be taken
            ahead = at + (step - 1)
            at += step * ((ahead < end) & (self._heads.take(ahead, mode="clip") < heads))
            step >>= 1
        return self._equal(at, end, heads, tails)

    def _equal(self, at: NDArray[np.intp], end: NDArray[np.intp], heads: Words, tails: Words) -> NDArray[np.bool_]:
        """Whether a key stands at ``at``, or behind it among those of its cell with the same head."""
        has_head = (at < end) & (self._heads.take(at, mode="clip") == heads)
        found: NDArray[np.bool_] = has_head & (self._tails.take(at, mode="clip") == tails)
        while (open_ := has_head & ~found).any():  # hardly ever
            at = at + 1
            has_head = open_ & (at < end) & (self._heads.take(at, mode="clip") == heads)
            found |= has_head & (self._tails.take(at, mode="clip") == tails)
        return found


def _words(count: int, dtype: np.dtype[Any]) -> Words:
    """Room for so many. What a larger table replaces is given back to the system, and leaves no holes in the heap."""
    size = count * dtype.itemsize
    return np.empty(count, dtype) if size >= _LARGE_BYTES else _mapped(size).view(dtype)


def _mapped(count: int) -> NDArray[np.uint8]:
    """So many bytes that are given back to the system at once: 256 buckets that grow would leave holes in the heap."""
    if sys.platform == "win32":
        return np.frombuffer(mmap.mmap(-1, count), dtype=np.uint8)
    return np.frombuffer(mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=np.uint8)


def _rows(keys: bytes | NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES)
