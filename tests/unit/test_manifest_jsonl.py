"""JSON Lines: numbers stay exact, and the text of a cell does not depend on its neighbours."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batchvision.errors import JobInvalid
from batchvision.manifest.cells import cell_texts
from batchvision.manifest.inputs import LocalInput
from batchvision.manifest.jsonl import JsonLinesManifest
from batchvision.manifest.keeping import keep_cells, keep_type

Put = Callable[..., Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    def write(*lines: str, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


def texts(path: Path, column: str = "x") -> list[str | None]:
    batches = JsonLinesManifest(LocalInput(path), None, {}).batches([column])
    return [text for batch in batches for text in cell_texts(batch.column(0), batch.schema.field(0)).to_pylist()]


def kept(path: Path) -> tuple[str, list[Any]]:
    """The type of column x in the results, and its cells."""
    (batch,) = JsonLinesManifest(LocalInput(path), None, {}).batches(["x"])
    field = batch.schema.field(0)
    return str(keep_type(field)), keep_cells(batch.column(0), field, keep_type(field))


def fault(path: Path, needed: dict[str, str] | None = None) -> str:
    with pytest.raises(JobInvalid) as caught:
        list(JsonLinesManifest(LocalInput(path), None, needed or {}).batches(["x"]))
    return str(caught.value)


def test_missing_keys_and_nulls_are_null_and_blank_lines_no_rows(put: Put) -> None:
    assert texts(put('{"x": "a", "y": 1}', "", '{"y": 2}', '  {"x": null}  ')) == ["a", None, None]


def test_the_columns_are_those_of_the_first_line(put: Put) -> None:
    assert JsonLinesManifest(LocalInput(put('{"b": 1, "a": 2}', '{"c": 3}')), None, {}).columns == ("b", "a")


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"007"', "007"),
        ("9007199254740993", "9007199254740993"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1.10", "1.10"),
        ("1E5", "1E5"),
        ("-0", "0"),
        ("true", "true"),
        ('["a", null, "b", 3, 1.5, true]', "a, b, 3, 1.5, true"),
        ('{"b": 1, "a": ["x"]}', '{"b":1,"a":["x"]}'),
        ('""', ""),
        ('"\\u00e9\\ud83d\\ude00"', "é😀"),
    ],
)
@pytest.mark.parametrize("neighbour", ['"text"', "1", "2.5", "false", "[1]", "null", "99999999999999999999"])
def test_a_cell_reads_the_same_beside_any_other(put: Put, cell: str, text: str, neighbour: str) -> None:
    assert texts(put(f'{{"x": {cell}}}')) == [text]
    assert texts(put(f'{{"x": {cell}}}', f'{{"x": {neighbour}}}'))[0] == text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(values=st.lists(json_values, min_size=1, max_size=4))
def test_neighbours_never_change_a_cells_text(put: Put, values: list[Any]) -> None:
    together = texts(put(*[json.dumps({"x": value}) for value in values]))
    alone = [texts(put(json.dumps({"x": value})))[0] for value in values]
    assert together == alone


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["1", "2"], ("int64", [1, 2])),
        (["1", "2.5"], ("double", [1.0, 2.5])),
        (["true", "null"], ("bool", [True, None])),
        (['"a"', "1"], ("string", ["a", "1"])),
        (["[1, 2.50]", '{"a": "ü"}'], ("string", ["[1,2.5]", '{"a":"ü"}'])),
        (["null"], ("string", [None])),
        (["99999999999999999999"], ("string", ["99999999999999999999"])),
        (["NaN", "1.5", "-Infinity"], ("double", ["NaN", 1.5, "-Infinity"])),
    ],
)
def test_kept_cells_have_the_type_that_holds_them_all(
    put: Put, cells: list[str], expected: tuple[str, list[Any]]
) -> None:
    assert kept(put(*[f'{{"x": {cell}}}' for cell in cells])) == expected


def test_a_packed_file_streams_like_a_plain_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"x": 1}\n{"x": 2}\n'))
    batches = list(JsonLinesManifest(LocalInput(path), "gzip", {}).batches(["x"]))
    assert batches[0].column(0).to_pylist() == [1, 2]


# ---------------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"x": 1}', "", '{"x": '], "line 3: not valid JSON"),
        (['{"x": 1}', "[1]"], "line 2: not a JSON object"),
        (['[{"x": 1},', '{"x": 2}]'], "line 1: the file is a JSON array"),
        (["x,y", "1,2"], "line 1: not JSON: is this file CSV? Then name it .csv"),
        (['{"x": "\\ud800"}'], "half of a surrogate pair"),
        (["", " "], "is empty"),
    ],
)
def test_damage_is_reported_with_its_line(put: Put, lines: list[str], words: str) -> None:
    assert words in fault(put(*lines))


def test_deep_nesting_is_damage_not_a_crash(put: Put) -> None:
    assert "line 2: not valid JSON" in fault(put('{"x": 1}', '{"x": ' + "[" * 200_000 + "}"))


def test_a_column_that_no_line_has_is_reported_with_the_columns_of_the_manifest(put: Put) -> None:
    path = put('{"x": 1}', '{"Image": "a.jpg"}')
    message = fault(path, {"image": "[manifest] images"})
    assert "rows.jsonl has no column 'image', which [manifest] images names; its columns are 'x', 'Image'" in message
    assert "Did you mean 'Image'?" in message


def test_a_column_that_comes_late_is_not_missing(put: Put) -> None:
    path = put('{"x": 1}', '{"x": 2, "image": "a.jpg"}')
    batches = list(JsonLinesManifest(LocalInput(path), None, {"image": "[manifest] images"}).batches(["image"]))
    assert batches[0].column(0).to_pylist() == [None, "a.jpg"]
