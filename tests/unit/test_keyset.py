"""The set of done rows: what is in it is found, what is not is not, few or many, added in one go or in many."""

from __future__ import annotations

import random
from hashlib import blake2b

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchvision.checkpoint import keyset
from batchvision.checkpoint.keyset import Keep, KeySet, packed_ids, packed_keys, pair, pairs
from batchvision.keys import key_bytes

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


@settings(max_examples=200, deadline=None)
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


@pytest.mark.parametrize(("keep", "each_bytes"), [(Keep.SURE, 12), (Keep.HINT, 6)])
def test_a_million_keys_take_their_few_bytes_each(keep: Keep, each_bytes: int) -> None:
    keys = KeySet((key(number) for number in range(1_000_000)), keep)
    assert keys.contains(key(999_999))
    assert keys.nbytes == each_bytes * 1_000_000
    assert not any(keys._loose)
    assert not keys._pending


@given(st.lists(st.tuples(st.text(), st.one_of(st.text(), st.binary(min_size=16, max_size=16).map(bytes.hex)))))
def test_rows_over_columns_are_the_rows_one_by_one(rows: list[tuple[str, str]]) -> None:
    storable = [(row_id, each) for row_id, each in rows if not _has_surrogates(row_id + each)]
    ids, keys = (pa.array([row[n] for row in storable], pa.string()) for n in (0, 1))
    joined = pairs(packed_ids(ids), packed_keys(keys))
    assert joined == b"".join(pair(row_id, each) for row_id, each in storable)


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def test_a_key_is_the_bytes_that_its_digits_say() -> None:
    digits = "00112233445566778899aabbccddeeff"
    assert key_bytes(digits) == bytes(range(0, 256, 17))
    odd = ["", "key1", "zz" * 16, "00 " * 10 + "11", digits.upper()]
    assert {len(key_bytes(each)) for each in odd} == {16}
    assert packed_keys(pa.array([digits, digits])) == key_bytes(digits) * 2
    assert packed_keys(pa.array([digits, None, "key1"])) == b"".join(map(key_bytes, [digits, "", "key1"]))
    assert packed_keys(pa.array(["zz" * 16])) == key_bytes("zz" * 16)
    assert packed_keys(pa.array(["key1", digits, digits[::-1]]).slice(1, 2)) == key_bytes(digits) + key_bytes(
        digits[::-1]
    )
