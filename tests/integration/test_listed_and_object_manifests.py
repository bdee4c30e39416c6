"""Manifests in an object store, and folders of images that are listed anew at each run."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3_server import picture

from batchvision.checkpoint import OutputView
from batchvision.commands.run import run
from batchvision.emulator import EmulatorOptions, RunningEmulator, start_in_thread
from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.manifest import Manifest, open_manifest
from batchvision.records import RunSummary
from batchvision.runner.feed import survey


@pytest.fixture(scope="module")
def emulator() -> Iterator[RunningEmulator]:
    with start_in_thread(EmulatorOptions()) as running:
        yield running


def job_of(folder: Path, emulator: RunningEmulator, path: str, **manifest: Any) -> Job:
    settings: dict[str, Any] = {
        "name": "listed",
        "manifest": {"path": path, "id": "id", **manifest},
        "prompt": {"user": "What is it?"},
        "provider": {"name": "emulator", "model": "m", "base_url": f"{emulator.url}/v1"},
        "output": {"path": "out"},
    }
    return Job.from_mapping(settings, folder)


def counts(summary: RunSummary) -> tuple[int, int, int]:
    return summary.rows_completed, summary.rows_failed, summary.requests_sent


def answered(job: Job) -> list[str]:
    batches = OutputView(job.output_path).current_results(job.recipe.recipe_id, ("row_id",))
    return sorted(row_id for batch in batches for row_id in batch["row_id"].to_pylist())


# ---------------------------------------------------------------------------------- object stores


def test_a_table_in_a_bucket_is_read_with_the_images_beside_it(
    tmp_path: Path, emulator: RunningEmulator, bucket: Any
) -> None:
    for number in range(3):
        obstore.put(bucket, f"shop/images/{number}.png", picture(number))
    rows = "".join(f"r{number},images/{number}.png\n" for number in range(3))
    obstore.put(bucket, "shop/rows.csv", f"id,image\n{rows}".encode())
    job = job_of(tmp_path, emulator, "s3://bucket/shop/rows.csv")
    first = run(job, environ={})
    assert (counts(first), first.manifest) == ((3, 0, 3), "s3://bucket/shop/rows.csv")
    assert counts(run(job, environ={})) == (3, 0, 0)
    obstore.put(bucket, "shop/rows.csv", f"id,image\n{rows}r3,images/0.png\n".encode())
    assert counts(run(job, environ={}))[:2] == (4, 0)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl.gz", "parts/"])
def test_each_format_in_a_bucket_is_read(tmp_path: Path, emulator: RunningEmulator, bucket: Any, name: str) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    content = io.BytesIO()
    pq.write_table(pa.table({"id": ["r0"], "image": ["red.png"]}), content)
    if name == "parts/":
        obstore.put(bucket, "formats/parts/day=1/a.parquet", content.getvalue())
        obstore.put(bucket, "formats/parts/_SUCCESS", b"")
    elif name.endswith("gz"):
        obstore.put(bucket, f"formats/{name}", gzip.compress(b'{"id": "r0", "image": "red.png"}\n'))
    else:
        obstore.put(bucket, f"formats/{name}", content.getvalue())
    job = job_of(tmp_path, emulator, f"s3://bucket/formats/{name}", root=str(tmp_path))
    assert counts(run(job, environ={})) == (1, 0, 1)


def test_a_prefix_of_images_is_listed_anew_at_each_run(tmp_path: Path, emulator: RunningEmulator, bucket: Any) -> None:
    for key in ("photos/a.png", "photos/sub/ä b.png", "photos/notes.txt"):
        obstore.put(bucket, key, picture())
    job = job_of(tmp_path, emulator, "s3://bucket/photos/")
    assert counts(run(job, environ={}))[:2] == (2, 0)
    assert answered(job) == ["a.png", "sub/ä b.png"]
    obstore.put(bucket, "photos/0-new.png", picture(9))
    assert counts(run(job, environ={})) == (3, 0, 1)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("s3://bucket/gone.csv", r"s3://bucket/gone.csv does not exist"),
        ("s3://nowhere/rows.csv", r"s3://nowhere/rows.csv cannot be read: the store refused .*NoSuchBucket"),
        ("s3://bucket/nothing-here/", r"no Parquet object and no image below s3://bucket/nothing-here/"),
    ],
)
def test_a_manifest_that_is_not_there_names_its_url(
    tmp_path: Path, emulator: RunningEmulator, bucket: Any, path: str, message: str
) -> None:
    with pytest.raises(JobInvalid, match=message):
        run(job_of(tmp_path, emulator, path), environ={})


# ---------------------------------------------------------------------------------- folders


def test_a_folder_of_images_is_listed_anew_and_no_id_changes(tmp_path: Path, emulator: RunningEmulator) -> None:
    photos = tmp_path / "photos"
    for path in (photos / "shoe.png", photos / "sub" / "_DSC1.png", photos / ".hidden.png", photos / "notes.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"text" if path.suffix == ".txt" else picture())
    job = job_of(tmp_path, emulator, "photos")
    assert counts(run(job, environ={}))[:2] == (2, 0)
    Image.new("RGB", (50, 50), "blue").save(photos / "shoe.jpg")
    assert counts(run(job, environ={})) == (3, 0, 1)
    assert answered(job) == ["shoe.jpg", "shoe.png", "sub/_DSC1.png"]


def test_an_output_inside_the_folder_is_not_listed(tmp_path: Path, emulator: RunningEmulator) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    job = job_of(tmp_path, emulator, ".")
    assert counts(run(job, environ={}))[0] == 1
    (tmp_path / "out" / "chart.png").write_bytes(picture())
    assert counts(run(job, environ={})) == (1, 0, 0)


def test_a_folder_with_parquet_files_is_a_table_and_its_images_are_not_listed(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(picture())
    (data / "b.png").write_bytes(picture())
    pq.write_table(pa.table({"id": ["r0"], "image": ["a.png"]}), data / "rows.parquet")
    assert counts(run(job_of(tmp_path, emulator, "data"), environ={})) == (1, 0, 1)


def test_a_folder_without_rows_says_so(tmp_path: Path, emulator: RunningEmulator) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobInvalid, match="holds no Parquet file and no image"):
        open_manifest(job_of(tmp_path, emulator, "empty"))


def test_a_column_that_a_listing_does_not_have_is_named(tmp_path: Path, emulator: RunningEmulator) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(picture())
    with pytest.raises(JobInvalid, match=r"photos has no column 'title', which \[manifest\] keep names"):
        open_manifest(job_of(tmp_path, emulator, "photos", keep=["title"]))


def test_an_image_that_comes_while_a_run_reads_is_a_row_of_the_next_run(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "b.png").write_bytes(picture())
    job = job_of(tmp_path, emulator, "photos")

    def ids(manifest: Manifest) -> list[str]:
        return [row_id for batch in manifest.batches(["id"]) for row_id in batch["id"].to_pylist()]

    surveyed = survey(job)
    (tmp_path / "photos" / "a.png").write_bytes(picture())
    assert (ids(surveyed.manifest), surveyed.rows) == (["b.png"], 1)
    assert ids(survey(job).manifest) == ["a.png", "b.png"]


def test_a_run_goes_on_while_its_manifest_in_a_bucket_is_replaced(
    tmp_path: Path, emulator: RunningEmulator, bucket: Any
) -> None:
    obstore.put(bucket, "replaced/rows.csv", b"id,image\nr1,a.png\n")
    surveyed = survey(job_of(tmp_path, emulator, "s3://bucket/replaced/rows.csv"))
    obstore.put(bucket, "replaced/rows.csv", b"id,image\nr1,a.png\nr2,a.png\n")
    surveyed.reject_changed()
    assert [batch["id"].to_pylist() for batch in surveyed.manifest.batches(["id"])] == [["r1"]]


# ---------------------------------------------------------------------------------- queries


def a_database(path: Path) -> Any:
    import duckdb

    with duckdb.connect(str(path)) as connection:
        connection.execute("create table photos (id varchar, image varchar, price decimal(9, 2), gone boolean)")
        connection.execute("insert into photos values ('r1', 'red.png', 9.50, false), ('r2', 'red.png', null, true)")


def test_the_rows_of_a_query_on_duckdb_are_a_manifest(tmp_path: Path, emulator: RunningEmulator) -> None:
    import duckdb

    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    a_database(tmp_path / "shop.db")
    query = "select id, image, price from photos where not gone"
    job = job_of(tmp_path, emulator, "duckdb:///shop.db", query=query, keep=["price"])
    first = run(job, environ={})
    assert (counts(first), first.manifest) == ((1, 0, 1), "duckdb:///shop.db")
    with duckdb.connect(str(tmp_path / "shop.db")) as connection:
        connection.execute("insert into photos values ('r3', 'red.png', 1, false)")
    assert counts(run(job, environ={}))[:2] == (2, 0)
    assert answered(job) == ["r1", "r3"]


def test_the_rows_of_a_query_on_postgresql_are_a_manifest(
    tmp_path: Path, emulator: RunningEmulator, postgres_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (40, 30), "red").save(tmp_path / "red.png")
    monkeypatch.setenv("SHOP_URL", postgres_server.url())
    query = "select 'r' || n as id, 'red.png' as image, null as note, n::numeric as price from generate_series(1, 3) n"
    job = job_of(tmp_path, emulator, "env:SHOP_URL", query=query, keep=["note"])
    first = run(job, environ={})
    assert (first.rows_completed, first.manifest) == (3, "env:SHOP_URL")


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("duckdb:///gone.db", "select 1", "there is no database .*gone.db"),
        ("duckdb:///shop.db", "select nothing from photos", "manifest.query on duckdb:///shop.db failed: .*nothing"),
        ("duckdb:///shop.db", "drop table photos", "manifest.query on duckdb:///shop.db failed"),
        ("duckdb:///shop.db", "select price from photos", r"has no column 'id', which \[manifest\] id names"),
        ("mysql://shop", "select 1", "no database that can be asked; write duckdb:///file.db or"),
    ],
)
def test_a_query_that_cannot_be_asked_names_the_database(
    tmp_path: Path, emulator: RunningEmulator, path: str, query: str, message: str
) -> None:
    a_database(tmp_path / "shop.db")
    with pytest.raises(JobInvalid, match=message):
        run(job_of(tmp_path, emulator, path, query=query), environ={})


def test_a_database_without_its_query_and_a_password_in_the_job_are_refused(
    tmp_path: Path, emulator: RunningEmulator
) -> None:
    with pytest.raises(JobInvalid, match="names a database; add the `query`"):
        job_of(tmp_path, emulator, "duckdb:///shop.db")
    with pytest.raises(JobInvalid, match="holds a password") as refused:
        job_of(tmp_path, emulator, "postgresql://me:hunter2@host/db", query="select 1")
    assert "hunter2" not in str(refused.value)
