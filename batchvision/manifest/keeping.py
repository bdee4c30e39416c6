"""Kept columns: their Arrow types in the results, and their cells in a form that JSON holds.

Rule: only types that each warehouse takes. The checkpoint casts the cells back, so both modules must agree. Times,
decimals and dates travel as text, and binary as base64. ``NaN``, ``Infinity`` and ``-Infinity`` are text too.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchvision.manifest.cells import (
    FALSE,
    JsonCells,
    cell_texts,
    float_text,
    iso_texts,
    json_text,
    letters,
    python_values,
)
from batchvision.records import Cell

#: A row is invalid if a sent or kept cell has more bytes of UTF-8.
MOST_CELL_BYTES = 1024 * 1024
#: A row is invalid if its id has more bytes: ids are keys in warehouses.
MOST_ID_BYTES = 4096
LEFT_OF_A_LONG_CELL = 200

_FIXED: dict[pa.DataType, pa.DataType] = {
    pa.int8(): pa.int32(),
    pa.int16(): pa.int32(),
    pa.uint8(): pa.int32(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.date64(): pa.date32(),
}
_AS_THEY_ARE = frozenset(
    {pa.bool_(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.date32()}
)


def keep_type(field: pa.Field) -> pa.DataType:
    """The type of a normalised column in the results. Nested cells, times of day and columns of nulls become text."""
    given = field.type
    if JsonCells.of(field) is JsonCells.NUMBERS:
        return pa.float64()
    if given in _FIXED:
        return _FIXED[given]
    if given in _AS_THEY_ARE:
        return given
    if types.is_timestamp(given):
        return pa.timestamp("us", "UTC" if given.tz is not None else None)
    if types.is_decimal(given) and 0 <= given.scale <= given.precision <= 38:
        return pa.decimal128(given.precision, given.scale)
    if types.is_duration(given):
        return pa.int64()
    return pa.string()


def common_type(first: pa.DataType | None, second: pa.DataType | None) -> pa.DataType | None:
    """The narrowest type for the cells of both, in doubt text. An absent type stands for a column of nulls."""
    if first is None or second is None or first == second:
        return first if second is None else second
    if types.is_integer(first) and types.is_integer(second):
        return pa.int64()
    if all(types.is_integer(each) or types.is_floating(each) for each in (first, second)):
        return pa.float64()
    if types.is_decimal(first) and types.is_decimal(second):
        scale = max(first.scale, second.scale)
        precision = scale + max(first.precision - first.scale, second.precision - second.scale)
        if precision <= 38:
            return pa.decimal128(precision, scale)
    return pa.string()


def survey_types(fields: Iterable[pa.Field], known: dict[str, pa.DataType | None]) -> None:
    """Widen ``known`` (column -> type) for the cells of one more batch."""
    for field in fields:
        given = None if types.is_null(field.type) else keep_type(field)
        known[field.name] = common_type(known.get(field.name), given)


def keep_cells(array: pa.Array, field: pa.Field, target: pa.DataType) -> list[Cell]:
    """The cells of a normalised column for a results column of type ``target``."""
    if types.is_null(array.type):
        return [None] * len(array)
    if types.is_floating(target):
        numbers = [None if value is None else float(value) for value in array.to_pylist()]
        return [each if each is None or math.isfinite(each) else float_text(each) for each in numbers]
    if types.is_binary(target):
        return [None if value is None else base64.b64encode(value).decode() for value in array.to_pylist()]
    if types.is_timestamp(target):
        return list(iso_texts(array.cast(pa.timestamp("us", array.type.tz), safe=False)).to_pylist())
    if types.is_string(target):
        return _text_cells(array, field)
    if types.is_integer(target) and types.is_duration(array.type):
        return list(array.cast(pa.int64()).to_pylist())
    if types.is_boolean(target) or types.is_integer(target):
        return list(array.to_pylist())
    return list(cell_texts(array, field).to_pylist())


def _text_cells(array: pa.Array, field: pa.Field) -> list[Cell]:
    if JsonCells.of(field) is JsonCells.ANY:
        # the content of a JSON string; each other value stays JSON
        return [json.loads(cell) if cell and cell.startswith('"') else cell for cell in array.to_pylist()]
    if types.is_list(array.type) or types.is_struct(array.type) or types.is_map(array.type):
        return [None if value is None else json_text(value) for value in python_values(array)]
    return list(cell_texts(array, field).to_pylist())


def made_storable(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """Make the cells of an invalid row storable: NUL becomes U+FFFD, and long text is cut."""
    return tuple(_made_storable(cell) if isinstance(cell, str) else cell for cell in cells)


def _made_storable(text: str) -> str:
    shortened = text if len(text) <= MOST_CELL_BYTES // 4 else f"{text[:LEFT_OF_A_LONG_CELL]}..."
    return shortened.replace("\x00", "\ufffd")


def is_longer(texts: pa.Array, most_bytes: int) -> pa.Array:
    """For each cell of a string or binary column: has it more bytes? False for null."""
    return pc.fill_null(pc.greater(pc.binary_length(texts), pa.scalar(most_bytes, pa.int32())), FALSE)


def has_nul(texts: pa.Array) -> pa.Array:
    """For each cell of a string column: does it hold a NUL? False for null."""
    if letters(texts).all():
        return pa.repeat(FALSE, len(texts))
    return pc.fill_null(pc.match_substring(texts, "\x00"), FALSE)
