"""Rows as keys: over columns the same as one by one, whatever stands beside them."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from batchvision.checkpoint.row_keys import packed_ids, packed_keys, pair, pairs
from batchvision.keys import key_bytes


@example([("a" * length, "") for length in (0, 3, 4, 5, 63, 64, 65, 200)])
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


def test_an_id_has_the_same_hash_in_any_company() -> None:
    ids = ["", "\0", "\0\0", "a", "a\0", "aa", "é", "sku-00000001", "x" * 64, "x" * 65, "y" * 500, "x" * 64]
    together = packed_ids(pa.array(ids))
    alone = [packed_ids(pa.array([each])) for each in ids]
    assert together == b"".join(alone)
    assert packed_ids(pa.array(["before", *ids, "after"]).slice(1, len(ids))) == together
    assert packed_ids(pa.array(["left", None]).slice(1)) == alone[0]
    assert packed_ids(pa.array([], pa.string())) == b""
    assert len(set(alone)) == len(set(ids))


@given(st.binary(min_size=4, max_size=4), st.integers(0, 15))
def test_one_changed_word_changes_all_four_parts_of_a_hash(word: bytes, place: int) -> None:
    """Of each part the chance to be equal is one in 2^32."""
    before = bytes(64)
    after = before[: 4 * place] + word + before[4 * place + 4 :]
    hashes = packed_ids(pa.array([before, after], pa.binary()).view(pa.string()))
    differing = [hashes[at : at + 4] != hashes[16 + at : 20 + at] for at in range(0, 16, 4)]
    assert all(differing) == any(word)
