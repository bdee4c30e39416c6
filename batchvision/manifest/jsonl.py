"""JSON Lines as record batches: one object a line. A missing key is null. Numbers of any size stay exact.

Rule: the text of a cell never depends on its neighbours, so an added row changes no other request. A column that has
only text, only booleans or only 64-bit integers in a batch gets that type. Each other column is text, and the field's
metadata names its form (see ``cells.JsonCells``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from batchvision.errors import JobInvalid
from batchvision.manifest.cells import JsonCells, json_text
from batchvision.manifest.columns import reject_missing
from batchvision.manifest.inputs import ManifestInput
from batchvision.manifest.text_file import TextFile

BATCH_ROWS = 8192
BATCH_CHARACTERS = 16 * 1024 * 1024
#: Most values in one line: an object of short values takes many times its length in memory.
MAX_LINE_VALUES = 1_000_000


class _Number(float):
    """A number with a fraction or an exponent that remembers how it was written."""

    __slots__ = ("literal",)
    literal: str


def _number(literal: str) -> _Number:
    number = _Number(literal)
    number.literal = literal
    return number


_DECODER = json.JSONDecoder(parse_float=_number, parse_constant=_number)


class JsonLinesManifest:
    """One JSONL file. ``columns``: the keys of the first object. Later lines may have more.

    ``needed``: column -> the job key that names it. A column that no line has is a fault, found at the end.
    """

    def __init__(self, source: ManifestInput, packing: str | None, needed: Mapping[str, str]) -> None:
        self._text = TextFile(source, packing)
        self._needed = needed
        self.inputs: tuple[ManifestInput, ...] = (source,)
        self.byte_columns: frozenset[str] = frozenset()
        first = next(self._objects(), None)
        if first is None:
            raise self._text.empty()
        self.columns = tuple(first[1])

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """``columns`` of each row. Raises JobInvalid with the line at damage, and for a column that no line has."""
        seen = dict.fromkeys(self.columns)
        unseen = set(self._needed) - seen.keys()
        rows: list[dict[str, Any]] = []
        characters = 0
        for size, row in self._objects():
            if unseen:
                seen.update(dict.fromkeys(row))
                unseen -= row.keys()
            rows.append(row)
            characters += size
            if len(rows) == BATCH_ROWS or characters >= BATCH_CHARACTERS:
                yield self._batch(rows, columns)
                rows, characters = [], 0
        if unseen:
            reject_missing(self._needed, tuple(seen), self._text.name)
        if rows:
            yield self._batch(rows, columns)

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Each line's length and object; blank lines are no rows."""
        for number, line in enumerate(self._text.lines(), start=1):
            stripped = line.strip()
            if not stripped:
                continue
            if len(stripped) > MAX_LINE_VALUES and sum(map(stripped.count, "[{,")) > MAX_LINE_VALUES:
                raise self._text.line_fault(number, f"more than {MAX_LINE_VALUES:,} values in one object.")
            try:
                row = _DECODER.decode(stripped)
            except (ValueError, RecursionError) as error:
                raise self._text.line_fault(number, self._not_json(stripped, number, error)) from error
            if not isinstance(row, dict):
                raise self._text.line_fault(number, "not a JSON object ({...}); every line must be one.")
            yield len(line), row

    def _not_json(self, line: str, number: int, error: Exception) -> str:
        if number == 1 and line.startswith("["):
            return "the file is a JSON array; write one object a line, without the brackets and the commas between."
        if number == 1 and not line.startswith("{"):
            return "not JSON: is this file CSV? Then name it .csv."
        return f"not valid JSON: {error}."

    def _batch(self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.RecordBatch:
        fields, arrays = [], []
        for name in columns:
            try:
                field, array = _column(name, [row.get(name) for row in rows])
            except UnicodeEncodeError as error:
                raise JobInvalid(
                    f"{self._text.name}: a cell of {name!r} holds half of a surrogate pair (\\ud800 to \\udfff), "
                    "which is no text. Write the character whole."
                ) from error
            except RecursionError as error:
                raise JobInvalid(f"{self._text.name}: a cell of {name!r} is nested too deeply.") from error
            fields.append(field)
            arrays.append(array)
        return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


def _column(name: str, values: list[Any]) -> tuple[pa.Field, pa.Array]:
    kinds = set(map(type, values)) - {type(None)}
    if not kinds:
        return pa.field(name, pa.null()), pa.nulls(len(values))
    if kinds == {str} or kinds == {bool}:
        array = pa.array(values, pa.string() if kinds == {str} else pa.bool_())
        return pa.field(name, array.type), array
    if kinds == {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pa.field(name, pa.int64()), pa.array(values, pa.int64())
    cells = JsonCells.NUMBERS if kinds <= {int, _Number} and _Number in kinds else JsonCells.ANY
    if kinds == {int}:
        cells = JsonCells.TEXT
    texts = [
        value.literal if isinstance(value, _Number) else None if value is None else json_text(value) for value in values
    ]
    return cells.field(name), pa.array(texts, pa.string())
