"""The plain text and the Python values of the cells of normalised Arrow columns.

Rule: the text of a cell depends on its value alone, because it decides row_ids and request_keys. Neighbours, encoding
and library version do not change it. 64-bit integers, decimals, UUIDs and times are exact.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types


class JsonCells(StrEnum):
    """The meaning of a string column from JSON Lines. It stands in the metadata of the field."""

    TEXT = ""  #: plain text
    NUMBERS = "numbers"  #: numbers as written, at least one with a fraction or an exponent
    ANY = "any"  #: each cell is JSON: several kinds of values, or nested ones

    def field(self, name: str) -> pa.Field:
        return pa.field(name, pa.string(), metadata={b"json": self.value.encode()} if self else None)

    @classmethod
    def of(cls, field: pa.Field) -> JsonCells:
        return cls((field.metadata or {}).get(b"json", b"").decode())


# ---------------------------------------------------------------------------------- text

#: Scalars with a type. To infer a type, pyarrow tries to import pandas: 0.1 ms each time if it is not installed.
NO_TEXT = pa.scalar("", pa.string())
FALSE = pa.scalar(False, pa.bool_())


def letters(texts: pa.Array) -> NDArray[np.uint8]:
    """The bytes of a string column's cells, joined. A null cell may have bytes too."""
    _, ends, content = texts.buffers()
    if content is None or not len(texts):
        return np.empty(0, dtype=np.uint8)
    bounds = np.frombuffer(ends, dtype=np.int32)
    return np.frombuffer(content, dtype=np.uint8)[bounds[texts.offset] : bounds[texts.offset + len(texts)]]


def cell_texts(array: pa.Array, field: pa.Field) -> pa.Array:
    """The plain text of each cell of a normalised column. Null stays null.

    Numbers have decimal digits. Times are ISO 8601 without trailing zeros, with a zone in UTC with Z. Booleans are
    ``true`` and ``false``. Binary is hex. Lists are joined by ", " without their nulls. Structs and maps are JSON.
    """
    if JsonCells.of(field) is JsonCells.ANY:
        return _from_cells(array, lambda cell: _value_text(json.loads(cell)) if cell[:1] in '"[' else cell)
    return _texts(array)


def _texts(array: pa.Array) -> pa.Array:
    given = array.type
    if types.is_string(given):
        return array
    if types.is_boolean(given) or types.is_integer(given) or types.is_null(given) or types.is_date(given):
        return array.cast(pa.string())
    if types.is_float64(given):
        return _from_cells(array, float_text)
    if types.is_floating(given):
        return _from_cells(array, _short_float_text)
    if types.is_decimal(given):
        return _from_cells(array, _decimal_text)
    if types.is_timestamp(given) or types.is_time(given):
        # the same moment has the same text in every unit: no zeros at the end of a fraction
        trimmed = pc.replace_substring_regex(iso_texts(array), r"(\.\d*?)0+(Z?)$", r"\1\2")
        return pc.replace_substring_regex(trimmed, r"\.(Z?)$", r"\1")
    if types.is_duration(given):
        return array.cast(pa.int64()).cast(pa.string())
    if types.is_binary(given):
        return _from_cells(array, bytes.hex)
    if types.is_list(given):
        return _joined_lists(array)
    return pa.array([None if value is None else json_text(value) for value in python_values(array)], pa.string())


def iso_texts(array: pa.Array) -> pa.Array:
    """Timestamps and times in ISO 8601 with each digit of their unit; with a zone in UTC.

    Beyond the year 32767 Arrow's text is "<value out of range: ...>".
    """
    if types.is_timestamp(array.type) and array.type.tz is not None:
        array = array.cast(pa.timestamp(array.type.unit, "UTC"))
    return pc.replace_substring_regex(array.cast(pa.string()), r"^([\d-]+) ", r"\1T")


def _from_cells(array: pa.Array, text: Any) -> pa.Array:
    return pa.array([None if value is None else text(value) for value in array.to_pylist()], pa.string())


def float_text(value: float) -> str:
    """The shortest digits that read back as the same 64-bit number (1.0, 0.1, 1e+20, NaN, Infinity)."""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _short_float_text(value: float) -> str:
    """:func:`float_text` for 32 bits: 0.1, not 0.10000000149011612."""
    if not math.isfinite(value) or value == int(value):
        return float_text(value)
    candidates = (f"{value:.{digits}g}" for digits in range(1, 10))
    same = (text for text in candidates if struct.unpack("f", struct.pack("f", float(text)))[0] == value)
    return float_text(float(next(same, repr(value))))


def _decimal_text(value: Decimal) -> str:
    return format(value, "f")


def _joined_lists(array: pa.Array) -> pa.Array:
    elements = iter(_texts(array.flatten()).to_pylist())
    lengths = pc.list_value_length(array).to_pylist()
    joined = [None if length is None else _joined(next(elements) for _ in range(length)) for length in lengths]
    return pa.array(joined, pa.string())


def _joined(texts: Iterable[str | None]) -> str:
    return ", ".join([text for text in texts if text is not None])


def _value_text(value: Any) -> str:
    """The text of a JSON value."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _joined(_value_text(element) for element in value if element is not None)
    return json_text(value)


# ---------------------------------------------------------------------------------- nested cells

_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def python_values(array: pa.Array) -> list[Any]:
    """The cells of a normalised column as Python values.

    Times and dates are text of :func:`cell_texts`, and durations are seconds: Python's types hold fewer digits and
    years than Arrow's.
    """
    given = array.type
    if types.is_map(given):
        pairs = pa.list_(pa.struct([("key", given.key_type), ("value", given.item_type)]))
        listed = python_values(array.cast(pairs))
        return [None if cell is None else [(pair["key"], pair["value"]) for pair in cell] for cell in listed]
    if types.is_list(given):
        elements = iter(python_values(array.flatten()))
        lengths = pc.list_value_length(array).to_pylist()
        return [None if length is None else [next(elements) for _ in range(length)] for length in lengths]
    if types.is_struct(given):
        return _struct_values(array)
    if types.is_duration(given):
        return [None if count is None else count / _UNITS[given.unit] for count in array.cast(pa.int64()).to_pylist()]
    if types.is_date(given) or types.is_timestamp(given) or types.is_time(given):
        return list(_texts(array).to_pylist())
    return list(array.to_pylist())


def _struct_values(array: pa.Array) -> list[dict[str, Any] | None]:
    parts = [python_values(part) for part in array.flatten()]
    names = [field.name for field in array.type]
    cells = zip(*parts, strict=True) if parts else ((),) * len(array)
    is_there = array.is_valid().to_pylist()
    return [dict(zip(names, cell, strict=True)) if there else None for there, cell in zip(is_there, cells, strict=True)]


# ---------------------------------------------------------------------------------- JSON


def json_text(value: Any) -> str:
    """``value`` as compact JSON. Decimals, bytes (in base64) and NaN become text."""
    return json.dumps(_json_value(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _json_value(value: Any) -> Any:
    """``value`` rebuilt of JSON's own types."""
    match value:
        case dict():
            return {str(_json_value(key)): _json_value(element) for key, element in value.items()}
        case list():
            is_map = bool(value) and all(isinstance(element, tuple) for element in value)
            return _json_value(dict(value)) if is_map else [_json_value(element) for element in value]
        case bool() | int() | str() | None:
            return value
        case float():
            return value if math.isfinite(value) else float_text(value)
        case bytes():
            return base64.b64encode(value).decode()
        case Decimal():
            return _decimal_text(value)
        case _:
            return str(value)
