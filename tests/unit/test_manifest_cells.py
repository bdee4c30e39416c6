"""What cells say as text, and how kept cells travel: exact, and the same from every encoding."""

from __future__ import annotations

import struct
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.checkpoint.cells import array_of, caster, storable
from batchvision.manifest.cells import cell_texts, json_text, python_values
from batchvision.manifest.keeping import common_type, has_nul, keep_cells, keep_type, made_storable, survey_types
from batchvision.manifest.parquet_child import normal_type, normalised

MOMENT = datetime(2026, 11, 20, 23, 59, 59, 120_000, tzinfo=UTC)
UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def texts(values: list[Any], given: pa.DataType | None = None) -> list[str | None]:
    array = normalised(pa.array(values, given))
    return list(cell_texts(array, pa.field("x", array.type)).to_pylist())


@pytest.mark.parametrize(
    ("value", "given", "text"),
    [
        ("007", pa.string(), "007"),
        ("é", pa.large_string(), "é"),
        ("é", pa.string_view(), "é"),
        (2**63 - 1, pa.int64(), "9223372036854775807"),
        (2**64 - 1, pa.uint64(), "18446744073709551615"),
        (-(2**53) - 1, pa.int64(), "-9007199254740993"),
        (True, pa.bool_(), "true"),
        (1.0, pa.float64(), "1.0"),
        (0.1, pa.float64(), "0.1"),
        (0.1, pa.float32(), "0.1"),
        (1e20, pa.float64(), "1e+20"),
        (float("nan"), pa.float64(), "NaN"),
        (float("-inf"), pa.float32(), "-Infinity"),
        (Decimal("1.10"), pa.decimal128(10, 2), "1.10"),
        (Decimal("0.0000000001"), pa.decimal128(38, 10), "0.0000000001"),
        (date(2026, 1, 2), pa.date32(), "2026-01-02"),
        (date(2026, 1, 2), pa.date64(), "2026-01-02"),
        (MOMENT, pa.timestamp("us", "UTC"), "2026-11-20T23:59:59.12Z"),
        (MOMENT, pa.timestamp("ns", "Asia/Tokyo"), "2026-11-20T23:59:59.12Z"),
        (MOMENT.replace(microsecond=0), pa.timestamp("ms", "UTC"), "2026-11-20T23:59:59Z"),
        (datetime(2026, 1, 2), pa.timestamp("s"), "2026-01-02T00:00:00"),  # noqa: DTZ001 - a naive one is meant
        (time(12, 30), pa.time64("us"), "12:30:00"),
        (timedelta(seconds=2), pa.duration("ms"), "2000"),
        (b"\x00\xff", pa.binary(), "00ff"),
        (b"\x00\xff", pa.binary(2), "00ff"),
        (UUID.bytes, pa.binary(16), str(UUID)),
        (UUID.bytes, pa.uuid(), str(UUID)),
        (["a", None, "b"], pa.list_(pa.string()), "a, b"),
        ([1, 2], pa.large_list(pa.int8()), "1, 2"),
        ([], pa.list_(pa.string()), ""),
        ([["a"], ["b", "c"]], pa.list_(pa.list_(pa.string())), "a, b, c"),
        ({"b": 1, "a": MOMENT}, pa.struct([("b", pa.int8()), ("a", pa.timestamp("us", "UTC"))]),
         '{"b":1,"a":"2026-11-20T23:59:59.12Z"}'),
        ([("k", 1)], pa.map_(pa.string(), pa.int8()), '{"k":1}'),
    ],
)  # fmt: skip
def test_a_cell_has_one_plain_text(value: Any, given: pa.DataType, text: str) -> None:
    assert texts([value, None], given) == [text, None]


def test_dictionaries_and_slices_read_like_plain_columns() -> None:
    categories = pa.array(["a", None, "b", "a"]).dictionary_encode()
    assert cell_texts(normalised(categories.slice(1)), pa.field("x", pa.string())).to_pylist() == [None, "b", "a"]
    lists = pa.array([["a"], ["b", "c"], None, ["d"]]).slice(1)
    assert cell_texts(lists, pa.field("x", lists.type)).to_pylist() == ["b, c", None, "d"]


def test_half_floats_become_floats_that_hold_them() -> None:
    array = normalised(pa.array([0.5, 0.099975586, None], pa.float32()).cast(pa.float16()))
    assert array.type == pa.float32()
    assert cell_texts(array, pa.field("x", array.type)).to_pylist() == ["0.5", "0.099975586", None]


def test_nested_dictionaries_and_views_are_normalised() -> None:
    given = pa.struct([("a", pa.dictionary(pa.int8(), pa.string())), ("b", pa.list_(pa.string_view()))])
    array = normalised(pa.array([{"a": "x", "b": ["y"]}], given))
    assert array.type == normal_type(given) == pa.struct([("a", pa.string()), ("b", pa.list_(pa.string()))])
    assert array.to_pylist() == [{"a": "x", "b": ["y"]}]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_short_floats_read_back_as_themselves(value: float) -> None:
    (text,) = texts([value], pa.float32())
    assert text is not None
    assert struct.pack("f", float(text)) == struct.pack("f", value)


@given(st.integers(-(2**62), 2**62))
def test_a_moment_has_the_same_text_in_every_unit_that_can_hold_it(value: int) -> None:
    seconds = value % 4_000_000_000
    found = {
        texts([seconds * scale], pa.timestamp(unit, "UTC"))[0]
        for unit, scale in (("s", 1), ("ms", 10**3), ("ns", 10**9))
    }
    assert len(found) == 1


def test_values_without_a_json_type_become_text() -> None:
    value = {
        "n": float("nan"),
        "d": Decimal("1.10"),
        "b": b"ab",
        "l": [float("inf"), 1.0],
    }
    assert json_text(value) == '{"n":"NaN","d":"1.10","b":"YWI=","l":["Infinity",1.0]}'


MOST = 2**63 - 1


@pytest.mark.parametrize(
    ("inner", "value", "text"),
    [
        (pa.time64("us"), time(1, 2), '"01:02:00"'),
        (pa.duration("ms"), timedelta(seconds=1), "1.0"),
        (pa.timestamp("ns"), 1, '"1970-01-01T00:00:00.000000001"'),
        (pa.timestamp("s"), 300_000_000_000, '"11476-08-15T05:20:00"'),
        (pa.timestamp("s"), 2**40, '"<value out of range: 1099511627776>"'),
        (pa.date32(), 2**31 - 1, '"<value out of range: 2147483647>"'),
        (pa.duration("s"), MOST, "9.223372036854776e+18"),
        (pa.timestamp("us"), None, "null"),
    ],
)
def test_times_inside_nested_cells_have_their_own_text_however_far_or_fine(
    inner: pa.DataType, value: Any, text: str
) -> None:
    """Python's datetime ends with the year 9999 and has no nanoseconds."""
    array = pa.array([value], inner) if not isinstance(value, int) else pa.array([value]).cast(pa.int64())
    array = array if array.type == inner else (array.cast(pa.int32()) if inner == pa.date32() else array).cast(inner)
    nested: list[tuple[pa.Array, str]] = [
        (pa.StructArray.from_arrays([array], ["a"]), f'{{"a":{text}}}'),
        (pa.MapArray.from_arrays([0, 1], pa.array(["k"]), array), f'{{"k":{text}}}'),
        (pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1], array)], ["l"]), f'{{"l":[{text}]}}'),
    ]
    for cells, expected in nested:
        field = pa.field("x", cells.type)
        assert cell_texts(cells, field).to_pylist() == [expected]
        assert keep_cells(cells, field, keep_type(field)) == [expected]


def test_nested_cells_of_a_slice_are_those_of_the_slice() -> None:
    rows = [[("a", {"x": [1]})], None, [("b", None), ("c", {"x": None})], []]
    array = pa.array(rows, pa.map_(pa.string(), pa.struct([("x", pa.list_(pa.int8()))])))
    assert python_values(array.slice(1)) == array.slice(1).to_pylist() == rows[1:]
    assert python_values(pa.array([{}, None], pa.struct([]))) == [{}, None]


def test_of_two_parts_of_one_name_the_last_is_read() -> None:
    """Nothing forbids them in a file; Python's own conversion raises on them."""
    array = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
    assert cell_texts(array, pa.field("x", array.type)).to_pylist() == ['{"a":2}']


# ---------------------------------------------------------------------------------- kept columns


KEPT: list[tuple[Any, pa.DataType, str, Any]] = [
    ("a\nb", pa.large_string(), "string", "a\nb"),
    (True, pa.bool_(), "bool", True),
    (-5, pa.int8(), "int32", -5),
    (2**32 - 1, pa.uint32(), "int64", 2**32 - 1),
    (2**64 - 1, pa.uint64(), "decimal128(20, 0)", "18446744073709551615"),
    (float("nan"), pa.float64(), "double", "NaN"),
    (float("inf"), pa.float32(), "float", "Infinity"),
    (Decimal("1.10"), pa.decimal128(5, 2), "decimal128(5, 2)", "1.10"),
    (Decimal("1.10"), pa.decimal256(50, 2), "string", "1.10"),
    (date(2026, 1, 2), pa.date64(), "date32[day]", "2026-01-02"),
    (MOMENT, pa.timestamp("ns", "Europe/Paris"), "timestamp[us, tz=UTC]", "2026-11-20T23:59:59.120000Z"),
    (MOMENT.replace(tzinfo=None), pa.timestamp("s"), "timestamp[us]", "2026-11-20T23:59:59.000000"),
    (time(1, 2), pa.time32("s"), "string", "01:02:00"),
    (timedelta(seconds=1), pa.duration("s"), "int64", 1),
    (b"\x00\xff", pa.large_binary(), "binary", "AP8="),
    (UUID.bytes, pa.binary(16), "string", str(UUID)),
    ([1, 2], pa.list_(pa.int64()), "string", "[1,2]"),
    ({"a": None}, pa.struct([("a", pa.string())]), "string", '{"a":null}'),
]


@pytest.mark.parametrize(("value", "given", "type_name", "cell"), KEPT)
def test_a_kept_cell_travels_as_json_can_hold_it(value: Any, given: pa.DataType, type_name: str, cell: Any) -> None:
    array = normalised(pa.array([value, None], given))
    field = pa.field("x", array.type)
    target = keep_type(field)
    assert str(target) == type_name
    assert keep_cells(array, field, target) == [cell, None]


@pytest.mark.parametrize(("value", "given", "type_name", "cell"), KEPT)
def test_the_checkpoint_takes_every_kept_type_as_it_is_and_reads_its_cells(
    value: Any, given: pa.DataType, type_name: str, cell: Any
) -> None:
    target = keep_type(pa.field("x", normalised(pa.array([value], given)).type))
    assert storable(target) == target
    assert array_of([caster(target)(cell)], target).null_count == 0


def test_a_column_of_nulls_is_text_until_a_type_is_seen() -> None:
    known: dict[str, pa.DataType | None] = {}
    survey_types([pa.field("a", pa.null()), pa.field("b", pa.null())], known)
    survey_types([pa.field("a", pa.int64()), pa.field("b", pa.null())], known)
    assert known == {"a": pa.int64(), "b": None}
    assert keep_cells(pa.nulls(2), pa.field("a", pa.null()), pa.int64()) == [None, None]


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.decimal128(5, 2), pa.decimal128(8, 1), pa.decimal128(9, 2)),
        (pa.decimal128(38, 0), pa.decimal128(5, 4), pa.string()),
        (pa.bool_(), pa.int64(), pa.string()),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), pa.string()),
        (None, pa.bool_(), pa.bool_()),
    ],
)
def test_two_files_types_meet_where_both_fit(first: Any, second: Any, both: pa.DataType) -> None:
    assert common_type(first, second) == common_type(second, first) == both


@pytest.mark.parametrize(
    ("value", "given", "target", "cell"),
    [
        (1, pa.int64(), pa.float64(), 1.0),
        (True, pa.bool_(), pa.string(), "true"),
        (1.5, pa.float64(), pa.string(), "1.5"),
        (Decimal("1.5"), pa.decimal128(5, 1), pa.string(), "1.5"),
        (MOMENT, pa.timestamp("us", "UTC"), pa.string(), "2026-11-20T23:59:59.12Z"),
    ],
)
def test_cells_of_a_narrower_batch_fit_the_column(
    value: Any, given: pa.DataType, target: pa.DataType, cell: Any
) -> None:
    assert keep_cells(pa.array([value], given), pa.field("x", given), target) == [cell]


def test_nul_is_found_and_can_be_replaced() -> None:
    assert has_nul(pa.array(["a\x00b", "c", None, "\x00"])).to_pylist() == [True, False, False, True]
    assert made_storable(["a\x00b", 1, None]) == ("a\ufffdb", 1, None)


def test_cells_too_long_to_be_kept_are_cut() -> None:
    assert made_storable(["x" * 300_000, "y" * 1000]) == ("x" * 200 + "...", "y" * 1000)
