"""Parquet that blows up takes bounded memory or is refused; honest Parquet of any writer is read as before."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchvision.errors import JobInvalid
from batchvision.manifest import pages
from batchvision.manifest.footer import row_groups
from batchvision.manifest.parquet import BATCH_BYTES, ParquetManifest
from batchvision.manifest.thrift import Compact

MIB = 1024 * 1024


def written(path: Path, columns: dict[str, Any], **how: Any) -> Path:
    pq.write_table(pa.table(columns), path, **how)
    return path


def read(path: Path) -> pa.Table:
    """All columns, and no batch larger than twice what batches are held to."""
    manifest = ParquetManifest(path, {})
    batches = list(manifest.batches(manifest.columns))
    assert max(batch.nbytes for batch in batches) <= 2 * BATCH_BYTES
    return pa.Table.from_batches(batches)


# ---------------------------------------------------------------------------------- honest files

TABLE = {
    "id": [f"row-{number}" for number in range(5000)],
    "kind": ["shoe", "bag", None, "hat", ""] * 1000,
    "tags": [["a", "b"], [], None, ["c"], [None]] * 1000,
    "parts": [{"bytes": b"x" * 50, "path": "p"}, None, {"bytes": None, "path": None}, {}, {"path": "q"}] * 1000,
    "number": list(range(5000)),
    "price": [None if number % 7 else number / 3 for number in range(5000)],
    "none": pa.nulls(5000, pa.string()),
    "flag": [True, False, None, True, True] * 1000,
}


@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "brotli", "lz4"])
@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_files_of_every_kind_are_read_whole(tmp_path: Path, compression: str, version: str, dictionary: bool) -> None:
    how = {"data_page_version": version, "use_dictionary": dictionary, "row_group_size": 1500, "data_page_size": 900}
    path = written(tmp_path / "m.parquet", TABLE, compression=compression, write_page_checksum=True, **how)
    assert read(path).to_pylist() == pa.table(TABLE).to_pylist()


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_files_of_every_encoding_are_read_whole(tmp_path: Path, encoding: str) -> None:
    path = written(tmp_path / "m.parquet", {"id": TABLE["id"]}, use_dictionary=False, column_encoding={"id": encoding})
    assert read(path)["id"].to_pylist() == TABLE["id"]


def test_a_file_of_duckdb_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    duckdb.sql(
        f"COPY (SELECT i::VARCHAR AS id, ['a', 'b'] AS tags, 'x' || (i % 3) AS kind FROM range(200000) t(i)) "
        f"TO '{path}' (FORMAT parquet, COMPRESSION zstd)"
    )
    table = read(path)
    assert table["id"].to_pylist() == [str(number) for number in range(200_000)]
    assert set(table["kind"].to_pylist()) == {"x0", "x1", "x2"}


def test_long_statistics_in_a_header_are_passed_over(tmp_path: Path) -> None:
    long = {"id": ["a" * 100_000, "b" * 100_000]}
    path = written(tmp_path / "m.parquet", long, use_dictionary=False, write_statistics=True, compression="none")
    assert read(path)["id"].to_pylist() == long["id"]


def test_large_images_in_large_pages_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LARGE_PAGE_BYTES", MIB)
    images = [bytes([number]) + random.Random(number).randbytes(60_000) for number in range(50)]
    path = written(tmp_path / "m.parquet", {"image": images}, use_dictionary=False, compression="zstd")
    assert read(path)["image"].to_pylist() == images


# ---------------------------------------------------------------------------------- files that blow up


def one_long_value(path: Path) -> Path:
    """16 MiB in the dictionary, 20,000 rows that name it, after a thousand that do not: 312 GiB of text."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 1000 + [1] * 20_000, pa.int32()), ["s", "x" * 16 * MIB])
    return written(path, {"id": values}, compression="zstd", dictionary_pagesize_limit=32 * MIB)


def one_long_tag(path: Path) -> Path:
    """The same inside lists."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 1000 + [1] * 20_000, pa.int32()), ["s", "x" * 16 * MIB])
    lists = pa.ListArray.from_arrays(pa.array(range(0, 21_001, 2), pa.int32()), values)
    return written(path, {"id": lists}, compression="zstd", dictionary_pagesize_limit=32 * MIB)


def shared_beginnings(path: Path) -> Path:
    """Every cell repeats the one before: 4,000 cells of 1 MiB in a page that is little more than the first."""
    cells = ["x" * MIB + str(number) for number in range(200)]
    how = {"use_dictionary": False, "column_encoding": {"id": "DELTA_BYTE_ARRAY"}, "data_page_size": 1024 * MIB}
    return written(path, {"id": cells}, compression="zstd", write_batch_size=2000, **how)


def long_after_short(path: Path) -> Path:
    """A hundred thousand short cells, then 500 of 1 MiB, all in one row group and packed a thousand times."""
    cells = ["s"] * 100_000 + ["x" * MIB] * 500
    return written(
        path, {"id": cells}, use_dictionary=False, compression="zstd", write_batch_size=8, data_page_size=MIB
    )


@pytest.mark.parametrize("bomb", [one_long_value, one_long_tag, shared_beginnings, long_after_short])
def test_a_small_file_of_many_gigabytes_takes_little_memory(tmp_path: Path, bomb: Callable[[Path], Path]) -> None:
    path = bomb(tmp_path / "m.parquet")
    assert path.stat().st_size < 2 * MIB
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from batchvision.errors import JobInvalid\n"
        "from batchvision.manifest.parquet import ParquetManifest\n"
        "try:\n"
        "    batches = ParquetManifest(Path(sys.argv[1]), {}).batches(['id'])\n"
        "    for number, batch in zip(range(300), batches): rows = batch.num_rows\n"
        "except JobInvalid as fault: print(fault)\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print(int(peak[0].split()[1]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 700, done.stdout


def test_a_page_that_unpacks_a_thousand_times_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "m.parquet", {"id": ["x" * 4 * MIB]}, use_dictionary=False, compression="zstd")
    assert read(path).num_rows == 1
    monkeypatch.setattr(pages, "LARGE_PAGE_BYTES", MIB)
    with pytest.raises(JobInvalid, match=r"m.parquet: a page of 'id' unpacks from [\d,]+ to 4,194,3[0-9]+ bytes"):
        read(path)


def test_a_header_that_is_damaged_is_damage(tmp_path: Path) -> None:
    path = written(tmp_path / "m.parquet", {"id": ["a", "b"]}, use_dictionary=False, compression="none")
    raw = bytearray(path.read_bytes())
    raw[4:20] = b"\xff" * 16
    path.write_bytes(raw)
    with pytest.raises(JobInvalid, match="damaged"):
        read(path)


def test_a_footer_that_contradicts_itself_ends_its_reading_and_not_the_process(tmp_path: Path) -> None:
    """Where the schema says that a column is no list, and its chunk has statistics of one, pyarrow's own object for
    that chunk calls abort(). In a process of its own, so that a relapse fails this test and no other."""
    path = written(tmp_path / "m.parquet", {"id": ["a", "b"], "tags": [["x"], []]}, store_schema=False)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from batchvision.errors import JobInvalid\n"
        "from batchvision.manifest.parquet import ParquetManifest\n"
        "path = Path(sys.argv[1])\n"
        "raw = path.read_bytes()\n"
        "footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], 'little')\n"
        "for place in range(footer, footer + 80):\n"
        "    for bit in (1, 2, 4, 64):\n"
        "        path.write_bytes(raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :])\n"
        "        try:\n"
        "            manifest = ParquetManifest(path, {})\n"
        "            list(manifest.batches(manifest.columns[:1]))\n"
        "        except JobInvalid: pass\n"
        "print('all were read or refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout == "all were read or refused\n", done.stderr


@pytest.mark.parametrize(
    "footer",
    [b"", b"\x00", b"\x49\x1c", b"\x49\xfc\xff\xff\x03", b"\x49\x1c\x19\x1c\x00\x00\x00", b"\xff" * 40],
)
def test_a_footer_without_its_fields_is_damage(tmp_path: Path, footer: bytes) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    if footer == b"\x00":
        assert list(row_groups(path)) == []
        return
    with pytest.raises(JobInvalid, match=r"m\.parquet is damaged: its footer"):
        list(row_groups(path))


def test_a_list_of_a_million_truths_takes_a_million_bytes() -> None:
    """Else a header of a few bytes, nested, would stand for any number of them."""
    few = b"\x19\xf1" + b"\xc0\x84\x3d" + b"\x00" * 9
    with pytest.raises(IndexError):
        Compact(few).struct()
    assert Compact(b"\x19\x31\x01\x02\x01\x00").struct() == {1: [True, False, True]}


# ---------------------------------------------------------------------------------- types that somebody made up


class MadeUp(pa.ExtensionType):
    """Registered or not: its own code is never asked."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "evil.made_up")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"cos\nsystem\n(S'touch pwned'\ntR."

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> MadeUp:
        return cls()


def _made_up(shape: Callable[[pa.Array], pa.Array]) -> bytes:
    sink = io.BytesIO()
    array = shape(pa.ExtensionArray.from_storage(MadeUp(), pa.array(["a", "b"])))
    pq.write_table(pa.table({"id": array, "image": ["x", "y"]}), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    "shape",
    [
        lambda array: array,
        lambda array: pa.ListArray.from_arrays([0, 1, 2], array),
        lambda array: pa.StructArray.from_arrays([array], ["part"]),
    ],
)
@pytest.mark.parametrize("is_registered", [False, True])
def test_an_extension_type_is_refused_by_name(
    tmp_path: Path, shape: Callable[[pa.Array], pa.Array], is_registered: bool
) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(_made_up(shape))
    if is_registered:
        pa.register_extension_type(MadeUp())
    try:
        with pytest.raises(
            JobInvalid, match=r"the column 'id' has the extension type 'evil.made_up', which is not read"
        ):
            read(path)
        with pytest.raises(JobInvalid, match=r"evil.made_up"):
            ParquetManifest(path, {"id": "[manifest] id"})
        assert next(ParquetManifest(path, {"image": "[manifest] images"}).batches(["image"])).num_rows == 2
    finally:
        if is_registered:
            pa.unregister_extension_type("evil.made_up")


def test_uuids_and_json_are_read_as_text(tmp_path: Path) -> None:
    names = [uuid.UUID(int=number) for number in range(3)]
    columns = {"id": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([n.bytes for n in names], pa.binary(16)))}
    assert read(written(tmp_path / "m.parquet", columns))["id"].to_pylist() == [str(name) for name in names]


def test_the_pages_of_a_file_are_those_that_its_writer_wrote(tmp_path: Path) -> None:
    path = written(tmp_path / "m.parquet", {"id": TABLE["id"]}, use_dictionary=False, data_page_size=1000)
    (group,) = row_groups(path)
    with path.open("rb") as raw:
        found = list(pages._pages(raw, group.chunks[0]))
    assert sum(page.values for page in found) == 5000
    assert len(found) > 3
