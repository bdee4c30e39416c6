"""``manifest.where`` keeps the rows for which an SQL expression is true, and can do nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.manifest import open_manifest

CSV = "sku,image,price,Select\nr1,1.jpg,5,a\nr2,2.jpg,,b\nr3,3.jpg,12.5,c\n"


def job_of(folder: Path, name: str, where: str) -> Job:
    settings = {
        "name": "filtered",
        "manifest": {"path": name, "id": "sku", "where": where},
        "prompt": {"user": "Describe it."},
        "provider": {"name": "emulator", "model": "grok-4.3"},
    }
    return Job.from_mapping(settings, folder)


def rows(folder: Path, name: str, where: str) -> list[str]:
    manifest = open_manifest(job_of(folder, name, where))
    return [sku for batch in manifest.batches(["sku"]) for sku in batch["sku"].to_pylist()]


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    (tmp_path / "photos.csv").write_text(CSV)
    return tmp_path


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("sku = 'r1'", ["r1"]),
        ("sku IN ('r1', 'r3') AND image LIKE '%.jpg'", ["r1", "r3"]),
        ("TRY_CAST(price AS DOUBLE) < 10", ["r1"]),
        ("price IS NULL OR price = ''", ["r2"]),
        ("NOT sku > 'r1'", ["r1"]),
        ("\"Select\" = 'c'", ["r3"]),
        ("true", ["r1", "r2", "r3"]),
        ("NULL", []),
        ("false", []),
    ],
)
def test_rows_of_a_csv_file_are_kept_in_order(csv: Path, where: str, found: list[str]) -> None:
    assert rows(csv, "photos.csv", where) == found


def test_numbers_and_lists_of_parquet_have_their_types(tmp_path: Path) -> None:
    table = {"sku": ["r1", "r2", "r3"], "image": ["1", "2", "3"], "sure": [0.79, 0.81, None]}
    pq.write_table(pa.table({**table, "tags": [["a"], ["b"], ["a", "b"]]}), tmp_path / "photos.parquet")
    assert rows(tmp_path, "photos.parquet", "sure < 0.8") == ["r1"]
    assert rows(tmp_path, "photos.parquet", "sure IS NULL") == ["r3"]
    assert rows(tmp_path, "photos.parquet", "list_contains(tags, 'b')") == ["r2", "r3"]


def test_numbers_of_json_lines_are_compared_by_a_cast(tmp_path: Path) -> None:
    lines = ['{"sku": "r1", "image": "1", "price": 5.5}', '{"sku": "r2", "image": "2", "price": 12.5}']
    (tmp_path / "photos.jsonl").write_text("\n".join(lines) + "\n")
    assert rows(tmp_path, "photos.jsonl", "CAST(price AS DOUBLE) > 10") == ["r2"]


def test_many_rows_are_filtered_batch_by_batch(tmp_path: Path) -> None:
    count = 50_000
    table = {"sku": [f"r{number}" for number in range(count)], "image": ["1"] * count, "number": range(count)}
    pq.write_table(pa.table({name: list(cells) for name, cells in table.items()}), tmp_path / "photos.parquet")
    assert rows(tmp_path, "photos.parquet", "number % 10 = 3") == [f"r{number}" for number in range(3, count, 10)]


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("pric < 10", 'Referenced column "pric" not found.*The columns are sku, image, price, Select'),
        ("price < 10", r"Cannot compare values of type VARCHAR.*price holds text.*TRY_CAST\(price AS DOUBLE\)"),
        ("sku = 10", r"compares sku, which holds text, with a number.*TRY_CAST\(sku AS DOUBLE\)"),
        ("price = 6", r"compares price, which holds text, with a number, and would round it"),
        ("price IN (5, 6)", r"compares price, which holds text, with a number"),
        ("NOT price = 6.0 OR sku = 'r1'", r"compares price, which holds text, with a number"),
        ("price <", "syntax error"),
        ("max(price) = price", "WHERE clause cannot contain aggregates"),
        ("row_number() OVER () = 1", "WHERE clause cannot contain window functions"),
        ("sku = 'r1'); DROP TABLE x; --", "syntax error"),
        ("sku = 'r1', image = '1.jpg'", "single expression"),
        ("sku = 'r1' LIMIT 1", "modifiers"),
    ],
)
def test_a_wrong_expression_is_quoted_with_its_fault(csv: Path, where: str, words: str) -> None:
    with pytest.raises(JobInvalid, match=words) as refused:
        rows(csv, "photos.csv", where)
    assert f"manifest.where = {where!r}" in str(refused.value)


@pytest.mark.parametrize(
    "where",
    [
        "(SELECT count(*) FROM read_text('/etc/hostname')) > 0",
        "(SELECT count(*) FROM read_csv('photos.csv')) > 0",
        "(SELECT count(*) FROM 'photos.csv') > 0",
        "(SELECT count(*) FROM secret_of_this_process) > 0",
        "getenv('HOME') = ''",
    ],
)
def test_an_expression_reaches_no_file_and_nothing_of_this_process(csv: Path, where: str) -> None:
    secret_of_this_process: Any = pa.table({"key": ["k"]})
    with pytest.raises(JobInvalid, match=r"manifest\.where"):
        rows(csv, "photos.csv", where)
    assert secret_of_this_process.num_rows == 1


def test_without_duckdb_the_extra_is_named(csv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(JobInvalid, match=r"needs the extra duckdb: pip install 'batchvision\[duckdb\]'"):
        rows(csv, "photos.csv", "sku = 'r1'")


def test_the_filter_is_no_part_of_the_recipe(csv: Path) -> None:
    one, other = (job_of(csv, "photos.csv", where).recipe.recipe_id for where in ("sku = 'r1'", "sku = 'r2'"))
    assert one == other
