"""Parts: whole or not there, checked when they are read, padded when the output gets new columns."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from checkpoint_rows import START, a_completed, an_answer, an_attempt, an_intent, ask, classify, open_store, tree
from modelled_disk import ModelledDisk, PowerCut, lose_all

from batchvision.checkpoint import Columns
from batchvision.checkpoint.disk import LocalDisk, make_folders
from batchvision.checkpoint.parts import (
    batches_of,
    dated_path,
    failures_path,
    pad_part,
    part_paths,
    read_part,
    remove_leftovers,
    row_count,
    seal,
)
from batchvision.checkpoint.registry import read_registry, register, registry_path
from batchvision.checkpoint.schema import TableSchemas, attempts_schema, results_schema
from batchvision.errors import CheckpointDamaged, DiskFailed, JobInvalid

TEXT = pa.string()
NARROW = Columns(keep=(("title", TEXT),), answers=(("answer_a", pa.int64()),))
WIDE = Columns(keep=(("title", TEXT), ("price", pa.float64())), answers=(("answer_a", pa.int64()), ("answer_b", TEXT)))
RELATIVE = "results/run_date=2026-11-20/part-0of1-run1-000001.parquet"


def a_table(columns: Columns = NARROW, rows: int = 3) -> pa.Table:
    tables = TableSchemas("night", columns, lambda text: text)
    return tables.results([a_completed(an_intent(number), values={"answer_a": number}) for number in range(rows)])


# ---------------------------------------------------------------------------------- sealing


def test_a_part_gets_its_name_when_its_bytes_are_durable_and_its_folders_are_durable_too(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path)
    part = seal(disk, tmp_path, RELATIVE, a_table())
    assert [(operation.name, operation.path.name) for operation in disk.operations] == [
        ("make_folder", "results"),
        ("sync_folder", tmp_path.name),
        ("make_folder", "run_date=2026-11-20"),
        ("sync_folder", "results"),
        ("create", ".part-0of1-run1-000001.parquet.tmp"),
        ("write", ".part-0of1-run1-000001.parquet.tmp"),
        ("sync", ".part-0of1-run1-000001.parquet.tmp"),
        ("rename", "part-0of1-run1-000001.parquet"),
        ("sync_folder", "run_date=2026-11-20"),
    ]
    assert (part.table, part.path, part.rows, len(part.sha256)) == ("results", RELATIVE, 3, 64)
    disk.after_cut(lose_all)
    assert read_part(tmp_path / RELATIVE).num_rows == 3


def test_a_cut_before_the_last_sync_leaves_the_old_part_or_none_never_half_of_one(tmp_path: Path) -> None:
    for at in range(14):
        output = tmp_path / str(at)
        output.mkdir()
        seal(LocalDisk(), output, RELATIVE, a_table(rows=1))
        disk = ModelledDisk(output, cut_at=at)
        try:
            seal(disk, output, RELATIVE, a_table(rows=2))
        except PowerCut:
            disk.after_cut(lose_all)
            assert row_count(output / RELATIVE) == 1
        else:
            assert row_count(output / RELATIVE) == 2


def test_the_same_rows_make_the_same_bytes(tmp_path: Path) -> None:
    first = seal(LocalDisk(), tmp_path, RELATIVE, a_table())
    second = seal(LocalDisk(), tmp_path, RELATIVE, a_table())
    assert first == second


def test_the_date_is_that_of_the_runs_start_in_utc() -> None:
    late = datetime(2026, 11, 20, 23, 30, tzinfo=timezone(timedelta(hours=-5)))
    assert dated_path("attempts", "0of1", "run1", late, 12) == (
        "attempts/run_date=2026-11-21/part-0of1-run1-000012.parquet"
    )
    assert failures_path("2of8") == "failures/part-2of8.parquet"


def test_leftovers_of_this_shard_go_and_those_of_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "results" / "run_date=2026-11-20"
    make_folders(LocalDisk(), folder)
    make_folders(LocalDisk(), tmp_path / "failures")
    mine, other = folder / ".part-0of2-r-000001.parquet.tmp", folder / ".part-1of2-r-000001.parquet.tmp"
    failures = tmp_path / "failures" / ".part-0of2.parquet.tmp"
    for path in (mine, other, failures):
        path.touch()
    remove_leftovers(LocalDisk(), tmp_path, "0of2")
    assert [path.exists() for path in (mine, other, failures)] == [False, True, False]
    assert part_paths(tmp_path, "results") == []


def test_replacing_a_file_leaves_no_descriptor_open_when_the_disk_is_full(tmp_path: Path) -> None:
    disk = ModelledDisk(tmp_path, fail_at=1)
    with pytest.raises(OSError, match="Input/output"):
        disk.put(tmp_path / "file", b"content")
    assert disk._open == {}


# ---------------------------------------------------------------------------------- reading


def test_a_flipped_byte_in_a_page_is_found_when_the_part_is_read(tmp_path: Path) -> None:
    seal(LocalDisk(), tmp_path, RELATIVE, a_table(rows=50))
    path = tmp_path / RELATIVE
    at = pq.ParquetFile(path).metadata.row_group(0).column(1).data_page_offset + 40
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    with pytest.raises(CheckpointDamaged, match="batchvision verify") as caught:
        read_part(path)
    assert f"`batchvision verify {tmp_path}`" in caught.value.message


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all" * 10])
def test_a_file_that_is_no_part_is_damage(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / failures_path("0of1")
    LocalDisk().put(path, content)
    for read in (read_part, row_count, lambda path: list(batches_of(path))):
        with pytest.raises(CheckpointDamaged, match=r"part-0of1\.parquet"):
            read(path)


def test_only_the_named_columns_are_read_and_no_hive_column_is_invented(tmp_path: Path) -> None:
    seal(LocalDisk(), tmp_path, RELATIVE, a_table())
    assert read_part(tmp_path / RELATIVE).column_names == results_schema(NARROW).names
    assert read_part(tmp_path / RELATIVE, ("row_id", "answer_a")).to_pylist() == [
        {"row_id": f"row{number}", "answer_a": number} for number in range(3)
    ]


# ---------------------------------------------------------------------------------- padding and the registry


def test_an_older_part_gets_the_new_columns_as_nulls_in_order(tmp_path: Path) -> None:
    seal(LocalDisk(), tmp_path, RELATIVE, a_table(NARROW))
    path = tmp_path / RELATIVE
    assert pad_part(LocalDisk(), path, results_schema(WIDE))
    table = read_part(path)
    assert table.schema.names == results_schema(WIDE).names
    assert table["answer_a"].to_pylist() == [0, 1, 2]
    assert table["price"].to_pylist() == table["answer_b"].to_pylist() == [None] * 3
    before = path.read_bytes()
    assert not pad_part(LocalDisk(), path, results_schema(WIDE))
    assert path.read_bytes() == before


def test_a_column_that_only_a_part_has_is_never_dropped(tmp_path: Path) -> None:
    seal(LocalDisk(), tmp_path, RELATIVE, a_table(NARROW).append_column("answer_old", pa.array(["x"] * 3)))
    pad_part(LocalDisk(), tmp_path / RELATIVE, results_schema(WIDE))
    assert read_part(tmp_path / RELATIVE).column_names == [*results_schema(WIDE).names, "answer_old"]


@pytest.mark.anyio
async def test_a_second_run_with_more_columns_pads_all_tables_before_its_first_part(tmp_path: Path) -> None:
    for run_id, columns in (("run1", NARROW), ("run2", WIDE)):
        number = int(run_id[3:])
        with open_store(tmp_path, run_id=run_id, columns=columns) as store:
            store.recover(classify)
            await ask(store, an_intent(number, run_id=run_id), an_answer())
            await ask(store, an_intent(number + 10, run_id=run_id), an_answer(b"no", 400))
            await store.close(complete=False)
    for path in part_paths(tmp_path, "results"):
        assert pq.read_schema(path).names == results_schema(WIDE).names
    for path in part_paths(tmp_path, "attempts"):
        assert pq.read_schema(path).names == attempts_schema(WIDE).names
    with open_store(tmp_path, columns=NARROW) as store:
        store.recover(classify)
        await store.close(complete=False)
    assert read_registry(tmp_path) == WIDE, "the list only grows"


def test_the_order_is_that_of_first_appearance(tmp_path: Path) -> None:
    disk = LocalDisk()
    register(disk, tmp_path, "night", Columns(answers=(("answer_b", TEXT), ("answer_a", TEXT))))
    found = register(disk, tmp_path, "night", Columns(answers=(("answer_c", TEXT), ("answer_a", TEXT))))
    assert [name for name, _ in found.answers] == ["answer_b", "answer_a", "answer_c"]


def test_a_column_that_is_registered_again_keeps_its_type(tmp_path: Path) -> None:
    for name in ("int8", "int64", "float32", "float64"):
        columns = Columns(keep=((name, pa.type_for_alias(name)),))
        register(LocalDisk(), tmp_path / name, "night", columns)
        assert register(LocalDisk(), tmp_path / name, "night", columns) == columns


def test_all_that_contradicts_the_registry_is_told_at_once_and_nothing_is_changed(tmp_path: Path) -> None:
    register(LocalDisk(), tmp_path, "night", NARROW)
    before = registry_path(tmp_path).read_bytes()
    wrong = Columns(keep=(("title", pa.int64()), ("answer_a", TEXT)), answers=(("answer_a", TEXT),))
    with pytest.raises(JobInvalid) as caught:
        register(LocalDisk(), tmp_path, "night", wrong)
    assert len(caught.value.problems) == 3
    assert "'title' is string in this output and would become int64" in caught.value.message
    assert all("output.path" in problem for problem in caught.value.problems)
    assert registry_path(tmp_path).read_bytes() == before


def test_an_output_belongs_to_one_job_name(tmp_path: Path) -> None:
    register(LocalDisk(), tmp_path, "night", NARROW)
    with pytest.raises(JobInvalid, match="one output belongs to one job name"):
        register(LocalDisk(), tmp_path, "day", NARROW)


@pytest.mark.parametrize("content", ["", "{}", '{"keep": [["a", "struct<b>"]], "answers": []}'])
def test_a_damaged_registry_is_damage(tmp_path: Path, content: str) -> None:
    register(LocalDisk(), tmp_path, "night", NARROW)
    registry_path(tmp_path).write_text(content)
    with pytest.raises(CheckpointDamaged, match=r"columns\.json"):
        register(LocalDisk(), tmp_path, "night", NARROW)


def test_tables_of_a_later_version_are_left_alone(tmp_path: Path) -> None:
    register(LocalDisk(), tmp_path, "night", NARROW)
    path = registry_path(tmp_path)
    path.write_text(path.read_text().replace('"table_version": 1', '"table_version": 2'))
    with pytest.raises(CheckpointDamaged, match="pip install -U"):
        register(LocalDisk(), tmp_path, "night", NARROW)


def test_a_cut_while_padding_is_repaired_by_the_next_start(tmp_path: Path) -> None:
    for at in range(0, 24, 2):
        output = tmp_path / str(at)
        output.mkdir()
        register(LocalDisk(), output, "night", NARROW)
        for name in ("1", "2"):
            seal(LocalDisk(), output, RELATIVE.replace("000001", name), a_table(NARROW))
        attempts = TableSchemas("night", NARROW, lambda text: text).attempts([an_attempt(an_intent(1))])
        seal(LocalDisk(), output, dated_path("attempts", "0of1", "run1", START, 1), attempts)
        disk = ModelledDisk(output, cut_at=at)
        try:
            register(disk, output, "night", WIDE)
        except PowerCut:
            disk.after_cut(lose_all)
        register(LocalDisk(), output, "night", Columns())
        register(LocalDisk(), output, "night", WIDE)
        assert {tuple(read_part(path).column_names) for path in part_paths(output, "results")} == {
            tuple(results_schema(WIDE).names)
        }


def test_an_unchanged_registry_writes_nothing(tmp_path: Path) -> None:
    register(LocalDisk(), tmp_path, "night", NARROW)
    seal(LocalDisk(), tmp_path, RELATIVE, a_table())
    before = tree(tmp_path)
    disk = ModelledDisk(tmp_path)
    register(disk, tmp_path, "night", NARROW)
    assert disk.operations == []
    assert tree(tmp_path) == before


def test_a_registry_that_cannot_be_written_stops_the_run(tmp_path: Path) -> None:
    for at in range(9):
        output = tmp_path / str(at)
        output.mkdir()
        with pytest.raises(DiskFailed):
            open_store(output, disk=ModelledDisk(output, fail_at=at))
        open_store(output).release()


FLIPS = """
import collections, os, pathlib, struct, sys
from batchvision.checkpoint.parts import batches_of, read_part
from batchvision.errors import CheckpointDamaged

path = pathlib.Path(sys.argv[1])
content = path.read_bytes()
footer = len(content) - 8 - struct.unpack("<I", content[-8:-4])[0]
ends = collections.Counter()
for number, at in enumerate(range(footer, len(content) - 8, 9)):
    damaged = bytearray(content)
    damaged[at] ^= 0x80 >> number % 8
    path.write_bytes(damaged)
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            list(batches_of(path, ("row_id", "output_text")))
            read_part(path)
        except CheckpointDamaged:
            os._exit(3)
        except BaseException:
            os._exit(1)
        os._exit(0)
    ends[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
print(*sorted(ends))
"""


def test_no_damage_of_a_footer_ends_the_process(tmp_path: Path) -> None:
    """pyarrow aborts where it is asked for a column chunk that a damaged footer describes."""
    path = tmp_path / RELATIVE
    seal(LocalDisk(), tmp_path, RELATIVE, a_table())
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FLIPS, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "3"], "read, or told as damage"
