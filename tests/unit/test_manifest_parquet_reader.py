"""Parquet is read in a child process: no file of it takes the run's memory or ends the run."""

from __future__ import annotations

import io
import os
import random
import select
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from manifest_files import opened

from batchvision.errors import JobInvalid
from batchvision.manifest import parquet_reader
from batchvision.manifest.parquet_child import BATCH_ROWS
from batchvision.manifest.parquet_reader import BATCH_BYTES

MIB = 1024 * 1024
TESTS = Path(__file__).parents[1]  #: for the programs that run in a process of their own


def written(path: Path, columns: dict[str, Any], **how: Any) -> Path:
    pq.write_table(pa.table(columns), path, **how)
    return path


def read(path: Path) -> pa.Table:
    """All columns, and no batch larger than twice what batches are held to."""
    manifest = opened(path, {})
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
        "sys.path.append(sys.argv[2])\nfrom manifest_files import opened\n"
        "try:\n"
        "    batches = opened(Path(sys.argv[1]), {}).batches(['id'])\n"
        "    for number, batch in zip(range(300), batches): rows = batch.num_rows\n"
        "except JobInvalid as fault: print(fault)\n"
        "peak = [line for line in open('/proc/self/status') if line.startswith('VmHWM')]\n"
        "print(int(peak[0].split()[1]) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path, TESTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.splitlines()[-1]) < 250, done.stdout


def test_a_header_that_is_damaged_is_damage(tmp_path: Path) -> None:
    path = written(tmp_path / "m.parquet", {"id": ["a", "b"]}, use_dictionary=False, compression="none")
    raw = bytearray(path.read_bytes())
    raw[4:20] = b"\xff" * 16
    path.write_bytes(raw)
    with pytest.raises(JobInvalid, match="damaged"):
        read(path)


def test_rows_that_do_not_fit_at_first_come_whole_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dictionary hides the size of the rows. The child continues with smaller batches."""
    monkeypatch.setattr(parquet_reader, "MEMORY_BYTES", 256 * MIB)
    large = pa.DictionaryArray.from_arrays(pa.array([0] * 300 + [1] * 700, pa.int32()), ["s", "x" * MIB])
    names = [f"row-{number}" for number in range(1000)]
    path = written(tmp_path / "m.parquet", {"id": names, "text": large}, dictionary_pagesize_limit=32 * MIB)
    batches = opened(path, {}).batches(["id", "text"])
    found = [(batch["id"].to_pylist(), [len(text) for text in batch["text"].to_pylist()]) for batch in batches]
    assert [name for ids, _ in found for name in ids] == names
    assert [length for _, lengths in found for length in lengths] == [1] * 300 + [MIB] * 700


def test_a_page_that_does_not_fit_is_refused_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_reader, "MEMORY_BYTES", 64 * MIB)
    rng = random.Random(3)
    images = [rng.randbytes(MIB) for _ in range(100)]
    path = written(tmp_path / "m.parquet", {"id": list(map(str, range(100))), "image": images}, use_dictionary=False)
    with pytest.raises(JobInvalid, match=r"too large in row group 1 of 1, column 'image': .* smaller row groups"):
        list(opened(path, {}).batches(["id", "image"]))
    assert sum(batch.num_rows for batch in opened(path, {}).batches(["id"])) == 100


def test_a_row_of_many_nulls_is_as_large_as_it_becomes_in_python(tmp_path: Path) -> None:
    nulls = pa.ListArray.from_arrays([0, 40_000_000], pa.nulls(40_000_000))
    path = written(tmp_path / "m.parquet", {"tags": nulls})
    assert path.stat().st_size < MIB
    with pytest.raises(JobInvalid, match=r"column 'tags': a row has 320,000,004 bytes"):
        list(opened(path, {}).batches(["tags"]))


def test_a_page_of_two_hundred_megabytes_is_not_held_by_the_run(tmp_path: Path) -> None:
    """In a process of its own, for its peak."""
    rng = random.Random(5)
    path = written(tmp_path / "m.parquet", {"image": [rng.randbytes(200_000) for _ in range(1_000)]})
    script = (
        "import re, sys\nfrom pathlib import Path\nsys.path.append(sys.argv[2])\nfrom manifest_files import opened\n"
        "def peak():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) // 1024\n"
        "manifest, before = opened(Path(sys.argv[1]), {}), peak()\n"
        "rows = sum(batch.num_rows for batch in manifest.batches(['image']))\nprint(rows, peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", script, path, TESTS], capture_output=True, text=True, check=True)
    rows, mebibytes = map(int, done.stdout.split())
    assert rows == 1_000
    assert mebibytes < 150


def test_a_footer_that_contradicts_itself_crashes_pyarrow_and_not_the_run(tmp_path: Path) -> None:
    """In the schema a column is no list, and its chunk has the statistics of a list: pyarrow calls abort()."""
    path = written(tmp_path / "m.parquet", {"id": ["a", "b"], "tags": [["x"], []]}, store_schema=False)
    raw, faults = path.read_bytes(), list[str]()
    footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
    for place in range(footer + 15, footer + 35):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        try:
            manifest = opened(path, {})
            list(manifest.batches(manifest.columns[:1]))
        except JobInvalid as fault:
            faults.append(str(fault))
    assert any("damaged in row group 1 of 1, column 'id'" in fault and "SIGABRT" in fault for fault in faults), faults
    assert all("m.parquet is damaged" in fault for fault in faults)


@pytest.mark.parametrize("footer", [b"", b"\x00", b"\x49\x1c", b"\x49\xfc\xff\xff\x03", b"\xff" * 40])
def test_a_footer_without_its_fields_is_damage(tmp_path: Path, footer: bytes) -> None:
    path = tmp_path / "m.parquet"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(JobInvalid, match=r"m\.parquet is damaged"):
        read(path)


# ---------------------------------------------------------------------------------- children that end early


def sabotaged(folder: Path, act: str) -> Path:
    """The child's script, with ``act`` in place of the reading of column "image" in the second row group."""
    script = folder / "child.py"
    script.write_text(
        "import ctypes, importlib.util, os, time\n"
        f"spec = importlib.util.spec_from_file_location('child', {str(parquet_reader.CHILD_SCRIPT)!r})\n"
        "child = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(child)\n"
        "whole = child._row_group\n"
        "def row_group(file, number, columns, batch_bytes):\n"
        "    if number == 1 and 'image' in columns:\n"
        f"        {act}\n"
        "    yield from whole(file, number, columns, batch_bytes)\n"
        "child._row_group = row_group\n"
        "child.main()\n"
    )
    return script


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("os.abort()", r" is damaged{where}, or too large: pyarrow crashed \(SIGABRT\)"),
        ("ctypes.string_at(0)", r" is damaged{where}, or too large: pyarrow crashed \(SIGSEGV\)"),
        ("os._exit(3)", r" is damaged{where}, or too large: pyarrow crashed \(exit 3\)"),
        ("os.kill(os.getpid(), 9)", r" is too large{where}: the process that read it was killed"),
        ("held = bytearray(1 << 40)", r" is too large{where}: it does not fit into the [\d,]+ MiB"),
        ("held = [bytes(1 << 20) for _ in range(1 << 20)]", r" is too large{where}: it does not fit into"),
        ("raise OSError('Corrupt snappy data')", r" is damaged or cut short{where}: Corrupt snappy data\. Write"),
        ("pass", ""),
    ],
)
def test_each_end_of_the_child_names_file_row_group_and_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, words: str
) -> None:
    path = written(tmp_path / "m.parquet", {"id": ["a", "b", "c"], "image": ["x", "y", "z"]}, row_group_size=1)
    monkeypatch.setattr(parquet_reader, "CHILD_SCRIPT", sabotaged(tmp_path, act))
    monkeypatch.setattr(parquet_reader, "MEMORY_BYTES", 256 * MIB)
    batches, ids = opened(path, {}).batches(["id", "image"]), list[str]()
    if words:
        where = "m.parquet" + words.replace("{where}", " in row group 2 of 3, column 'image'")
        with pytest.raises(JobInvalid, match=where):
            ids.extend(name for batch in batches for name in batch["id"].to_pylist())
    else:
        ids.extend(name for batch in batches for name in batch["id"].to_pylist())
    assert ids == (["a"] if words else ["a", "b", "c"])


@pytest.mark.parametrize("loop", ["while True: pass", "ctypes.CDLL(None).pause()"])
def test_a_child_that_hangs_ends_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: str) -> None:
    path = written(tmp_path / "m.parquet", {"image": ["x", "y"]}, row_group_size=1)
    monkeypatch.setattr(parquet_reader, "CHILD_SCRIPT", sabotaged(tmp_path, loop))
    monkeypatch.setattr(parquet_reader, "DEADLINE_SECONDS", 2)
    with pytest.raises(JobInvalid, match=r"m\.parquet in row group 2 of 2: no row could be read in 2 s"):
        list(opened(path, {}).batches(["image"]))


def test_a_caller_may_take_longer_than_the_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's alarm is off while it sends, which is when it waits for the parent."""
    path = written(tmp_path / "m.parquet", {"image": ["x", "y"]}, row_group_size=1)
    script = sabotaged(tmp_path, "pass")
    armed = "send = child._send\ndef _send(*reply):\n    assert child.signal.getitimer(0)[0] == 0\n    send(*reply)\n"
    script.write_text(script.read_text().replace("child.main()", f"{armed}child._send = _send\nchild.main()"))
    monkeypatch.setattr(parquet_reader, "CHILD_SCRIPT", script)
    assert sum(batch.num_rows for batch in opened(path, {}).batches(["image"])) == 2


def test_a_reply_of_another_form_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child with damaged memory may send any bytes."""
    path = written(tmp_path / "m.parquet", {"image": ["x"]})
    script = sabotaged(tmp_path, "pass")
    made = (
        "import pyarrow as pa\n"
        "def lies(file, number, columns, batch_bytes):\n"
        "    ends, text = pa.py_buffer(b'\\0\\0\\0\\0\\2\\0\\0\\0'), pa.py_buffer(b'\\xff\\xfe')\n"
        "    bad = pa.Array.from_buffers(pa.string(), 1, [None, ends, text])\n"
        "    yield pa.RecordBatch.from_arrays([bad], names=columns)\n"
        "child._row_group = lies\n"
    )
    script.write_text(script.read_text().replace("child.main()", f"{made}child.main()"))
    monkeypatch.setattr(parquet_reader, "CHILD_SCRIPT", script)
    with pytest.raises(JobInvalid, match=r"m\.parquet is damaged .*Invalid UTF8"):
        list(opened(path, {}).batches(["image"]))


def test_a_child_that_does_not_start_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "child.py"
    script.write_text("import a_library_that_does_not_exist\n")
    monkeypatch.setattr(parquet_reader, "CHILD_SCRIPT", script)
    path = written(tmp_path / "m.parquet", {"image": ["x"]})
    with pytest.raises(
        JobInvalid, match=r"^m.parquet: no process starts that reads it\. See the error of `.*child.py`"
    ):
        opened(path, {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_stops_the_service_leaves_the_child_to_the_run(tmp_path: Path, number: signal.Signals) -> None:
    """A service manager signals each process of a service, and the run drains first."""
    path = written(tmp_path / "m.parquet", {"id": [f"row-{number}" for number in range(100_000)]})
    manifest = opened(path, {})
    manifest._reader._process.send_signal(number)  # type: ignore[union-attr]
    assert sum(batch.num_rows for batch in manifest.batches(["id"])) == 100_000


def test_a_child_does_not_outlive_its_reader(tmp_path: Path) -> None:
    path = written(tmp_path / "m.parquet", {"id": [f"row-{number}" for number in range(100_000)]})
    manifest = opened(path, {})
    process = manifest._reader._process  # type: ignore[union-attr]
    batches = manifest.batches(["id"])
    assert next(batches).num_rows == BATCH_ROWS
    assert process.poll() is None
    batches.close()  # type: ignore[attr-defined]
    assert process.poll() is not None
    dropped = opened(path, {})
    process = dropped._reader._process  # type: ignore[union-attr]
    del dropped
    assert process.poll() is not None


def test_a_child_does_not_outlive_its_parent(tmp_path: Path) -> None:
    """The parent is killed while the child waits to send: the write fails, and the child ends."""
    path = written(tmp_path / "m.parquet", {"id": [f"row-{number:0100}" for number in range(200_000)]})
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "sys.path.append(sys.argv[2])\nfrom manifest_files import opened\n"
        "manifest = opened(Path(sys.argv[1]), {})\n"
        "print(manifest._reader._process.pid, flush=True)\n"
        "next(manifest.batches(['id']))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, path, TESTS], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    with suppress(ProcessLookupError):  # it has ended already
        descriptor = os.pidfd_open(int(done.stdout))
        ready, _, _ = select.select([descriptor], [], [], 60)
        os.close(descriptor)
        assert ready, "the child is alive"


# ---------------------------------------------------------------------------------- unknown types


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
            opened(path, {"id": "[manifest] id"})
        assert next(opened(path, {"image": "[manifest] images"}).batches(["image"])).num_rows == 2
    finally:
        if is_registered:
            pa.unregister_extension_type("evil.made_up")


def test_uuids_and_json_are_read_as_text(tmp_path: Path) -> None:
    names = [uuid.UUID(int=number) for number in range(3)]
    columns = {"id": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([n.bytes for n in names], pa.binary(16)))}
    assert read(written(tmp_path / "m.parquet", columns))["id"].to_pylist() == [str(name) for name in names]
