"""A set of keys finds every key that was added and no other, few or many, added one by one or packed."""

from __future__ import annotations

import random
import sys
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchvision.checkpoint.keyset import FRESH, UNSORTED_BYTES, KeySet

MANY = UNSORTED_BYTES // 16


def key(number: int) -> bytes:
    return blake2b(number.to_bytes(8), digest_size=16).digest()


def found(keys: KeySet, asked: list[bytes]) -> list[bool]:
    return list(map(bool, keys.contains_packed(b"".join(asked))))


@pytest.mark.parametrize("count", [0, 1, 1_000, MANY, MANY + 1])
def test_every_added_key_is_found_and_no_other(count: int) -> None:
    keys = KeySet(map(key, range(count)))
    assert len(keys) == count
    asked = random.Random(1).sample(range(2 * count + 10), min(count + 10, 20_000))
    assert found(keys, list(map(key, asked))) == [number < count for number in asked]
    assert [keys.contains(key(number)) for number in asked[:500]] == [number < count for number in asked[:500]]


def test_single_keys_are_found_at_once_and_ever_after() -> None:
    keys = KeySet(map(key, range(10_000)))
    assert not keys.contains(key(10**9))
    for number in range(10**9, 10**9 + 2 * FRESH + 7):
        keys.add(key(number))
        assert keys.contains(key(number))
    keys.add_packed(b"".join(key(number) for number in range(10**7, 10**7 + 100)))
    assert len(keys) == 10_000 + 2 * FRESH + 7 + 100
    some = [*range(0, 10_000, 97), *range(10**9, 10**9 + 2 * FRESH + 7, 501), *range(10**7, 10**7 + 100)]
    assert all(keys.contains(key(number)) for number in some)
    assert all(found(keys, list(map(key, some))))
    assert found(keys, []) == []
    assert not any(found(keys, [key(number) for number in range(10**8, 10**8 + 1_000)]))


@settings(max_examples=200)
@given(
    st.lists(st.sets(st.binary(min_size=2, max_size=2), max_size=30), max_size=4),
    st.lists(st.binary(min_size=2, max_size=2), max_size=60),
)
def test_keys_that_share_their_first_72_bits_are_told_apart(added: list[set[bytes]], asked: list[bytes]) -> None:
    def clash(tail: bytes) -> bytes:
        return bytes(9) + tail + bytes(5)

    keys = KeySet()
    for some in added:
        keys.add_packed(b"".join(map(clash, sorted(some))))
        keys.settle()
    present = set[bytes]().union(*added)
    assert found(keys, list(map(clash, asked))) == [tail in present for tail in asked]
    assert [keys.contains(clash(tail)) for tail in asked] == [tail in present for tail in asked]


@pytest.mark.parametrize("rest", [bytes(15), b"\xff" * 15, key(1)[1:]])
def test_keys_that_differ_in_their_first_byte_alone_are_told_apart(rest: bytes) -> None:
    keys = KeySet(bytes([first]) + rest for first in range(1, 256, 2))
    asked = [bytes([first]) + rest for first in range(256)]
    assert found(keys, asked) == [first % 2 == 1 for first in range(256)]
    assert list(map(keys.contains, asked)) == [first % 2 == 1 for first in range(256)]


def test_a_set_that_grows_between_questions_holds_few_runs() -> None:
    keys, each = KeySet(), 1_000
    for turn in range(40):
        keys.add_packed(b"".join(key(number) for number in range(turn * each, (turn + 1) * each)))
        assert keys.contains(key(turn * each))
        assert not keys.contains(key(10**9 + turn))
    assert all(len(bucket.runs) < 7 for bucket in keys._buckets)
    assert all(found(keys, [key(number) for number in range(40 * each)]))


def test_a_million_keys_take_12_bytes_each() -> None:
    keys = KeySet(map(key, range(1_000_000)))
    assert keys.contains(key(999_999))
    assert keys.nbytes == 12 * 1_000_000
    assert not keys._unsorted


def test_single_keys_take_half_a_mebibyte_before_they_are_sorted() -> None:
    keys, count = KeySet(), 4 * FRESH
    for number in range(count):
        assert not keys.contains(key(number))
        keys.add(key(number))
        assert sys.getsizeof(keys._fresh) + len(keys._fresh) * (sys.getsizeof(key(0)) + 15) <= 512 * 1024
    assert keys.contains(key(0))
    assert keys.nbytes == 12 * count


def test_a_merged_set_has_one_run_a_bucket_and_numbers_each_key_once() -> None:
    keys, each = KeySet(), 1_000
    for turn in range(10):
        keys.add_packed(b"".join(key(number) for number in range(turn * each, (turn + 1) * each)))
        keys.settle()
    assert any(len(bucket.runs) > 1 for bucket in keys._buckets)
    keys.merge()
    assert all(len(bucket.runs) == 1 for bucket in keys._buckets)
    numbers = keys.find_packed(b"".join(map(key, range(10 * each))))
    assert sorted(numbers.tolist()) == list(range(10 * each))
    assert keys.find_packed(b"".join(map(key, range(10 * each, 11 * each)))).tolist() == [-1] * each
