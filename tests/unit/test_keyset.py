"""The set of done rows: what is in it is found, what is not is not, few or many, added in one go or in many."""

from __future__ import annotations

import random
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchvision.checkpoint import keyset
from batchvision.checkpoint.keyset import KeySet


def digest(number: int) -> bytes:
    return blake2b(number.to_bytes(8), digest_size=16).digest()


@pytest.mark.parametrize("count", [0, 1, 1_000, keyset.FEW, keyset.FEW + 1, 3 * keyset.FEW])
def test_what_was_added_is_found_and_nothing_else(count):
    keys = KeySet(digest(number) for number in range(count))
    assert len(keys) == count
    asked = [digest(number) for number in random.Random(1).sample(range(2 * count + 10), min(count + 10, 50_000))]
    inside = {digest(number) for number in range(count)}
    assert keys.contains_many(asked) == [each in inside for each in asked]
    assert count == 0 or keys.contains(digest(count - 1))
    assert keys.contains(digest(count)) is False


def test_more_can_be_added_after_a_question():
    keys = KeySet(digest(number) for number in range(keyset.FEW + 5))
    assert not keys.contains(digest(10**9))
    keys.add(digest(10**9))
    keys.add_many(digest(number) for number in range(10**7, 10**7 + 100))
    assert keys.contains(digest(10**9))
    assert all(keys.contains_many([digest(number) for number in range(10**7, 10**7 + 100)]))
    assert all(keys.contains_many([digest(number) for number in range(0, keyset.FEW, 997)]))


def test_no_question_has_no_answer():
    keys = KeySet(digest(number) for number in range(keyset.FEW + 1))
    assert keys.contains_many([]) == []


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.binary(min_size=2, max_size=2), max_size=60),
    st.lists(st.binary(min_size=2, max_size=2), max_size=60),
)
def test_digests_that_share_their_first_64_bits_are_told_apart(present, asked):
    """Heads collide on purpose: the same first eight bytes, other bytes after them."""

    def clash(tail: bytes) -> bytes:
        return bytes(8) + tail + bytes(6)

    keys = KeySet()
    keys._few, keys._buckets = None, [bytearray() for _ in range(256)]
    keys.add_many(clash(tail) for tail in present)
    assert keys.contains_many([clash(tail) for tail in asked]) == [tail in present for tail in asked]


def test_a_million_digests_take_little_more_than_their_twelve_bytes():
    keys = KeySet(digest(number) for number in range(1_000_000))
    assert keys.contains(digest(999_999))
    held = sum(heads.nbytes + tails.nbytes for heads, tails in keys._in_order())
    held += sum(len(bucket) for bucket in keys._buckets)
    assert held == 12 * 1_000_000
