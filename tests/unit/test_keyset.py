"""The set of done rows: what is in it is found, what is not is not, few or many, added in one go or in many."""

from __future__ import annotations

import random
import sys
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchvision.checkpoint import keyset
from batchvision.checkpoint.keyset import Keep, KeySet

PENDING = keyset._PENDING_BYTES // 16


def key(number: int) -> bytes:
    return blake2b(number.to_bytes(8), digest_size=16).digest()


def found(keys: KeySet, asked: list[bytes]) -> list[bool]:
    return list(map(bool, keys.contains_packed(b"".join(asked))))


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize("count", [0, 1, 1_000, PENDING, PENDING + 1, 3 * PENDING])
def test_what_was_added_is_found_and_nothing_else(count: int, keep: Keep) -> None:
    keys = KeySet((key(number) for number in range(count)), keep)
    assert len(keys) == count
    asked = random.Random(1).sample(range(2 * count + 10), min(count + 10, 20_000))
    assert found(keys, list(map(key, asked))) == [number < count for number in asked]
    assert [keys.contains(key(number)) for number in asked[:500]] == [number < count for number in asked[:500]]


@pytest.mark.parametrize("keep", Keep)
def test_keys_that_come_one_by_one_are_found_at_once_and_ever_after(keep: Keep) -> None:
    keys = KeySet((key(number) for number in range(PENDING + 5)), keep)
    assert not keys.contains(key(10**9))
    for number in range(10**9, 10**9 + 2 * keyset.FRESH + 7):
        keys.add(key(number))
    keys.add_packed(b"".join(key(number) for number in range(10**7, 10**7 + 100)))
    assert len(keys) == PENDING + 5 + 2 * keyset.FRESH + 7 + 100
    some = [*range(0, PENDING, 997), *range(10**9, 10**9 + 2 * keyset.FRESH + 7, 501), *range(10**7, 10**7 + 100)]
    assert all(keys.contains(key(number)) for number in some)
    assert all(found(keys, list(map(key, some))))
    assert found(keys, [key(-number) for number in range(0)]) == []
    assert not any(found(keys, [key(number) for number in range(10**8, 10**8 + 1_000)]))


@settings(max_examples=200)
@given(
    st.sets(st.binary(min_size=2, max_size=2), max_size=60),
    st.lists(st.binary(min_size=2, max_size=2), max_size=60),
)
def test_keys_that_share_their_first_72_bits_are_told_apart(present: set[bytes], asked: list[bytes]) -> None:
    """Heads collide on purpose: the same first nine bytes, other bytes after them."""

    def clash(tail: bytes) -> bytes:
        return bytes(9) + tail + bytes(5)

    keys = KeySet(map(clash, present))
    assert found(keys, list(map(clash, asked))) == [tail in present for tail in asked]
    assert [keys.contains(clash(tail)) for tail in asked] == [tail in present for tail in asked]


@pytest.mark.parametrize("keep", Keep)
@pytest.mark.parametrize("rest", [bytes(15), b"\xff" * 15, key(1)[1:]])
def test_keys_that_differ_in_their_first_byte_alone_are_told_apart(keep: Keep, rest: bytes) -> None:
    keys = KeySet((bytes([first]) + rest for first in range(1, 256, 2)), keep)
    asked = [bytes([first]) + rest for first in range(256)]
    assert found(keys, asked) == [first % 2 == 1 for first in range(256)]
    assert list(map(keys.contains, asked)) == [first % 2 == 1 for first in range(256)]


@pytest.mark.parametrize("keep", Keep)
def test_sets_that_grow_between_questions_hold_few_tables(keep: Keep) -> None:
    keys, each = KeySet(keep=keep), 1_000
    for turn in range(40):
        keys.add_packed(b"".join(key(number) for number in range(turn * each, (turn + 1) * each)))
        assert keys.contains(key(turn * each))
        assert not keys.contains(key(10**9 + turn))
    assert len(keys._tables) < 6
    assert all(found(keys, [key(number) for number in range(40 * each)]))


@pytest.mark.parametrize(("keep", "each_bytes"), [(Keep.SURE, 12), (Keep.HINT, 6)])
def test_a_million_keys_take_their_few_bytes_each(keep: Keep, each_bytes: int) -> None:
    keys = KeySet((key(number) for number in range(1_000_000)), keep)
    assert keys.contains(key(999_999))
    assert each_bytes * 1_000_000 <= keys.nbytes <= (each_bytes + 0.5) * 1_000_000
    assert not any(map(len, keys._loose))
    assert not keys._pending


@pytest.mark.parametrize(("keep", "each_bytes"), [(Keep.SURE, 13), (Keep.HINT, 7)])
def test_keys_that_come_one_by_one_take_few_bytes_each_and_half_a_mebibyte_while_they_wait(
    keep: Keep, each_bytes: int
) -> None:
    keys, count = KeySet(keep=keep), 4 * keyset.FRESH
    for number in range(count):
        assert not keys.contains(key(number))
        keys.add(key(number))
        waiting = sys.getsizeof(keys._fresh) + len(keys._fresh) * (sys.getsizeof(key(0)) + 15)
        assert waiting + len(keys._pending) <= 512 * 1024
    assert keys.contains(key(0))
    assert count - keyset.FRESH <= sum(map(len, keys._tables)) <= count
    assert keys.nbytes <= each_bytes * count + 4_096
