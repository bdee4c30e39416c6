"""Values to Arrow and back. A value that does not fit its column becomes null, and its row is kept. Pure.

Kept cells travel as JSON values: timestamps as ISO text, decimals as plain text, binaries as base64, NaN and the
infinities as text. The column registry holds their types.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import partial
from typing import Any

import pyarrow as pa
from pyarrow import types

from batchvision.records import Cell

#: What pyarrow, and Python's own conversions, raise for a value that does not fit.
DOES_NOT_FIT = (pa.ArrowException, ValueError, TypeError, ArithmeticError)

TIMESTAMP = pa.timestamp("us", tz="UTC")
MONEY = pa.decimal128(18, 9)

_BY_NAME: dict[str, pa.DataType] = {
    "string": pa.string(),
    "json": pa.string(),
    "binary": pa.binary(),
    "bool": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "date32": pa.date32(),
    "timestamp[us]": pa.timestamp("us"),
    "timestamp[us, UTC]": TIMESTAMP,
}


# ---------------------------------------------------------------------------------- types and their names


def type_of(name: str) -> pa.DataType:
    """The Arrow type of a name as the registry writes it, or of an answer column's type name. ValueError: none."""
    if name in _BY_NAME:
        return _BY_NAME[name]
    if match := re.fullmatch(r"list<(.+)>", name):
        return pa.list_(type_of(match[1]))
    if match := re.fullmatch(r"decimal128\((\d+), (\d+)\)", name):
        return pa.decimal128(int(match[1]), int(match[2]))
    raise ValueError(f"no column can have the type {name!r}")


def name_of(arrow: pa.DataType) -> str:
    """The name of a type, as :func:`type_of` reads it. List items have no name."""
    if types.is_list(arrow):
        return f"list<{name_of(arrow.value_type)}>"
    if types.is_decimal128(arrow):
        return f"decimal128({arrow.precision}, {arrow.scale})"
    for name, known in _BY_NAME.items():
        if known == arrow and name != "json":
            return name
    raise ValueError(f"no column can have the type {arrow}")


def storable(arrow: pa.DataType) -> pa.DataType:
    """The type that every warehouse accepts: no unsigned integers, nanoseconds, nulls, structs or maps."""
    if types.is_dictionary(arrow):
        return storable(arrow.value_type)
    if types.is_unsigned_integer(arrow):
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64(), 64: pa.decimal128(20, 0)}[arrow.bit_width]
    if types.is_float16(arrow):
        return pa.float32()
    if types.is_timestamp(arrow):
        return pa.timestamp("us") if arrow.tz is None else TIMESTAMP
    if types.is_date(arrow):
        return pa.date32()
    if types.is_large_binary(arrow) or types.is_fixed_size_binary(arrow) or types.is_binary_view(arrow):
        return pa.binary()
    if types.is_list(arrow) and not types.is_nested(arrow.value_type):
        return pa.list_(storable(arrow.value_type))
    if types.is_decimal128(arrow) and arrow.scale < 0:
        return pa.string()
    return arrow if arrow in _BY_NAME.values() or types.is_decimal128(arrow) else pa.string()


# ---------------------------------------------------------------------------------- values to Arrow


def array_of(values: Iterable[Any], arrow: pa.DataType) -> pa.Array:
    """``values`` as a column. Misfits become null."""
    values = list(values)
    try:
        return pa.array(values, arrow)
    except DOES_NOT_FIT:
        return pa.array([_or_null(value, arrow) for value in values], arrow)


def _or_null(value: Any, arrow: pa.DataType) -> Any:
    if isinstance(value, str):  # a lone surrogate has no UTF-8
        value = value.encode("utf-8", "replace").decode("utf-8")
    try:
        pa.array([value], arrow)
    except DOES_NOT_FIT:
        return None
    return value


def caster(arrow: pa.DataType) -> Callable[[Any], Any]:
    """Return a function from a kept cell or answer value to a value of ``arrow``. A misfit becomes null."""
    return partial(_cast, _converter(arrow))


def _cast(convert: Callable[[Any], Any], value: Any) -> Any:
    if value is None:
        return None
    try:
        return convert(value)
    except DOES_NOT_FIT:
        return None


def _converter(arrow: pa.DataType) -> Callable[[Any], Any]:
    if types.is_list(arrow):
        return partial(_list, _converter(arrow.value_type))
    if types.is_decimal(arrow):
        return lambda value: Decimal(str(value))
    if types.is_timestamp(arrow):
        return partial(_timestamp, arrow.tz is not None)
    for is_kind, convert in _CONVERTERS:
        if is_kind(arrow):
            return convert
    return _text


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError("not a whole number")
    return int(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError("not a number")
    return float(value)


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


def _list(convert: Callable[[Any], Any], value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError("not a list")
    return [None if item is None else convert(item) for item in value]


def _timestamp(is_aware: bool, value: Any) -> datetime:
    at = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    if is_aware:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return at.replace(tzinfo=None)


def _date(value: Any) -> date:
    return value if isinstance(value, date) else date.fromisoformat(value)


def _binary(value: Any) -> bytes:
    return value if isinstance(value, bytes) else b64decode(value, validate=True)


_CONVERTERS: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
    (types.is_boolean, _truth),
    (types.is_integer, _whole),
    (types.is_floating, _float),
    (types.is_date, _date),
    (types.is_binary, _binary),
)


def usd_of(ticks: int | None) -> Decimal | None:
    """Ticks as USD with nine digits, rounded half to even, in integers all the way (1 USD = 10^10 ticks)."""
    if ticks is None:
        return None
    units, rest = divmod(ticks, 10)
    if rest > 5 or (rest == 5 and units % 2):
        units += 1
    return Decimal(units).scaleb(-9)


# ---------------------------------------------------------------------------------- and back


def cell_of(value: Any) -> Cell:
    """A stored value as JSON can hold it, so that it can be stored again."""
    match value:
        case float() if math.isnan(value):
            return "NaN"
        case float() if math.isinf(value):
            return "Infinity" if value > 0 else "-Infinity"
        case None | bool() | int() | float() | str():
            return value
        case datetime() | date() | time():
            return value.isoformat()
        case Decimal():
            return format(value, "f")
        case bytes():
            return b64encode(value).decode("ascii")
        case _:
            return json.dumps(value, ensure_ascii=False, default=str)
