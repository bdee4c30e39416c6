"""Kept columns: the Arrow type each has in the results, and their cells as JSON can hold them.

Rule: only types that every warehouse takes. The checkpoint casts the cells back, so both must agree: times, decimals
and dates travel as text, binary as base64, numbers that JSON lacks as NaN, Infinity and -Infinity.
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
    spoken,
)
from batchvision.records import Cell

#: A cell that is sent or kept has no more bytes of UTF-8 than this; its row is invalid if it does.
MOST_CELL_BYTES = 1024 * 1024
#: Nor an id; it is a key in warehouses.
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
    """The results' type of a normalised column: nested ones and times of day are text, as are columns of nulls."""
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
    """The type that holds the cells of both (None: nothing but nulls so far); text where nothing else does."""
    if first is None or second is None or first == second:
        return first if second is None else second
    if types.is_integer(first) and types.is_integer(second):
        return pa.int64()
    if all(types.is_integer(each) or types.is_floating(each) for each in (first, second)):
        return pa.float64()
    if types.is_decimal(first) and types.is_decimal(second):
        return _common_decimal(first, second)
    return pa.string()


def _common_decimal(first: pa.DataType, second: pa.DataType) -> pa.DataType:
    scale = max(first.scale, second.scale)
    precision = scale + max(first.precision - first.scale, second.precision - second.scale)
    return pa.decimal128(precision, scale) if precision <= 38 else pa.string()


def survey_types(fields: Iterable[pa.Field], known: dict[str, pa.DataType | None]) -> None:
    """Widens ``known`` (column -> type) so that it holds the cells of one more batch."""
    for field in fields:
        given = None if types.is_null(field.type) else keep_type(field)
        known[field.name] = common_type(known.get(field.name), given)


def keep_cells(array: pa.Array, field: pa.Field, target: pa.DataType) -> list[Cell]:
    """The cells of a normalised column for a results column of type ``target``."""
    if types.is_null(array.type):
        return [None] * len(array)
    if types.is_floating(target):
        return [None if value is None else _float_cell(value) for value in array.to_pylist()]
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


def _float_cell(value: float | str) -> Cell:
    number = float(value)
    return number if math.isfinite(number) else float_text(number)


def _text_cells(array: pa.Array, field: pa.Field) -> list[Cell]:
    if JsonCells.of(field) is JsonCells.ANY:
        return [None if cell is None else _unquoted(cell) for cell in array.to_pylist()]
    if types.is_list(array.type) or types.is_struct(array.type) or types.is_map(array.type):
        return [None if value is None else json_text(value) for value in spoken(array)]
    return list(cell_texts(array, field).to_pylist())


def _unquoted(cell: str) -> str:
    """A JSON string by its content, all else as the JSON it is."""
    value = json.loads(cell) if cell.startswith('"') else cell
    return str(value)


def made_storable(cells: Iterable[Cell]) -> tuple[Cell, ...]:
    """For rows that fail because of it: NUL, which no warehouse stores in text, is U+FFFD, and what is too long is cut
    (null, where it is no text of a length that can be cut)."""
    return tuple(_made_storable(cell) if isinstance(cell, str) else cell for cell in cells)


def _made_storable(text: str) -> str:
    shortened = text if len(text) <= MOST_CELL_BYTES // 4 else f"{text[:LEFT_OF_A_LONG_CELL]}..."
    return shortened.replace("\x00", "\ufffd")


def is_longer(texts: pa.Array, most_bytes: int) -> pa.Array:
    """Which cells of a string or binary column have more bytes (null cells: False)."""
    return pc.fill_null(pc.greater(pc.binary_length(texts), pa.scalar(most_bytes, pa.int32())), FALSE)


def has_nul(texts: pa.Array) -> pa.Array:
    """Which cells of a string column hold a NUL (null cells: False)."""
    if letters(texts).all():
        return pa.repeat(FALSE, len(texts))
    return pc.fill_null(pc.match_substring(texts, "\x00"), FALSE)
