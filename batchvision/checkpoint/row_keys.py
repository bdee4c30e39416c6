"""Rows as keys of 16 bytes: the hash of a row_id joined with the row's request_key or skip_key.

Hashes of row_ids live in one process and are written nowhere. Ids of up to 64 bytes are hashed over columns by
multilinear, strongly universal functions (Lemire and Kaser, "Strongly universal string hashing is fast"). Each process
draws its own functions. Two different ids have equal hashes once in 2^128.
"""

from __future__ import annotations

import os
import struct
from binascii import unhexlify
from contextlib import suppress
from hashlib import blake2b
from operator import mul

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchvision.keys import KEY_BYTES, key_bytes

_MOST_WORDS = 16
_WORD_BYTES = 4
#: Of longer ids the functions would take more time than BLAKE2b does.
_MOST_BYTES = _MOST_WORDS * _WORD_BYTES
_LANES = KEY_BYTES // _WORD_BYTES
#: For each of four functions: a constant, a factor for the id's length, and one for each word of it.
_FACTORS: NDArray[np.uint64] = np.frombuffer(os.urandom(8 * (2 + _MOST_WORDS) * _LANES), dtype=np.uint64).reshape(
    -1, _LANES
)
_CONSTANTS = [int(each) for each in _FACTORS[0]]
_BY_LANE = [[int(each) for each in lane] for lane in _FACTORS[1:].T]
_NO_TEXT = pa.scalar("", pa.string())


def pair(row_id: str, key: str) -> bytes:
    """A row under one of its keys (request_key or skip_key) as one key."""
    both = int.from_bytes(_hashed(row_id.encode("utf-8", "surrogatepass"))) ^ int.from_bytes(key_bytes(key))
    return both.to_bytes(KEY_BYTES)


def pairs(ids: bytes, keys: bytes) -> bytes:
    """:func:`pair` of many rows, one behind the other, of their :func:`packed_ids` and the bytes of their keys."""
    return (np.frombuffer(ids, dtype=np.uint64) ^ np.frombuffer(keys, dtype=np.uint64)).tobytes()


def packed_ids(ids: pa.Array) -> bytes:
    """The hashes of row_ids, one behind the other; null counts as ""."""
    texts = pc.fill_null(ids, _NO_TEXT).cast(pa.string())
    _, ends, content = texts.buffers()
    if not len(texts):
        return b""
    bounds = np.frombuffer(ends, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    letters = np.frombuffer(content or b"\0", dtype=np.uint8)
    lengths = np.diff(bounds)
    hashes = _hashed_columns(letters, bounds[:-1], lengths)
    for place in np.flatnonzero(lengths > _MOST_BYTES).tolist():
        raw = letters[bounds[place] : bounds[place + 1]].tobytes()
        hashes[place] = np.frombuffer(_hashed(raw), dtype="<u4")
    return hashes.tobytes()


def packed_keys(keys: pa.Array) -> bytes:
    """``keys.key_bytes`` of a column, one behind the other; null counts as ""."""
    texts = pc.fill_null(keys, _NO_TEXT).cast(pa.string())
    _, ends, digits = texts.buffers()
    if len(texts):
        bounds = np.frombuffer(ends, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
        if (np.diff(bounds) == 2 * KEY_BYTES).all():
            with suppress(ValueError):
                return unhexlify(memoryview(digits)[bounds[0] : bounds[-1]])
    return b"".join(map(key_bytes, texts.to_pylist()))


# ---------------------------------------------------------------------------------- hashing


def _hashed_columns(
    letters: NDArray[np.uint8], starts: NDArray[np.int32], lengths: NDArray[np.int32]
) -> NDArray[np.uint32]:
    """:func:`_hashed` of each id of up to ``_MOST_BYTES``, as four words; of longer ones nothing of use."""
    width = -(-min(int(lengths.max()), _MOST_BYTES) // _WORD_BYTES)
    columns = np.arange(width * _WORD_BYTES, dtype=np.int32)
    within = letters.take(starts[:, None] + columns, mode="clip")
    within *= columns < lengths[:, None]
    words = np.empty((len(lengths), 1 + width), dtype=np.uint64)
    words[:, 0] = lengths
    words[:, 1:] = within.view("<u4")
    sums = words @ _FACTORS[1 : 2 + width] + _FACTORS[0]
    hashes: NDArray[np.uint32] = (sums >> np.uint64(32)).astype("<u4")
    return hashes


def _hashed(raw: bytes) -> bytes:
    """The hash of one id; zeros behind it do not count, its length does."""
    if len(raw) > _MOST_BYTES:
        return blake2b(raw, digest_size=KEY_BYTES).digest()
    width = -(-len(raw) // _WORD_BYTES)
    words = (len(raw), *struct.unpack(f"<{width}I", raw.ljust(width * _WORD_BYTES, b"\0")))
    sums = (constant + sum(map(mul, words, factors)) for constant, factors in zip(_CONSTANTS, _BY_LANE, strict=True))
    return struct.pack("<4I", *((each >> 32) & 0xFFFFFFFF for each in sums))
