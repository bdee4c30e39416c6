"""The survey sees the whole manifest before anything is sent: damage, columns, types, and ids that come twice."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchvision.errors import JobInvalid
from batchvision.job import Job
from batchvision.manifest import open_manifest
from batchvision.runner.feed import Selection, survey
from batchvision.runner.feed.surveying import _repeated


def job(folder: Path, name: str, **manifest: Any) -> Job:
    table = {
        "name": "j",
        "manifest": {"path": name, "id": "id", **manifest},
        "prompt": {"user": "Describe {title}."},
        "provider": {"name": "emulator", "model": "m"},
    }
    return Job.from_mapping(table, folder)


def put(folder: Path, name: str, content: bytes | str) -> None:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def fault(of: Job) -> str:
    with pytest.raises(JobInvalid) as caught:
        survey(of)
    return str(caught.value)


CSV = "id,image,title\n" + "".join(f"{number},{number}.jpg,t\n" for number in range(50))


def test_rows_are_counted_and_kept_types_known(tmp_path: Path) -> None:
    table = {"id": [1, 2], "image": ["a", "b"], "title": ["x", None], "price": [1.5, 2.0], "tags": [["a"], []]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    found = survey(job(tmp_path, "m.parquet", keep={"cost": "price", "tags": "tags", "id_again": "id"}))
    assert (found.rows, found.rows_in_manifest, found.repeated) == (2, 2, frozenset())
    assert found.keep_types == (("cost", pa.float64()), ("tags", pa.string()), ("id_again", pa.int64()))


def test_kept_types_hold_for_all_batches(tmp_path: Path) -> None:
    for number, title in enumerate([pa.array([None]), pa.array([1], pa.int32()), pa.array([2**40])]):
        table = {"id": [number], "image": ["a"], "title": title}
        (tmp_path / "t").mkdir(exist_ok=True)
        pq.write_table(pa.table(table), tmp_path / "t" / f"{number}.parquet")
    assert survey(job(tmp_path, "t", keep=["title"])).keep_types == (("title", pa.int64()),)


def test_ids_that_come_twice_are_found(tmp_path: Path) -> None:
    put(tmp_path, "m.csv", CSV + "7,x.jpg,t\n7,y.jpg,t\n,z.jpg,\n,z.jpg,\n")
    assert survey(job(tmp_path, "m.csv")).repeated == {hash("7")}


@given(st.lists(st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1)))
def test_repeated_hashes_are_found(values: list[int]) -> None:
    expected = {value for value in values if values.count(value) > 1}
    assert set(_repeated(array("q", values))) == expected


def test_the_shards_of_a_manifest_add_up(tmp_path: Path) -> None:
    put(tmp_path, "m.csv", CSV + "7,twice.jpg,t\n,no id.jpg,t\n")
    of = job(tmp_path, "m.csv")
    found = [survey(of, Selection(shard=shard, shards=3)) for shard in range(3)]
    assert sum(each.rows for each in found) == 52
    assert {each.rows_in_manifest for each in found} == {52}
    assert all(each.rows > 5 for each in found)


def test_bytes_of_images_are_not_read_where_ids_do_not_need_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {"id": ["1"], "image": [b"bytes"], "title": ["t"]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    asked: list[list[str]] = []
    for given_id in ("id", None):
        of = job(tmp_path, "m.parquet", **({"id": given_id} if given_id else {}))
        if given_id is None:
            of = Job.from_mapping(
                {**of.config(), "manifest": {"path": "m.parquet"}, "provider": {"name": "emulator", "model": "m"}},
                tmp_path,
            )
        manifest = open_manifest(of)
        batches = manifest.batches
        monkeypatch.setattr(
            manifest, "batches", lambda names, batches=batches: asked.append(list(names)) or batches(names)
        )
        assert survey(of, manifest=manifest).rows == 1
    assert asked == [["id", "title"], ["image", "title"]]


# ---------------------------------------------------------------------------------- what stops a run


def test_a_missing_column_is_named_with_the_job_key_and_the_columns_of_the_manifest(tmp_path: Path) -> None:
    put(tmp_path, "m.csv", "sku,Image,title\n1,a.jpg,t\n")
    message = fault(job(tmp_path, "m.csv"))
    assert "m.csv has no column 'id', which [manifest] id names; its columns are 'sku', 'Image', 'title'." in message
    assert "no column 'image', which [manifest] images names" in message
    assert "Did you mean 'Image'?" in message


def test_damage_deep_in_the_file_is_found(tmp_path: Path) -> None:
    put(tmp_path, "m.csv", CSV * 1 + "51,a.jpg\n")
    assert "m.csv, line 52: 2 cells" in fault(job(tmp_path, "m.csv"))


def test_an_id_must_be_one_value(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [["a"]], "image": ["a"], "title": ["t"]}), tmp_path / "m.parquet")
    assert "the id column 'id' holds list" in fault(job(tmp_path, "m.parquet"))


def test_an_image_column_must_be_able_to_hold_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "image": [1.5], "title": ["t"]}), tmp_path / "m.parquet")
    assert "the image column 'image' holds double" in fault(job(tmp_path, "m.parquet"))


def test_a_table_that_holds_images_is_known_by_its_bytes_or_by_the_length_of_its_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a"], "image": [b"x"], "title": ["t"]}), tmp_path / "m.parquet")
    assert survey(job(tmp_path, "m.parquet")).holds_images
    uri = "data:image/png;base64," + "A" * 40_000
    put(tmp_path, "m.csv", f'id;image;title\n1;"{uri}";t\n2;"{uri}";t\n')
    assert survey(job(tmp_path, "m.csv")).holds_images
    put(tmp_path, "n.csv", "id,image,title\n1,a.jpg,t\n2,b.jpg,t\n")
    assert not survey(job(tmp_path, "n.csv")).holds_images


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "m.csv", CSV)
    found = survey(job(tmp_path, "m.csv"))
    found.reject_changed()
    os.utime(tmp_path / "m.csv", ns=(1, 1))
    with pytest.raises(JobInvalid, match=r"m\.csv was changed while it was read"):
        found.reject_changed()
    (tmp_path / "m.csv").unlink()
    with pytest.raises(JobInvalid, match="cannot be read any more"):
        found.reject_changed()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gone.csv", "does not exist: correct [manifest] path, or pass --manifest FILE"),
        ("m.xlsx", "ends in .csv, .tsv or .jsonl"),
        ("m.parquet.gz", "ends in .csv, .tsv or .jsonl"),
        ("pipe.csv", "is no regular file"),
    ],
)
def test_a_path_that_is_no_manifest_is_refused(tmp_path: Path, name: str, words: str) -> None:
    put(tmp_path, name, "x")
    of = job(tmp_path, name)
    if "pipe" in name or "gone" in name:
        (tmp_path / name).unlink()
    if "pipe" in name:
        os.mkfifo(tmp_path / name)
    assert words in fault(of)
