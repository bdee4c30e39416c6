"""Sets of 128-bit keys in little memory, asked one by one or a batch at a time.

The rule: what is in a set is always found. What is not is found by mistake where all bits that the set keeps are equal
by chance: of 104, with 20 million keys and 10 million questions, less than once in 10^16 runs; of 56 (``Keep.HINT``)
once in some hundred, so that a "yes" there is looked up again before anything is made of it.
"""

from __future__ import annotations

import sys
from binascii import unhexlify
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.keys import KEY_BYTES, digests_after, key_bytes

#: Keys that come one by one wait here, and are sorted in together.
FRESH = 20_000
_PENDING_BYTES = 64 * 1024 * KEY_BYTES
_BUCKETS = 256  #: by the first byte: sorting one at a time needs little room

Words = NDArray[np.unsignedinteger[Any]]


class Keep(Enum):
    """How much of a key is kept beside its first byte: a head, by which it is sorted, and a tail."""

    SURE = np.dtype([("head", np.uint64), ("tail", np.uint32)])
    HINT = np.dtype([("head", np.uint32), ("tail", np.uint16)])


class KeySet:
    """Add and ask in any order; the first question after many were added sorts them."""

    __slots__ = ("_fresh", "_has_loose", "_keep", "_length", "_loose", "_pending", "_sorted")

    def __init__(self, keys: Iterable[bytes] = (), keep: Keep = Keep.SURE) -> None:
        self._keep = keep
        self._length = 0
        self._fresh: set[bytes] = set()
        self._pending = bytearray()
        self._loose = [bytearray() for _ in range(_BUCKETS)]
        self._has_loose = False
        self._sorted: list[_Bucket] = [_Bucket.of(b"", keep)] * _BUCKETS
        self.add_packed(b"".join(keys))

    def __len__(self) -> int:
        """How many were added."""
        return self._length

    def __repr__(self) -> str:
        return f"<KeySet of {self._length}, {self._keep.name.lower()}>"

    @property
    def nbytes(self) -> int:
        """What its sorted keys take."""
        return sum(bucket.nbytes for bucket in self._sorted)

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
        self._settle()
        return self._sorted[key[0]].contains(key)

    def contains_packed(self, keys: bytes) -> NDArray[np.bool_]:
        """Of each of the keys, one behind the other."""
        rows = _rows(keys)
        found = np.zeros(len(rows), dtype=np.bool_)
        if not self._length or not len(rows):
            return found
        self._settle()
        order, bounds = _by_first_byte(rows)
        asked = np.frombuffer(rows[order, 1 : 1 + self._keep.value.itemsize].tobytes(), dtype=self._keep.value)
        heads, tails = asked["head"].copy(), asked["tail"].copy()
        inside = np.zeros(len(rows), dtype=np.bool_)
        for number in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
            stretch = slice(bounds[number], bounds[number + 1])
            inside[stretch] = self._sorted[number].contains_many(heads[stretch], tails[stretch])
        found[order] = inside
        if self._fresh:
            found |= [keys[at : at + KEY_BYTES] in self._fresh for at in range(0, len(keys), KEY_BYTES)]
        return found

    # ---------------------------------------------------------------------------- from pending to loose to sorted

    def _distribute(self) -> None:
        pending, self._pending, self._has_loose = bytes(self._pending), bytearray(), True
        rows = _rows(pending)
        order, bounds = _by_first_byte(rows)
        kept = rows[order, 1 : 1 + self._keep.value.itemsize]
        for number in np.flatnonzero(bounds[1:] > bounds[:-1]).tolist():
            self._loose[number] += kept[bounds[number] : bounds[number + 1]].tobytes()

    def _settle(self) -> None:
        if self._pending:
            self._distribute()
        if not self._has_loose:
            return
        self._has_loose = False
        for number, loose in enumerate(self._loose):
            if loose:
                self._loose[number] = bytearray()
                self._sorted[number] = self._sorted[number].with_more(bytes(loose))


class _Bucket:
    """The keys of one first byte, sorted by their heads."""

    __slots__ = ("_heads", "_keep", "_tails")

    def __init__(self, heads: Words, tails: Words, keep: Keep) -> None:
        self._heads = heads
        self._tails = tails
        self._keep = keep

    @classmethod
    def of(cls, kept: bytes, keep: Keep) -> _Bucket:
        words = np.frombuffer(kept, dtype=keep.value)
        return cls(words["head"], words["tail"], keep)

    @property
    def nbytes(self) -> int:
        return self._heads.nbytes + self._tails.nbytes

    def with_more(self, kept: bytes) -> _Bucket:
        more = self.of(kept, self._keep)
        heads, tails = np.concatenate([self._heads, more._heads]), np.concatenate([self._tails, more._tails])
        order = np.argsort(heads)
        return _Bucket(heads[order], tails[order], self._keep)

    def contains(self, key: bytes) -> bool:
        heads, between = self._heads, 1 + self._heads.itemsize
        head = heads.dtype.type(int.from_bytes(key[1:between], sys.byteorder))
        tail = int.from_bytes(key[between : between + self._tails.itemsize], sys.byteorder)
        at = int(heads.searchsorted(head))
        while at < len(heads) and heads[at] == head:  # hardly ever more than once
            if int(self._tails[at]) == tail:
                return True
            at += 1
        return False

    def contains_many(self, heads: Words, tails: Words) -> NDArray[np.bool_]:
        """One binary search a key."""
        if not len(self._heads):
            return np.zeros(len(heads), dtype=np.bool_)
        at = self._heads.searchsorted(heads)
        has_head = self._heads.take(at, mode="clip") == heads  # behind the last: the last, which is another
        found: NDArray[np.bool_] = has_head & (self._tails.take(at, mode="clip") == tails)
        while (open_ := has_head & ~found).any():  # hardly ever
            at = at + 1
            has_head = open_ & (at < len(self._heads)) & (self._heads.take(at, mode="clip") == heads)
            found |= has_head & (self._tails.take(at, mode="clip") == tails)
        return found


def _rows(keys: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(keys, dtype=np.uint8).reshape(-1, KEY_BYTES)


def _by_first_byte(rows: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """An order by the first byte, and where each byte's stretch begins and ends in it."""
    order = np.argsort(rows[:, 0], kind="stable")
    return order, np.searchsorted(rows[order, 0], np.arange(_BUCKETS + 1))


# ---------------------------------------------------------------------------------- rows as keys


def pair(row_id: str, key: str) -> bytes:
    """A row under one of its keys (request_key or skip_key) as one key."""
    both = int.from_bytes(_ids((row_id.encode("utf-8", "surrogatepass"),))) ^ int.from_bytes(key_bytes(key))
    return both.to_bytes(KEY_BYTES)


def pairs(ids: bytes, keys: bytes) -> bytes:
    """:func:`pair` of many rows, one behind the other, of their :func:`packed_ids` and the bytes of their keys."""
    return (np.frombuffer(ids, dtype=np.uint64) ^ np.frombuffer(keys, dtype=np.uint64)).tobytes()


def packed_ids(ids: pa.Array) -> bytes:
    """The hashes of row_ids, one behind the other; they are kept nowhere."""
    return _ids(ids.cast(pa.binary()).to_pylist())


def packed_keys(keys: pa.Array) -> bytes:
    """``keys.key_bytes`` of a column, one behind the other; null counts as ""."""
    texts = pc.fill_null(keys, "").cast(pa.string())
    if len(texts) and pc.all(pc.equal(pc.binary_length(texts), 2 * KEY_BYTES)).as_py():
        _, starts, digits = texts.buffers()
        first = int(np.frombuffer(starts, dtype=np.int32)[texts.offset])
        with suppress(ValueError):
            return unhexlify(memoryview(digits)[first : first + 2 * KEY_BYTES * len(texts)])
    return b"".join(map(key_bytes, texts.to_pylist()))


def _ids(ids: Iterable[bytes]) -> bytes:
    return digests_after(b"id-1:", ids)
