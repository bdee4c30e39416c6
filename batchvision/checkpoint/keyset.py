"""A set of digests in little memory: 12 bytes each, however many rows are done.

The rule: what is in the set is always found. What is not is found by mistake with the first 96 bits of a digest equal
by chance: for 20 million digests and 10 million questions that is less than 1 in 10^14.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Up to so many, a Python set is quicker, and numpy need not be loaded.
FEW = 100_000
_KEPT_BYTES = 12
_BUCKETS = 256  #: by the first byte: sorting one at a time needs little room


class KeySet:
    """Add everything first, then ask: the first question sorts (adding afterwards is allowed, and sorts again)."""

    __slots__ = ("_buckets", "_few", "_length", "_sorted")

    def __init__(self, digests: Iterable[bytes] = ()) -> None:
        self._few: set[bytes] | None = set()
        self._buckets: list[bytearray] = []
        self._sorted: list[tuple[NDArray[np.uint64], NDArray[np.uint32]]] | None = None
        self._length = 0
        self.add_many(digests)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"<KeySet of {self._length}{'' if self._few is not None else ', sorted' if self._sorted else ', loose'}>"

    def add(self, digest: bytes) -> None:
        self.add_many((digest,))

    def add_many(self, digests: Iterable[bytes]) -> None:
        if self._few is not None:
            self._few.update(digests)
            self._length = len(self._few)
            if self._length <= FEW:
                return
            digests, self._few = self._few, None
            self._buckets = [bytearray() for _ in range(_BUCKETS)]
            self._length = 0
        self._loosen()
        buckets = self._buckets
        for digest in digests:
            buckets[digest[0]] += digest[:_KEPT_BYTES]
            self._length += 1

    def contains(self, digest: bytes) -> bool:
        if self._few is not None:
            return digest in self._few
        return self.contains_many((digest,))[0]

    def contains_many(self, digests: Iterable[bytes]) -> list[bool]:
        if self._few is not None:
            few = self._few
            return [digest in few for digest in digests]
        asked = list(digests)
        return self._found(asked) if asked else []

    # ---------------------------------------------------------------------------- in numpy

    def _found(self, asked: Sequence[bytes]) -> list[bool]:
        """One binary search a digest, all digests of a bucket at once."""
        import numpy as np

        head, tail = _halves(b"".join(digest[:_KEPT_BYTES] for digest in asked))
        found = np.zeros(len(asked), dtype=bool)
        buckets = (head >> np.uint64(56)).astype(np.intp)
        order = np.argsort(buckets, kind="stable")
        bounds = np.searchsorted(buckets[order], np.arange(_BUCKETS + 1))
        for bucket, (heads, tails) in enumerate(self._in_order()):
            places = order[bounds[bucket] : bounds[bucket + 1]]
            if not len(places) or not len(heads):
                continue
            at = np.searchsorted(heads, head[places])
            while True:  # more than once only where the first 64 bits of two digests are equal
                inside = at < len(heads)
                near = np.where(inside, at, 0)
                same_head = inside & (heads[near] == head[places])
                found[places] |= same_head & (tails[near] == tail[places])
                if not (same_head & ~found[places]).any():
                    break
                at = at + 1
        return list(map(bool, found))

    def _in_order(self) -> list[tuple[NDArray[np.uint64], NDArray[np.uint32]]]:
        import numpy as np

        if self._sorted is None:
            self._sorted = []
            for number, bucket in enumerate(self._buckets):
                heads, tails = _halves(bytes(bucket))
                self._buckets[number] = bytearray()  # its bytes are in the halves now
                order = np.argsort(heads, kind="stable")
                self._sorted.append((heads[order], tails[order]))
        return self._sorted

    def _loosen(self) -> None:
        """Back to bytes, so that more can be added."""
        if self._sorted is not None:
            for number, (heads, tails) in enumerate(self._sorted):
                self._buckets[number] = bytearray(_joined(heads, tails))
            self._sorted = None


def _record() -> Any:
    import numpy as np

    return np.dtype([("head", ">u8"), ("tail", ">u4")])


def _halves(raw: bytes) -> tuple[NDArray[np.uint64], NDArray[np.uint32]]:
    """12-byte keys as their first 64 and their last 32 bits."""
    import numpy as np

    records = np.frombuffer(raw, dtype=_record())
    return records["head"].astype(np.uint64), records["tail"].astype(np.uint32)


def _joined(heads: NDArray[np.uint64], tails: NDArray[np.uint32]) -> bytes:
    import numpy as np

    records = np.empty(len(heads), dtype=_record())
    records["head"], records["tail"] = heads, tails
    return records.tobytes()
