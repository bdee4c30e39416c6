"""Sets of 128-bit keys, 12 bytes a key: sorted numpy arrays in buckets.

A key that was added is always found. Only its first 96 bits are kept. With 20 million keys and 10 million questions,
a wrong "yes" comes less than once in 10^14 runs.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchvision.keys import KEY_BYTES

#: Single keys are kept as Python objects until there are so many.
FRESH = 1_024
#: Packed keys are sorted at the first question, or when there are so many bytes of them.
UNSORTED_BYTES = 2 * 1024 * 1024
#: A key belongs to the bucket of its first 4 bits. Sorting one bucket at a time needs little memory.
BUCKET_BITS = 4
#: A run of a bucket is more than so many times as long as the next one.
_GROWTH = 4
#: Larger arrays are mapped, so that their memory returns to the system when they are replaced.
_MAPPED_BYTES = 128 * 1024

Heads = NDArray[np.uint64]  #: the first 8 bytes of keys
Tails = NDArray[np.uint32]  #: the 4 bytes after them


class KeySet:
    """Add keys and ask for them in any order, from one thread.

    The first question after an addition sorts. After :meth:`settle`, and until the next addition, several threads may
    ask.
    """

    __slots__ = ("_buckets", "_fresh", "_length", "_unsorted", "_unsorted_bytes")

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._length = 0
        self._fresh: set[bytes] = set()
        self._unsorted: list[bytes] = []
        self._unsorted_bytes = 0
        self._buckets = [Bucket() for _ in range(1 << BUCKET_BITS)]
        self.add_packed(b"".join(keys))

    def __len__(self) -> int:
        """The number of additions."""
        return self._length

    def __repr__(self) -> str:
        return f"<KeySet of {self._length}>"

    @property
    def nbytes(self) -> int:
        """Size of the sorted keys."""
        return sum(heads.nbytes + tails.nbytes for bucket in self._buckets for heads, tails in bucket.runs)

    def add(self, key: bytes) -> None:
        self._fresh.add(key)
        self._length += 1
        if len(self._fresh) >= FRESH:
            fresh, self._fresh = self._fresh, set()
            self._length -= len(fresh)
            self.add_packed(b"".join(fresh))

    def add_packed(self, keys: bytes) -> None:
        """Add keys of 16 bytes each, one after the other."""
        self._length += len(keys) // KEY_BYTES
        self._unsorted.append(keys)
        self._unsorted_bytes += len(keys)
        if self._unsorted_bytes >= UNSORTED_BYTES:
            self.settle()

    def settle(self) -> None:
        """Sort every key that was added packed."""
        if not self._unsorted:
            return
        packed, self._unsorted, self._unsorted_bytes = b"".join(self._unsorted), [], 0
        for bucket, _, heads, tails in self._by_bucket(packed):
            bucket.add(heads, tails)

    def merge(self) -> None:
        """Sort each bucket into one run, once every key was added: a question then searches one run, not several."""
        self.settle()
        for bucket in self._buckets:
            bucket.merge()

    def contains(self, key: bytes) -> bool:
        self.settle()
        if key in self._fresh:
            return True
        head, tail = int.from_bytes(key[:8]), int.from_bytes(key[8:12])
        return self._buckets[key[0] >> (8 - BUCKET_BITS)].contains_one(np.uint64(head), tail)

    def find_packed(self, keys: bytes) -> NDArray[np.int64]:
        """The number of each key among the sorted keys, -1 without one. Numbers hold until the next addition.

        ``keys``: 16 bytes each, one after the other.
        """
        self.settle()
        found = np.full(len(keys) // KEY_BYTES, -1, np.int64)
        if not self._length:
            return found
        firsts = dict(zip(self._buckets, accumulate(map(len, self._buckets), initial=0), strict=False))
        for bucket, places, heads, tails in self._by_bucket(keys):
            numbers = bucket.find(heads, tails)
            found[places] = np.where(numbers < 0, numbers, numbers + firsts[bucket])
        return found

    def contains_packed(self, keys: bytes) -> NDArray[np.bool_]:
        """The answer for each of the keys of 16 bytes, one after the other."""
        found: NDArray[np.bool_] = self.find_packed(keys) >= 0
        if self._fresh:
            asked = (keys[at : at + KEY_BYTES] in self._fresh for at in range(0, len(keys), KEY_BYTES))
            found |= np.fromiter(asked, np.bool_, len(found))
        return found

    def _by_bucket(self, packed: bytes) -> Iterable[tuple[Bucket, NDArray[np.intp], Heads, Tails]]:
        """The keys of each bucket in ascending order, with their places in ``packed``."""
        heads = np.frombuffer(packed, ">u8")[::2].astype(np.uint64)
        tails = np.frombuffer(packed, ">u4")[2::4].astype(np.uint32)
        order = np.argsort(heads)
        firsts = np.arange(1, len(self._buckets), dtype=np.uint64) << np.uint64(64 - BUCKET_BITS)
        for bucket, places in zip(self._buckets, np.split(order, np.searchsorted(heads[order], firsts)), strict=True):
            if len(places):
                yield bucket, places, heads[places], tails[places]


class Bucket:
    """Heads with more columns beside them, in sorted runs. Each run is several times as long as the next."""

    __slots__ = ("runs",)

    def __init__(self) -> None:
        self.runs: list[tuple[NDArray[Any], ...]] = []

    def __len__(self) -> int:
        return sum(len(run[0]) for run in self.runs)

    def add(self, *columns: NDArray[Any]) -> None:
        """Add rows, sorted together with the shorter runs. Of equal heads the first added comes first."""
        merged = [columns]
        count = len(columns[0])
        while self.runs and len(self.runs[-1][0]) <= _GROWTH * count:
            merged.insert(0, self.runs.pop())
            count += len(merged[0][0])
        order = np.argsort(np.concatenate([run[0] for run in merged]), kind="stable")  # linear for sorted runs
        self.runs.append(tuple(_taken(parts, order) for parts in zip(*merged, strict=True)))

    def merge(self) -> None:
        if len(self.runs) > 1:
            runs, self.runs = self.runs, []
            self.add(*map(np.concatenate, zip(*runs, strict=True)))

    def contains_one(self, head: np.uint64, tail: int) -> bool:
        for heads, tails in self.runs:
            place = int(heads.searchsorted(head))
            while place < len(heads) and heads[place] == head:
                if tails[place] == tail:
                    return True
                place += 1
        return False

    def find(self, heads: Heads, tails: Tails) -> NDArray[np.int64]:
        """The number of each key in this bucket, -1 without one."""
        found, first = np.full(len(heads), -1, np.int64), 0
        for own_heads, own_tails in self.runs:
            places = np.searchsorted(own_heads, heads)
            has_head = own_heads.take(places, mode="clip") == heads
            while has_head.any():  # a second pass only where two keys have the same head
                is_here = has_head & (own_tails.take(places, mode="clip") == tails)
                found[is_here] = first + places[is_here]
                places += 1
                has_head &= ~is_here & (places < len(own_heads)) & (own_heads.take(places, mode="clip") == heads)
            first += len(own_heads)
        return found


def _taken(parts: Sequence[NDArray[Any]], order: NDArray[np.intp]) -> NDArray[Any]:
    """The elements of all parts in the given order."""
    whole = np.concatenate(parts)
    if whole.nbytes < _MAPPED_BYTES:
        return whole[order]
    memory = mmap.mmap(-1, whole.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return whole.take(order, out=np.frombuffer(memory, whole.dtype), mode="clip")
