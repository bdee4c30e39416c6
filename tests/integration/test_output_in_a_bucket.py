"""Runs with an output in an object store, against a real S3 interface."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import obstore
import pyarrow.parquet as pq
import pytest
from job_runs import JobRuns
from obstore.store import from_url
from s3_server import BUCKET, S3Server, picture, s3_server

from batchvision.commands.read import read
from batchvision.emulator import start_in_thread


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def url(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The output of one test. The state folder of this machine is ``tmp_path/state``."""
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BATCHVISION_STATE_DIR", str(tmp_path / "state"))
    return f"s3://{BUCKET}/{tmp_path.name}/captions"


@pytest.fixture
def runs(url: str, tmp_path: Path) -> Iterator[JobRuns]:
    with start_in_thread() as emulator:
        runs = JobRuns(tmp_path, emulator, settings={"output.path": url})
        runs.rows("red shoe", *(f"row-{number}" for number in range(20)))
        yield runs


def another_machine(tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "state")


def keys(url: str) -> list[str]:
    return sorted(each["path"] for each in obstore.list(from_url(url)).collect())


def content(url: str, key: str) -> bytes:
    return bytes(obstore.get(from_url(url), key).bytes())


def test_a_rerun_on_another_machine_asks_only_for_new_rows(runs: JobRuns, tmp_path: Path) -> None:
    first = runs.run()
    assert (first.exit_code, first.counts, first.billed.total()) == (0, (20, 0, 0), 20)
    another_machine(tmp_path)
    runs.rows("blue shoe", "new-1", "new-2")
    second = runs.run()
    assert (second.exit_code, second.counts, second.billed.total()) == (0, (22, 0, 0), 2)


def test_with_manifest_images_and_output_in_the_store_each_row_is_asked_once(
    runs: JobRuns, url: str, tmp_path: Path
) -> None:
    photos = f"{url.rpartition('/')[0]}/photos/"
    names = [f"{number:03}.png" for number in range(100)]
    for number, name in enumerate(names):
        obstore.put(from_url(photos), name, picture(number))
    listed = {"manifest.path": photos, "manifest.id": "id", "manifest.keep": [], "prompt.user": "What is {id}?"}
    first = runs.run(listed)
    assert (first.exit_code, first.counts) == (0, (100, 0, 0))
    assert first.billed.total() == 100
    assert sorted(row for batch in read(url) for row in batch["row_id"].to_pylist()) == names
    another_machine(tmp_path)
    again = runs.run(listed)
    assert (again.exit_code, again.counts, again.billed.total()) == (0, (100, 0, 0), 0)


def test_after_an_orderly_end_the_store_holds_every_file_of_the_copy(runs: JobRuns, url: str) -> None:
    runs.run()
    copy = runs.job().output_path
    here = {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    there = {key: content(url, key) for key in keys(url)}
    pieces = [key for key in there if "/journal-" in key]
    segment = ".batchvision/0of1/journal-00000002.log"
    assert here.pop(segment) == b"".join(there.pop(key) for key in pieces)
    assert {Path(key).name for key in set(here) - set(there)} == {"lock", "shards.lock", "columns.lock"}
    assert set(there) - set(here) == {".batchvision/lock.json"}
    assert all(here[key] == there[key] for key in here.keys() & there.keys())


def test_readers_take_the_url_and_leave_the_copy_of_a_run_alone(runs: JobRuns, url: str, tmp_path: Path) -> None:
    runs.run()
    copy = runs.job().output_path
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    assert {row for batch in read(url) for row in batch["row_id"].to_pylist()} == set(runs.cells)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*")} == before
    another_machine(tmp_path)
    done = json.loads(runs.command("status", url, "--json").stdout)
    assert (done["rows_answered"], done["in_flight"]) == (20, 0)
    for command in ("show", "verify", "compact", "report"):
        ended = runs.command(command, url)
        assert ended.returncode == 0, ended.stderr
        assert command in ("show", "report") or url in ended.stdout + ended.stderr
    assert (tmp_path / "report.html").exists()
    assert json.loads(runs.command("plan", runs.job_file(), "--json").stdout)["rows"]["done"] == 20


def test_load_and_ddl_take_the_url_on_another_machine(runs: JobRuns, url: str, tmp_path: Path) -> None:
    runs.run()
    another_machine(tmp_path)
    for destination in ("duckdb:///loaded.db", f"delta:{url}-lake"):
        merged = []
        for _ in range(2):
            loaded = runs.command("load", url, "--to", destination, "--json")
            assert loaded.returncode == 0, loaded.stderr
            merged.append(json.loads(loaded.stdout)["tables"]["results"]["merged"])
        assert merged == [20, 0]
    with duckdb.connect(str(tmp_path / "loaded.db")) as database:
        assert database.sql("SELECT count(DISTINCT row_id) FROM batchvision_results").fetchall() == [(20,)]
    printed = runs.command("ddl", url, "--dialect", "duckdb")
    assert (printed.returncode, "CREATE TABLE" in printed.stdout) == (0, True), printed.stderr


def test_a_pilot_pays_into_the_store_and_a_run_on_another_machine_asks_the_rest(runs: JobRuns, tmp_path: Path) -> None:
    runs.write_manifest()
    paid = runs.command("plan", runs.job_file(), "--pilot", "3", "--json")
    assert json.loads(paid.stdout)["pilot"]["rows"] == 3, paid.stderr
    another_machine(tmp_path)
    rest = runs.run()
    assert (rest.exit_code, rest.counts, rest.billed.total()) == (0, (20, 0, 0), 17)


def test_reparse_takes_a_job_with_its_output_in_the_store_and_names_the_job_file_for_a_url(
    runs: JobRuns, url: str, tmp_path: Path
) -> None:
    assert runs.run({"answer.labels": ["red", "blue"]}).exit_code == 0
    another_machine(tmp_path)
    wider = {"answer.labels": ["red", "blue", "other"]}
    read_again = runs.command("reparse", runs.job_file(wider))
    assert read_again.returncode == 0, read_again.stderr
    assert "20 rows of 20 got an answer that was stored before" in read_again.stdout
    another_machine(tmp_path)
    assert runs.run(wider).billed.total() == 0
    refused = runs.command("reparse", url)
    assert refused.returncode == 2
    assert f"{url} is the URL of an output: give the path of the job file" in refused.stderr


def test_the_snapshot_is_an_object_of_the_output(runs: JobRuns, url: str) -> None:
    assert runs.run({"output.snapshot": "current.parquet"}).exit_code == 0
    rows = pq.read_table(io.BytesIO(content(url, "current.parquet")))["row_id"].to_pylist()
    assert sorted(rows) == sorted(runs.cells)


def test_shards_of_an_output_in_a_store_are_refused_with_the_way_out(runs: JobRuns) -> None:
    runs.write_manifest()
    refused = runs.command("run", runs.job_file(), "--shard", "0/2")
    assert refused.returncode == 2
    assert "an output in an object store has no shards: give each shard's job its own output.path" in refused.stderr


def test_a_place_without_an_output_is_named(runs: JobRuns, url: str) -> None:
    runs.write_manifest()
    for command in (("status", url), ("show", runs.job_file())):
        refused = runs.command(*command)
        assert refused.returncode == 2
        assert f"there is no output at {url}" in refused.stderr
    assert json.loads(runs.command("plan", runs.job_file(), "--json").stdout)["rows"]["to_do"] == 20


def test_a_reader_follows_the_runs_of_another_machine(runs: JobRuns, url: str, tmp_path: Path) -> None:
    runs.run()
    assert read_rows(url) == 20
    runs.rows("blue shoe", "new-1")
    with state_of_another_machine(tmp_path):
        runs.run()
    assert read_rows(url) == 21
    third = runs.run()  # on the first machine again, whose copy is the older one
    assert (third.exit_code, third.billed.total()) == (0, 0)


def read_rows(url: str) -> int:
    return sum(batch.num_rows for batch in read(url))


@contextmanager
def state_of_another_machine(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "state").rename(tmp_path / "first")
    yield
    shutil.rmtree(tmp_path / "state")
    (tmp_path / "first").rename(tmp_path / "state")


def test_check_proves_that_the_store_can_be_written_and_leaves_nothing(runs: JobRuns, url: str) -> None:
    runs.write_manifest()
    found = runs.command("check", runs.job_file())
    assert f"{url} can be read, written and locked" in found.stdout
    assert keys(url) == []


def test_check_names_a_bucket_that_is_missing(runs: JobRuns) -> None:
    runs.write_manifest()
    found = runs.command("check", runs.job_file({"output.path": "s3://no-such-bucket/captions"}))
    assert found.returncode == 2
    assert "s3://no-such-bucket/captions refused to write" in found.stdout
    assert "(NoSuchBucket)" in found.stdout
    ended = runs.run({"output.path": "s3://no-such-bucket/captions"})
    assert (ended.exit_code, ended.billed.total()) == (7, 0)
    assert "s3://no-such-bucket/captions refused to list its objects (NoSuchBucket)" in ended.message


def test_check_lists_the_objects_of_images_and_signs_their_urls(runs: JobRuns, url: str) -> None:
    runs.write_manifest()
    root = f"s3://{BUCKET}/photos"
    found = runs.command("check", runs.job_file({"manifest.root": root, "provider.image_mode": "url"}))
    assert f"images are looked up in {root}/: listed, and URLs signed" in found.stdout
    missing = runs.command("check", runs.job_file({"manifest.root": "s3://no-such-bucket/photos"}))
    assert missing.returncode == 2
    assert "s3://no-such-bucket/photos/ cannot be listed or signed: NoSuchBucket" in missing.stdout
