"""What a merged part says of itself: names, and the list of what it was made of, also where others have written it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.checkpoint import lineage
from batchvision.checkpoint.lineage import MADE_OF, Ancestor, Name

SEALED = "part-0of1-20261120T220000Z-abc123-pilot-000017.parquet"
MERGED = "part-0of1-20261120T220000Z-abc123-pilot-000017-m0123456789abcdef.parquet"


def test_a_name_says_whose_part_it_is_which_and_whether_it_was_merged() -> None:
    assert Name.of(SEALED) == Name("0of1", "20261120T220000Z-abc123-pilot", 17, None)
    assert Name.of(MERGED) == Name("0of1", "20261120T220000Z-abc123-pilot", 17, "0123456789abcdef")
    assert Name.of("part-12of64-run1-1234567.parquet") == Name("12of64", "run1", 1234567, None)
    for foreign in ("part-0of1.parquet", "part-0of1-run1-17.parquet", "data.parquet", MERGED + ".tmp"):
        assert Name.of(foreign) is None
    assert lineage.first_of(SEALED) == lineage.first_of(MERGED) == SEALED.removesuffix(".parquet")
    with pytest.raises(ValueError, match="no name of a dated part"):
        lineage.first_of("part-0of1.parquet")


def test_a_merged_part_stands_between_its_neighbours() -> None:
    names = [SEALED.replace("17", number) for number in ("16", "17", "18")]
    assert sorted([*names, MERGED]) == [names[0], MERGED, names[1], names[2]]


def test_only_the_bytes_of_its_name_are_those_of_a_merged_part() -> None:
    merged, sealed = Name.of(MERGED), Name.of(SEALED)
    assert merged is not None
    assert sealed is not None
    right, other = "0123456789abcdef" + "0" * 48, "f" * 64
    assert merged.agrees([right])
    assert merged.agrees([other, right]), "it had columns added since"
    assert not merged.agrees([other])
    assert sealed.agrees([other])


def ancestors() -> st.SearchStrategy[Ancestor]:
    rows = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
    digests = st.lists(st.text("0123456789abcdef", min_size=64, max_size=64), min_size=1, max_size=3).map(tuple)
    names = st.sampled_from([SEALED, MERGED])
    made = st.tuples(names, rows, digests)
    return made.map(lambda of: Ancestor(of[0], of[1][0] + of[1][2], of[2], of[1][1], of[1][1] + of[1][0]))


@given(st.lists(ancestors(), max_size=5).map(tuple))
def test_what_is_written_is_read(made_of: tuple[Ancestor, ...]) -> None:
    assert lineage.read({MADE_OF: lineage.written(made_of)}) == made_of
    assert lineage.read(None) == lineage.read({b"other": b"x"}) == ()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.sampled_from([SEALED, "../x.parquet"]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=12,
)


@given(st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_list_that_others_have_written_is_refused_or_names_parts_and_rows(content: bytes) -> None:
    try:
        found = lineage.read({MADE_OF: content})
    except ValueError:
        return
    for each in found:
        assert Name.of(each.name) is not None
        assert 0 <= each.start <= each.stop <= each.start + each.rows


@pytest.mark.parametrize(
    "entry",
    [
        ["../../../etc/passwd", 3, ["ab"], 0, 3],
        [SEALED, 3, ["ab"], 0, 4],
        [SEALED, 3, ["ab"], -1, 1],
        [SEALED, 3, ["ab"], "0", 3],
        [SEALED, 3, 5, 0, 3],
        [SEALED, 3, ["ab"], 0],
        "abcde",
        7,
    ],
)
def test_an_entry_that_is_none_is_refused(entry: object) -> None:
    with pytest.raises(ValueError, match="made of"):
        lineage.read({MADE_OF: json.dumps([entry]).encode()})


def test_brackets_without_end_are_refused() -> None:
    with pytest.raises(ValueError, match="made of"):
        lineage.read({MADE_OF: b"[" * 1_000_000})
